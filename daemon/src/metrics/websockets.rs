//! The part of the page that is about WebSockets: those that are passed on, and those that are held here.
//!
//! What is zero is left out: most functions have no WebSockets, and none all kinds of frames.

use std::collections::BTreeMap;
use std::time::Duration;

use roost_proxy::websocket::{DROPS, EVENTS, EventTotals, HistoryFigures, OUTCOMES, RETURNS, Reason};
use roost_proxy::{Distribution, FANOUTS, FRAME_TYPES, LIVES, SIZES, Spread, WebSockets};

use super::collect::{Function, Snapshot};
use super::families as f;
use super::text::{Family, Page};
use crate::deadletters::{Figures, Kept, Lost};

/// The ways in which a WebSocket is dealt with.
const PASS: &str = "pass";
const EVENT: &str = "event";

const DIRECTIONS: [&str; 2] = ["in", "out"];

/// Writes it.
pub(super) fn write(page: &mut Page, functions: &[(&str, &Function)], snapshot: &Snapshot) {
    let Snapshot { groups, fanned_out, fanouts, resumed, history, .. } = snapshot;
    frames(page, functions);
    spreads(page, functions);
    closes(page, functions);
    both(page, &f::WS_PINGS, functions, |of| of.pings, |of| of.pings);
    both(page, &f::WS_PONG_TIMEOUTS, functions, |of| of.unanswered, |of| of.unanswered_pings);
    open(page, functions);
    handshakes(page, functions);
    lengths(page, functions);
    events(page, functions);
    let mut untracked = page.family(&f::WS_UNTRACKED);
    for (name, function) in functions.iter().filter(|(_, function)| function.totals.websockets.untracked > 0)
    {
        untracked.add(&[name], function.totals.websockets.untracked);
    }
    let mut handed = page.family(&f::WS_HANDED_OVER);
    for (outcome, count) in ["resumed", "lost"].iter().zip(*resumed) {
        handed.add(&[outcome], count);
    }
    page.number(&f::WS_GROUPS, groups[0]);
    page.number(&f::WS_GROUP_MEMBERS, groups[1]);
    page.number(&f::WS_FANOUT, fanned_out);
    page.family(&f::WS_FANOUT_SECONDS).spread(&[], &FANOUTS, fanouts);
    of_history(page, *history);
}

/// What is kept of groups, and those who watch them.
fn of_history(page: &mut Page, history: HistoryFigures) {
    let HistoryFigures { groups, bytes, streams, events, behind, resumed, lost } = history;
    page.number(&f::WS_HISTORY_GROUPS, groups);
    page.number(&f::WS_HISTORY_BYTES, bytes);
    page.number(&f::WS_STREAMS, streams);
    page.number(&f::WS_STREAM_EVENTS, events);
    page.number(&f::WS_STREAMS_BEHIND, behind);
    let mut resumes = page.family(&f::WS_STREAM_RESUMES);
    resumes.add(&["whole"], resumed);
    resumes.add(&["lost"], lost);
}

fn frames(page: &mut Page, functions: &[(&str, &Function)]) {
    let counted = |of: fn(&str) -> bool| {
        functions.iter().flat_map(move |(name, function)| {
            let ways = DIRECTIONS.iter().zip(&function.totals.websockets.frames);
            ways.flat_map(move |(dir, counts)| {
                let some =
                    FRAME_TYPES.iter().zip(counts).filter(move |(kind, count)| of(kind) && **count > 0);
                some.map(move |(kind, count)| (*name, *dir, *kind, *count))
            })
        })
    };
    let mut frames = page.family(&f::WS_FRAMES);
    for (name, dir, kind, count) in counted(|_| true) {
        frames.add(&[name, PASS, dir, kind], count);
    }
    for (name, function) in functions {
        for (dir, counts) in DIRECTIONS.iter().zip(&function.totals.events.frames) {
            for (kind, count) in FRAME_TYPES.iter().zip(counts).filter(|(_, count)| **count > 0) {
                frames.add(&[name, EVENT, dir, kind], *count);
            }
        }
    }
    // Each message has exactly one frame of its own kind.
    let mut messages = page.family(&f::WS_MESSAGES);
    for (name, dir, kind, count) in counted(|kind| matches!(kind, "text" | "binary")) {
        messages.add(&[name, PASS, dir, kind], count);
    }
    for (name, dir, count) in held(functions, |of| of.messages) {
        messages.add(&[name, EVENT, dir, ""], count);
    }
    let mut bytes = page.family(&f::WS_BYTES);
    for (name, function) in functions {
        let (all, held) = (function.metered.bytes, function.totals.events.bytes);
        for ((dir, all), held) in DIRECTIONS.iter().zip(all).zip(held) {
            // The two were not read at one instant.
            let ways = [(PASS, all.saturating_sub(held)), (EVENT, held)];
            for (mode, count) in ways.into_iter().filter(|(_, count)| *count > 0) {
                bytes.add(&[name, mode, dir], count);
            }
        }
    }
}

