//! The lines of calls: one a function, first come first begun, so many at once.
//!
//! Owns which call is next and what was counted. Pure: it makes no call and knows no time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use roost_proxy::function::FunctionKey;
use tokio_util::sync::CancellationToken;

use super::delivery::Manners;

/// A function's part of the queue, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueLoad {
    /// Calls that have not begun.
    pub pending: usize,
    /// Calls that have begun: at the function, waiting for another attempt, or with their callback.
    pub in_flight: usize,
    /// Calls that were taken over, ever.
    pub submitted_total: u64,
    /// Calls that came to an end of their own, good or bad, ever.
    pub processed_total: u64,
    /// Calls that were cancelled, or dropped with their function, ever.
    pub dropped_total: u64,
}

/// What is known of a call here.
pub(super) trait Identified {
    fn function(&self) -> &FunctionKey;
    fn id(&self) -> &[u8];
}

/// All lines.
pub(super) struct Lines<C> {
    of: HashMap<FunctionKey, Line<C>>,
    /// How many calls of one function may be begun at once.
    concurrency: usize,
    /// The number of the last call that was begun.
    last: u64,
}

struct Line<C> {
    pending: VecDeque<C>,
    begun: Vec<Begun>,
    manners: Arc<Manners>,
    submitted: u64,
    processed: u64,
    dropped: u64,
}

struct Begun {
    number: u64,
    id: Box<[u8]>,
    cancelled: CancellationToken,
}

/// A call whose turn it is.
pub(super) struct Turn<C> {
    pub(super) call: C,
    /// By this it is [ended](Lines::end).
    pub(super) number: u64,
    /// What the calls of its function know of each other.
    pub(super) manners: Arc<Manners>,
    pub(super) cancelled: CancellationToken,
}

impl<C> Default for Line<C> {
    fn default() -> Self {
        Self {
            pending: VecDeque::new(),
            begun: Vec::new(),
            manners: Arc::default(),
            submitted: 0,
            processed: 0,
            dropped: 0,
        }
    }
}

impl<C: Identified> Lines<C> {
    pub(super) fn new(concurrency: usize) -> Self {
        Self { of: HashMap::new(), concurrency, last: 0 }
    }

    /// Puts a call at the end of its function's line.
    pub(super) fn push(&mut self, call: C) {
        let line = self.of.entry(call.function().clone()).or_default();
        line.submitted += 1;
        line.pending.push_back(call);
    }

    /// The next call of the function, if another one may begin.
    pub(super) fn begin(&mut self, function: &FunctionKey) -> Option<Turn<C>> {
        let line = self.of.get_mut(function).filter(|line| line.begun.len() < self.concurrency)?;
        let call = line.pending.pop_front()?;
        self.last += 1;
        let (number, cancelled) = (self.last, CancellationToken::new());
        line.begun.push(Begun { number, id: call.id().into(), cancelled: cancelled.clone() });
        Some(Turn { call, number, manners: Arc::clone(&line.manners), cancelled })
    }

    /// How many calls of a function are not over.
    pub(super) fn waiting(&self, function: &FunctionKey) -> u64 {
        self.of.get(function).map_or(0, |line| (line.pending.len() + line.begun.len()) as u64)
    }

    /// A call that was begun is over.
    pub(super) fn end(&mut self, function: &FunctionKey, number: u64) {
        // The function may have been forgotten, and may even be there again: then the number is none of its.
        let Some(line) = self.of.get_mut(function) else { return };
        let Some(at) = line.begun.iter().position(|begun| begun.number == number) else { return };
        let begun = line.begun.swap_remove(at);
        *(if begun.cancelled.is_cancelled() { &mut line.dropped } else { &mut line.processed }) += 1;
    }

    /// Whose calls are known by this id, whether they have begun or not.
    pub(super) fn functions_of(&self, id: &str) -> Vec<FunctionKey> {
        let id = id.as_bytes();
        let has = |line: &Line<C>| {
            line.pending.iter().any(|call| call.id() == id) || line.begun.iter().any(|begun| *begun.id == *id)
        };
        self.of.iter().filter(|(_, line)| has(line)).map(|(key, _)| key.clone()).collect()
    }

    /// Drops the calls of this id and these functions that have not begun, and tells those that have. How many there
    /// were of both.
    pub(super) fn cancel(&mut self, id: &str, functions: &[FunctionKey]) -> usize {
        let mut found = 0;
        for line in self.of.iter_mut().filter_map(|(key, line)| functions.contains(key).then_some(line)) {
            let before = line.pending.len();
            line.pending.retain(|call| call.id() != id.as_bytes());
            let removed = before - line.pending.len();
            line.dropped += removed as u64;
            found += removed;
            for begun in line.begun.iter().filter(|begun| *begun.id == *id.as_bytes()) {
                begun.cancelled.cancel();
                found += 1;
            }
        }
        found
    }

    /// Drops all of a function that is no more, but for calls that are at it. How many had not begun.
    pub(super) fn forget(&mut self, function: &FunctionKey) -> usize {
        let Some(line) = self.of.remove(function) else { return 0 };
        line.manners.say_goodbye();
        line.pending.len()
    }

