//! Questions about calls, which may be anywhere: at the server, or with another node.

use std::collections::BTreeSet;

use async_nats::jetstream::stream::{DeleteMessageErrorKind, RawMessageErrorKind};
use futures_util::TryStreamExt;
use roost_proxy::function::FunctionKey;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use super::super::keeper::{Ready, now};
use super::super::spool::Kept;
use super::names::{of_result_key, of_subject, result_key, token};
use super::server::{Failed, ResultHead, Server, failed, head_of, parse};

/// How many calls of one id and function are ended at once.
const MOST: usize = 100;

/// Calls that nobody wants any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cancelled {
    pub(super) id: String,
    /// As in routes.
    pub(super) functions: Vec<String>,
}

impl Server {
    /// Whose calls, and whose results, are known by an id.
    pub(super) async fn functions_of(&self, id: &str) -> Result<Vec<FunctionKey>, Failed> {
        let mut functions = BTreeSet::new();
        for subject in self.subjects_of(id).await? {
            functions.extend(of_subject(&subject).map(|(function, _)| function));
        }
        let keys = format!("$KV.{}.{}.>", self.names.bucket("results"), token(id));
        let found = self.results.stream.info_with_subjects(keys).await.map_err(failed)?;
        let found: Vec<(String, usize)> = found.try_collect().await.map_err(failed)?;
        functions.extend(found.iter().filter_map(|(key, _)| of_result_key(key)));
        Ok(functions.into_iter().collect())
    }

    /// The subjects of the calls of an id that are not over.
    async fn subjects_of(&self, id: &str) -> Result<Vec<String>, Failed> {
        let found = self.calls.info_with_subjects(self.names.of_id(id)).await.map_err(failed)?;
        let found: Vec<(String, usize)> = found.try_collect().await.map_err(failed)?;
        Ok(found.into_iter().map(|(subject, _)| subject).collect())
    }

    /// Removes the calls of an id and these functions: of which function each was. Whoever is at one of them is told.
    pub(super) async fn cancel(
        &self,
        id: &str,
        functions: &[FunctionKey],
    ) -> Result<Vec<FunctionKey>, Failed> {
        let mut gone = Vec::new();
        let removed = self.remove(id, functions, &mut gone).await;
        let told =
            Cancelled { id: id.to_owned(), functions: functions.iter().map(ToString::to_string).collect() };
        let told = serde_json::to_vec(&told).map_err(failed)?;
        self.client.publish(self.names.told("cancelled"), told.into()).await.map_err(failed)?;
        removed.map(|()| gone)
    }

    async fn remove(
        &self,
        id: &str,
        functions: &[FunctionKey],
        gone: &mut Vec<FunctionKey>,
    ) -> Result<(), Failed> {
        for subject in self.subjects_of(id).await? {
            let function = of_subject(&subject).map(|(function, _)| function);
            let Some(function) = function.filter(|function| functions.contains(function)) else { continue };
            for _ in 0..MOST {
                let message = match self.calls.get_last_raw_message_by_subject(&subject).await {
                    Ok(message) => message,
                    Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
                    Err(error) => return Err(failed(error)),
                };
                match self.calls.delete_message(message.sequence).await {
                    Ok(_) => gone.push(function.clone()),
                    // It has just ended.
                    Err(error) if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_)) => break,
                    Err(error) => return Err(failed(error)),
                }
                self.forget_progress(message.sequence).await;
                self.discard(head_of(Some(&message.headers)).ok().and_then(|head| head.body).as_ref()).await;
            }
        }
        Ok(())
    }

    /// A result; `Some(None)` if the call is not over.
    pub(super) async fn result(&self, id: &str, functions: &[FunctionKey]) -> Result<Option<Ready>, Failed> {
        for function in functions {
            let Some(value) = self.results.get(result_key(id, function)).await.map_err(failed)? else {
                continue;
            };
            let (head, rest): (ResultHead, _) = parse(&value)?;
            if head.until <= now() {
                continue;
            }
            let body = match &head.object {
                Some((name, length)) => {
                    let mut object = self.answers.get(name).await.map_err(failed)?;
                    let mut bytes = Vec::with_capacity(usize::try_from(*length).unwrap_or(0));
                    object.read_to_end(&mut bytes).await.map_err(failed)?;
                    Some(Kept::Inline(bytes.into()))
                }
                None => head.has_body.then_some(Kept::Inline(rest)),
            };
            return Ok(Some(Some((head.answer, body))));
        }
        let open = self.subjects_of(id).await?;
        let open =
            open.iter().filter_map(|subject| of_subject(subject)).any(|(of, _)| functions.contains(&of));
        Ok(open.then_some(None))
    }
}