/// How long messages are, and how long connections were open.
fn spreads(page: &mut Page, functions: &[(&str, &Function)]) {
    let mut sizes = page.family(&f::WS_SIZES);
    for (name, function) in functions {
        let totals = &function.totals;
        for (mode, of) in [(PASS, &totals.websockets.sizes), (EVENT, &totals.events.sizes)] {
            for (dir, sizes_of) in DIRECTIONS.iter().zip(of).filter(|(_, of)| of.count() > 0) {
                sizes.spread(&[name, mode, dir], &SIZES, sizes_of);
            }
        }
    }
    let mut lives = page.family(&f::WS_LIVES);
    for (name, function) in functions {
        let totals = &function.totals;
        let both: [(_, &Spread); 2] = [(PASS, &totals.websockets.lives), (EVENT, &totals.events.lives)];
        for (mode, of) in both.into_iter().filter(|(_, of)| of.count() > 0) {
            lives.spread(&[name, mode], &LIVES, of);
        }
    }
}

fn open(page: &mut Page, functions: &[(&str, &Function)]) {
    let mut open = page.family(&f::WS_CONNECTIONS);
    for (name, function) in functions {
        let states = [("opening", function.held.opening), ("open", function.totals.events.open)];
        for (state, count) in states.into_iter().filter(|(_, count)| *count > 0) {
            open.add(&[name, EVENT, state], count as u64);
        }
    }
    let mut passed = page.family(&f::WS_REPLICA);
    for (name, function) in functions {
        for (replica, count) in &function.passed {
            passed.add(&[name, replica.as_str()], *count as u64);
        }
    }
    let mut unsent = page.family(&f::WS_OUTBOUND);
    for (name, function) in functions.iter().filter(|(_, function)| function.held.unsent > 0) {
        unsent.add(&[name], function.held.unsent as u64);
    }
}

fn handshakes(page: &mut Page, functions: &[(&str, &Function)]) {
    let all = || {
        functions.iter().flat_map(|(name, function)| {
            let totals = &function.totals;
            let ways = [(PASS, &totals.websockets.handshakes), (EVENT, &totals.events.handshakes)];
            ways.into_iter().map(move |(mode, handshakes)| (*name, mode, handshakes))
        })
    };
    let mut total = page.family(&f::WS_HANDSHAKES);
    for (name, mode, handshakes) in all() {
        for one in handshakes {
            total.add(&[name, mode, &shown(one.status), one.reason], one.took.count());
        }
    }
    let mut seconds = page.family(&f::WS_HANDSHAKE_SECONDS);
    for (name, mode, handshakes) in all() {
        let mut by_status = BTreeMap::<Option<u16>, Distribution>::new();
        for one in handshakes {
            by_status.entry(one.status).or_default().add(&one.took);
        }
        for (status, took) in by_status {
            seconds.distribution(&[name, mode, &shown(status)], &took);
        }
    }
}

fn lengths(page: &mut Page, functions: &[(&str, &Function)]) {
    let mut some = |family: &'static Family, length: fn(&Function) -> Duration| {
        let mut samples = page.family(family);
        for (name, function) in functions.iter().filter(|(_, function)| !length(function).is_zero()) {
            samples.add(&[name], length(function).as_secs_f64());
        }
    };
    some(&f::WS_CONNECTION_SECONDS, |function| function.metered.connection);
    some(&f::WS_ACTIVE_SECONDS, |function| function.metered.active);
}

/// A number that is counted apart, or the word for all that are not.
fn shown(number: Option<u16>) -> String {
    number.map_or_else(|| "other".to_owned(), |number| number.to_string())
}

/// What of a pair of numbers is not zero, in each direction.
fn held<'a>(
    functions: &'a [(&'a str, &'a Function)],
    of: fn(&EventTotals) -> [u64; 2],
) -> impl Iterator<Item = (&'a str, &'static str, u64)> {
    let both = functions.iter().flat_map(move |(name, function)| {
        let counts = DIRECTIONS.into_iter().zip(of(&function.totals.events));
        counts.map(move |(dir, count)| (*name, dir, count))
    });
    both.filter(|(_, _, count)| *count > 0)
}