    /// Drops all that have not begun, and counts them with those that have.
    pub(super) fn clear(&mut self) -> usize {
        self.of.drain().map(|(_, line)| line.pending.len() + line.begun.len()).sum()
    }

    /// Is there nothing to do?
    pub(super) fn is_idle(&self) -> bool {
        self.of.values().all(|line| line.pending.is_empty() && line.begun.is_empty())
    }

    /// What is going on, by function.
    pub(super) fn loads(&self) -> Vec<(FunctionKey, QueueLoad)> {
        self.of.iter().map(|(key, line)| (key.clone(), line.load())).collect()
    }
}

impl<C> Line<C> {
    fn load(&self) -> QueueLoad {
        QueueLoad {
            pending: self.pending.len(),
            in_flight: self.begun.len(),
            submitted_total: self.submitted,
            processed_total: self.processed,
            dropped_total: self.dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Call(FunctionKey, &'static str);

    impl Identified for Call {
        fn function(&self) -> &FunctionKey {
            &self.0
        }

        fn id(&self) -> &[u8] {
            self.1.as_bytes()
        }
    }

    fn key(name: &str) -> FunctionKey {
        FunctionKey::from_route(name).unwrap()
    }

    fn lines(concurrency: usize, calls: &[(&str, &'static str)]) -> Lines<Call> {
        let mut lines = Lines::new(concurrency);
        for (function, id) in calls {
            lines.push(Call(key(function), id));
        }
        lines
    }

    fn begin(lines: &mut Lines<Call>, function: &str) -> Option<(&'static str, u64)> {
        lines.begin(&key(function)).map(|turn| (turn.call.1, turn.number))
    }

    fn load(lines: &Lines<Call>, function: &str) -> QueueLoad {
        lines.loads().into_iter().find(|(of, _)| *of == key(function)).unwrap().1
    }

    #[test]
    fn calls_of_a_function_begin_in_their_order_and_so_many_at_once() {
        let mut lines = lines(2, &[("f", "1"), ("g", "a"), ("f", "2"), ("f", "3"), ("f", "4")]);
        let (first, second) = (begin(&mut lines, "f").unwrap(), begin(&mut lines, "f").unwrap());
        assert_eq!((first.0, second.0, begin(&mut lines, "f")), ("1", "2", None));
        assert_eq!(begin(&mut lines, "g").unwrap().0, "a", "another function has a line of its own");
        lines.end(&key("f"), second.1);
        assert_eq!(begin(&mut lines, "f").unwrap().0, "3");
        assert_eq!(begin(&mut lines, "f"), None);
        let load = load(&lines, "f");
        assert_eq!((load.pending, load.in_flight, load.submitted_total, load.processed_total), (1, 2, 4, 1));
        assert!(!lines.is_idle());
    }

    #[test]
    fn a_cancelled_call_never_begins_or_is_told_and_others_keep_their_places() {
        let mut lines = lines(1, &[("f", "x"), ("f", "y"), ("f", "x"), ("f", "z"), ("g", "x")]);
        let turn = lines.begin(&key("f")).unwrap();
        let both = [key("f"), key("g")];
        let mut found = lines.functions_of("x");
        found.sort();
        assert_eq!((found.as_slice(), lines.functions_of("nobody")), (&both[..], Vec::new()));
        assert_eq!(lines.cancel("nobody", &both), 0);
        assert_eq!(lines.cancel("x", &[]), 0);
        assert_eq!(lines.cancel("x", &both[..1]), 2, "ids of clients need not be unique");
        assert_eq!((lines.functions_of("x").len(), load(&lines, "g").pending), (2, 1));
        assert_eq!(lines.cancel("x", &both[1..]), 1);
        assert!(turn.cancelled.is_cancelled());
        assert_eq!(begin(&mut lines, "f"), None, "it holds its place until it has ended");
        lines.end(&key("f"), turn.number);
        assert_eq!(begin(&mut lines, "f").unwrap().0, "y");
        assert_eq!(begin(&mut lines, "g"), None);
        let load = load(&lines, "f");
        assert_eq!((load.pending, load.processed_total, load.dropped_total), (1, 0, 2));
    }

    #[test]
    fn a_function_that_is_there_again_has_a_new_line() {
        let mut lines = lines(1, &[("f", "1"), ("f", "2"), ("f", "3")]);
        let turn = lines.begin(&key("f")).unwrap();
        assert_eq!(lines.forget(&key("f")), 2);
        assert!(
            turn.manners.are_over() && !turn.cancelled.is_cancelled(),
            "what is at the function ends there"
        );
        lines.push(Call(key("f"), "4"));
        let (id, number) = begin(&mut lines, "f").unwrap();
        assert_eq!(id, "4");
        lines.end(&key("f"), turn.number);
        assert_eq!(load(&lines, "f").in_flight, 1, "the end of an old call is not the end of a new one");
        lines.end(&key("f"), number);
        assert!(lines.is_idle());
        lines.push(Call(key("f"), "5"));
        assert_eq!((lines.clear(), begin(&mut lines, "f")), (1, None));
    }
}
