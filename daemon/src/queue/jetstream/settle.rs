//! The end of a turn, at the server.
//!
//! Owns the order in which things are written: what a call has come to before the call is given back, its result before it
//! is over. Where the server cannot be had, the call comes again to some node when its time is up.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use tokio::time::timeout;
use tracing::warn;

use super::super::keeper::{Ended, Resulted, now};
use super::super::spool::Spool;
use super::super::store::Loaded;
use super::names::result_key;
use super::pull::{Held, nak};
use super::server::{Failed, PATIENCE, Progress, ResultHead, Server, TRANSFER, failed, frame, within};

/// How often it is tried to have the end of a call acknowledged, and how long each try may take: together as long as a call
/// is waited for.
const TRIES: u32 = 6;
const TRY: Duration = Duration::from_secs(5);

/// When a call comes again that nobody took, for whichever node it is.
pub(super) const NOT_TAKEN: Duration = Duration::from_secs(1);

/// What became of a call that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is over.
    Over,
    /// It is to come again, here or elsewhere.
    GivenBack,
}

/// Ends a turn. `attempts` are those that it has had, `forgotten`: its function is not here any more.
pub(super) async fn settle(
    server: &Server,
    spool: &Spool,
    number: u64,
    (loaded, held): (&Loaded, &Held),
    ended: Ended,
    attempts: u32,
    forgotten: bool,
) -> Settled {
    if forgotten {
        return give_back(server, held, Duration::ZERO).await;
    }
    match ended {
        Ended::Done { result } | Ended::Dead { result } => {
            if let Some(result) = result
                && let Err(why) = keep(server, spool, loaded, result).await
            {
                warn!(function = %loaded.call.function, "{}: a result is not kept: {why}", loaded.call.function);
            }
            over(server, number, loaded, held).await
        }
        Ended::Cancelled => over(server, number, loaded, held).await,
        Ended::Again { due } => {
            let progress = Progress { attempts, due, answer: None, object: None };
            note(server, number, loaded, &progress, &[]).await;
            give_back(server, held, until(due)).await
        }
        Ended::Answered { answer, body, due, times, dead: _ } => {
            let (body, object) = match &body {
                Some(body) => match within(TRANSFER, server.put_body(&server.bodies, spool, body)).await {
                    Ok(put) => put,
                    Err(why) => {
                        warn!(function = %loaded.call.function, "{}: an answer is not kept: {why}", loaded.call.function);
                        return give_back(server, held, until(due)).await;
                    }
                },
                None => match &loaded.answer {
                    Some((_, kept, _)) if held.objects[1].is_none() => {
                        (spool.read_all(kept).await.unwrap_or_default(), None)
                    }
                    _ => (bytes::Bytes::new(), held.objects[1].clone()),
                },
            };
            let progress = Progress { attempts, due, answer: Some((answer, times)), object };
            note(server, number, loaded, &progress, &body).await;
            give_back(server, held, until(due)).await
        }
        Ended::NotTaken { .. } => give_back(server, held, NOT_TAKEN).await,
    }
}

/// Notes how far a call is, before it is given back: it would be made once more.
async fn note(server: &Server, number: u64, loaded: &Loaded, progress: &Progress, body: &[u8]) {
    let mut why = None;
    for _ in 0..TRIES {
        match server.put_progress(number, progress, body).await {
            Ok(()) => return,
            Err(failed) => why = Some(failed),
        }
        tokio::time::sleep(TRY / 5).await;
    }
    if let Some(why) = why {
        let function = &loaded.call.function;
        warn!(%function, "{function}: how far a call is was not noted, and it may be made once more: {why}");
    }
}

pub(super) async fn give_back(server: &Server, held: &Held, pause: Duration) -> Settled {
    if let Err(why) = nak(server, &held.acker, AckKind::Nak(Some(pause))).await {
        tracing::debug!("a call was not given back, and comes again when its time is up: {why}");
    }
    Settled::GivenBack
}

/// Has the server know that a call is over.
async fn over(server: &Server, number: u64, loaded: &Loaded, held: &Held) -> Settled {
    let mut why = "no answer".to_owned();
    for _ in 0..TRIES {
        match timeout(TRY, held.acker.double_ack()).await {
            Ok(Ok(())) => {
                if held.has_progress {
                    server.forget_progress(number).await;
                }
                for object in &held.objects {
                    server.discard(object.as_ref()).await;
                }
                return Settled::Over;
            }
            Ok(Err(error)) => {
                why = error.to_string();
                tokio::time::sleep(TRY / 5).await;
            }
            Err(_) => {}
        }
    }
    let function = &loaded.call.function;
    warn!(%function, call_id = loaded.call.id, "{function}: the end of a call is not known to the server, and it is made once more: {why}");
    Settled::GivenBack
}

/// Keeps an answer for whoever asks.
async fn keep(server: &Server, spool: &Spool, loaded: &Loaded, result: Resulted) -> Result<(), Failed> {
    let Resulted { answer, body, keep } = result;
    let (rest, object) = match &body {
        Some(body) => within(TRANSFER, server.put_body(&server.answers, spool, body)).await?,
        None => (bytes::Bytes::new(), None),
    };
    let head =
        ResultHead { answer, until: now().saturating_add_unsigned(keep), has_body: body.is_some(), object };
    let key = result_key(&loaded.call.id, &loaded.call.function);
    let value = frame(&head, &rest)?;
    within(PATIENCE, async { server.results.put(key, value).await.map(drop).map_err(failed) }).await
}

fn until(due: i64) -> Duration {
    Duration::from_millis(u64::try_from(due.saturating_sub(now())).unwrap_or(0))
}