fn closes(page: &mut Page, functions: &[(&str, &Function)]) {
    let mut closes = page.family(&f::WS_CLOSES);
    for (name, function) in functions {
        for (code, by, count) in &function.totals.websockets.closes {
            closes.add(&[name, PASS, &shown(*code), by.name(), ""], *count);
        }
        for ((code, by, category), count) in &function.totals.events.ends {
            closes.add(&[name, EVENT, &shown(*code), by.name(), category.name()], *count);
        }
    }
}

/// A number of those that are passed on, and one of those that are held.
fn both(
    page: &mut Page,
    family: &'static Family,
    functions: &[(&str, &Function)],
    passed: fn(&WebSockets) -> u64,
    held: fn(&EventTotals) -> u64,
) {
    let mut samples = page.family(family);
    for (name, function) in functions {
        let totals = &function.totals;
        for (mode, count) in [(PASS, passed(&totals.websockets)), (EVENT, held(&totals.events))] {
            if count > 0 {
                samples.add(&[name, mode], count);
            }
        }
    }
}

/// What functions could not be brought to deal with.
pub(super) fn dead_letters(page: &mut Page, functions: &[(&str, &Function)], letters: &Figures) {
    let mut dead = page.family(&f::WS_DEAD_LETTERS);
    for (name, function) in functions {
        let counts = Reason::ALL.iter().zip(function.totals.events.dead);
        for (reason, count) in counts.filter(|(_, count)| *count > 0) {
            dead.add(&[name, reason.name()], count);
        }
    }
    let mut kept = |family: &'static Family, number: fn(&Kept) -> u64| {
        let mut samples = page.family(family);
        for (function, of) in &letters.kept {
            samples.add(&[&function.to_string()], number(of));
        }
    };
    kept(&f::DEAD_LETTERS, |of| of.letters as u64);
    kept(&f::DEAD_LETTER_BYTES, |of| of.bytes);
    let mut lost = page.family(&f::DEAD_LETTERS_LOST);
    for (why, count) in Lost::ALL.iter().zip(letters.lost) {
        lost.add(&[why.name()], count);
    }
    let mut redriven = page.family(&f::DEAD_LETTERS_REDRIVEN);
    for (outcome, count) in ["done", "failed"].iter().zip(letters.redriven) {
        redriven.add(&[outcome], count);
    }
}

fn events(page: &mut Page, functions: &[(&str, &Function)]) {
    let mut events = page.family(&f::WS_EVENTS);
    for (name, function) in functions {
        for (event, counts) in EVENTS.iter().zip(&function.totals.events.events) {
            for (outcome, count) in OUTCOMES.iter().zip(counts).filter(|(_, count)| **count > 0) {
                events.add(&[name, event, outcome], *count);
            }
        }
    }
    let mut seconds = page.family(&f::WS_EVENT_SECONDS);
    for (name, function) in functions {
        let took = EVENTS.iter().zip(&function.totals.events.seconds);
        for (event, took) in took.filter(|(_, took)| took.count() > 0) {
            seconds.distribution(&[name, event], took);
        }
    }
    let mut dropped = page.family(&f::WS_DROPPED);
    for (name, function) in functions {
        let counts = DROPS.iter().zip(function.totals.events.dropped);
        for (reason, count) in counts.filter(|(_, count)| *count > 0) {
            dropped.add(&[name, reason], count);
        }
    }
    let mut resumes = page.family(&f::WS_RESUMES);
    for (name, function) in functions {
        let counts = RETURNS.iter().zip(&function.totals.events.returns);
        for (outcome, count) in counts.filter(|(_, count)| **count > 0) {
            resumes.add(&[name, outcome], *count);
        }
    }
    let mut some = |family: &'static Family, number: fn(&EventTotals) -> u64| {
        let mut samples = page.family(family);
        for (name, function) in functions {
            let count = number(&function.totals.events);
            if count > 0 {
                samples.add(&[name], count);
            }
        }
    };
    some(&f::WS_EVENT_RETRIES, |of| of.retries);
    some(&f::WS_AUTORESPONSES, |of| of.answered_here);
    some(&f::WS_MAILBOX, |of| of.waiting as u64);
    let mut times = |family: &'static Family, of: fn(&EventTotals) -> &Distribution| {
        let mut samples = page.family(family);
        let all = functions.iter().map(|(name, function)| (name, of(&function.totals.events)));
        for (name, took) in all.filter(|(_, took)| took.count() > 0) {
            samples.distribution(&[name], took);
        }
    };
    times(&f::WS_QUEUE_WAIT, |of| &of.waits);
    times(&f::WS_PING_RTT, |of| &of.round_trips);
}
