//! What an order is in the tables, within one commit.
//!
//! Owns how much may be taken over, and what is written of a call and of its end. Changes nothing in memory: the lines are
//! changed when the commit is on the disk.

use std::collections::HashMap;
use std::path::Path;

use roost_proxy::function::FunctionKey;
use tracing::warn;

use super::super::Settings;
use super::super::intake::Refusal;
use super::super::invocation::Accepted;
use super::super::lines::{End, Size};
use super::super::spool::Kept;
use super::super::store::{State, StoreError, Tables, Where, result_name};
use super::{Board, Ended, Order, Outcome, now};

/// How much more may be taken over.
pub(super) struct Room<'a> {
    board: &'a Board,
    settings: &'a Settings,
    /// Of this batch.
    calls: usize,
    bytes: u64,
    own: HashMap<FunctionKey, u64>,
    /// The disk has room, beside what is needed to end what is there.
    disk: bool,
}

impl<'a> Room<'a> {
    pub(super) fn new(board: &'a Board, settings: &'a Settings, directory: &Path) -> Self {
        let disk = match nix::sys::statvfs::statvfs(directory) {
            Ok(stat) => stat.blocks_available() * stat.fragment_size() >= settings.reserve,
            Err(why) => {
                warn!("the free space of {} is not known: {why}", directory.display());
                true
            }
        };
        Self { board, settings, calls: 0, bytes: 0, own: HashMap::new(), disk }
    }

    fn take(&mut self, function: &FunctionKey, weight: u64) -> Result<(), Refusal> {
        if !self.disk {
            return Err(Refusal::DiskFull);
        }
        let Size { calls, bytes, own } = self.board.lines().size(function);
        let mine = self.own.entry(function.clone()).or_default();
        check(self.settings, calls + self.calls, bytes + self.bytes, own + *mine, weight)?;
        self.calls += 1;
        self.bytes += weight;
        *mine += weight;
        Ok(())
    }
}

/// Is there room for `weight` bytes more, where there are so many calls and bytes, and so many of the function?
pub(in crate::queue) fn check(
    settings: &Settings,
    calls: usize,
    bytes: u64,
    own: u64,
    weight: u64,
) -> Result<(), Refusal> {
    if calls >= settings.max_calls || bytes + weight > settings.max_size {
        return Err(Refusal::Full);
    }
    if own + weight > settings.share() {
        return Err(Refusal::Share);
    }
    Ok(())
}

/// Does what an order asks for.
pub(super) fn write(
    tables: &mut Tables<'_>,
    order: &Order,
    board: &Board,
    settings: &Settings,
    room: &mut Room<'_>,
    number: &mut u64,
    now: i64,
) -> Result<Outcome, StoreError> {
    match order {
        Order::Append { call, body, .. } => {
            if let Err(why) = room.take(&call.function, call.weight() + body.length()) {
                return Ok(Outcome::Refused(why));
            }
            let known_for = i64::try_from(settings.idempotency.as_millis()).unwrap_or(i64::MAX);
            let accepted = tables.append(*number, call, body, now, known_for)?;
            let own = *number;
            *number += u64::from(accepted == Accepted::New);
            Ok(Outcome::Appended(own, accepted))
        }
        Order::End { function, number, ended } => {
            let over = board.lines().is_over(function, *number);
            end(tables, *number, ended, over, now)
        }
        Order::Cancel { id, functions, .. } => {
            for number in board.lines().cancellable(id, functions) {
                tables.remove(number)?;
            }
            Ok(Outcome::Nothing)
        }
        Order::Forget(function) => {
            for number in board.lines().numbers(function) {
                tables.remove(number)?;
            }
            Ok(Outcome::Nothing)
        }
        Order::Known { id, .. } => {
            let mut functions = board.lines().functions_of(id);
            for name in tables.results_of(id)? {
                let function = name.rsplit_once('\0').and_then(|(_, key)| FunctionKey::from_route(key).ok());
                functions.extend(function.filter(|function| !functions.contains(function)));
            }
            Ok(Outcome::Known(functions))
        }
        Order::Result { id, functions, .. } => {
            for function in functions {
                if let Some(result) = tables.result(&format!("{id}\0{function}"))? {
                    return Ok(Outcome::Result(Some(Some(result))));
                }
            }
            let known = board.lines().functions_of(id);
            Ok(Outcome::Result(functions.iter().any(|function| known.contains(function)).then_some(None)))
        }
        Order::Look(_) | Order::Stop => Ok(Outcome::Nothing),
    }
}

/// Notes the end of a turn. `over`: nobody wants the call any more; `None`: it is none of ours by now.
fn end(
    tables: &mut Tables<'_>,
    number: u64,
    ended: &Ended,
    over: Option<bool>,
    now: i64,
) -> Result<Outcome, StoreError> {
    let mut files = Vec::new();
    if over != Some(false) || ended.is_over() {
        match ended {
            Ended::Done { result: Some(result) } | Ended::Dead { result: Some(result) } if over.is_some() => {
                if let Some(loaded) = tables.load(number)? {
                    let until = now.saturating_add_unsigned(result.keep);
                    let (name, answer) = (result_name(&loaded.call), result.answer.clone());
                    files.extend(tables.put_result(&name, answer, result.body.as_ref(), until)?);
                }
            }
            Ended::Done { result: Some(result) } | Ended::Dead { result: Some(result) } => {
                files.extend(result.body.as_ref().and_then(Kept::file).cloned());
            }
            Ended::Answered { body: Some(body), .. } => files.extend(body.file().cloned()),
            _ => {}
        }
        tables.remove(number)?;
        return Ok(Outcome::Ended(files));
    }
    let state = tables.state(number)?;
    match ended {
        Ended::Again { due } => {
            tables.put_state(number, &State { begun: false, due: *due, ..state })?;
        }
        Ended::NotTaken { .. } => {
            let attempts = state.attempts.saturating_sub(1);
            tables.put_state(number, &State { begun: false, attempts, ..state })?;
        }
        Ended::Answered { answer, body, due, times, .. } => {
            let place = match (body, state.answer) {
                (Some(body), _) => {
                    tables.put_answer(number, body)?;
                    Where::of(body)
                }
                (None, Some((_, place, _))) => place,
                (None, None) => Where::Table(0),
            };
            let answer = Some((answer.clone(), place, *times));
            tables.put_state(number, &State { begun: false, due: *due, answer, ..state })?;
        }
        Ended::Done { .. } | Ended::Dead { .. } | Ended::Cancelled => {}
    }
    Ok(Outcome::Ended(files))
}

/// The same for the lines.
pub(in crate::queue) fn end_of(ended: &Ended, settings: &Settings) -> End {
    match ended {
        Ended::Done { .. } => End::Done,
        Ended::Dead { .. } => End::Dead,
        // The token of such a call says that it is over.
        Ended::Cancelled => End::PutBack,
        Ended::Again { due } => End::Again { due: *due },
        Ended::Answered { body, due, dead, .. } => {
            let file = body.as_ref().and_then(Kept::file).map(|file| file.name().into());
            End::Answered { due: *due, file, dead: *dead }
        }
        Ended::NotTaken { failure } => {
            let now = now();
            let limit = i64::try_from(settings.retry_for.as_millis()).unwrap_or(i64::MAX);
            End::NotTaken { now, over: now.saturating_sub(limit), failure: failure.clone() }
        }
    }
}
