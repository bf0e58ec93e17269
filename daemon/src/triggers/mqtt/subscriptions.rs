//! What is asked of a broker: topics that somebody listens to and that it does not know of, and those that nobody listens to.
//!
//! Owns what it has granted. One question at a time: its answer tells nothing but its result. What is granted is not asked
//! for again, as the broker would send all retained messages again.

use std::collections::BTreeSet;

use rumqttc::{AsyncClient, ClientError, QoS, SubscribeFilter, SubscribeReasonCode};

/// How many topics are asked for at once.
const MAX_ASKED: usize = 32;

/// What a broker knows.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    granted: BTreeSet<String>,
    /// Not asked for again on this connection.
    refused: BTreeSet<String>,
    asked: Option<Question>,
    /// What was asked for last.
    newest: Vec<String>,
}

/// What is to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Question {
    Subscribe(Vec<String>),
    Unsubscribe(String),
}

pub(super) fn is_granted(code: &SubscribeReasonCode) -> bool {
    matches!(code, SubscribeReasonCode::Success(_))
}

impl Subscriptions {
    /// Of a broker that knows this much.
    pub(super) fn of(granted: BTreeSet<String>) -> Self {
        Self { granted, ..Self::default() }
    }

    pub(super) fn granted(&self) -> &BTreeSet<String> {
        &self.granted
    }

    /// Asks for what is missing, if nothing is asked.
    pub(super) fn ask<'a>(
        &mut self,
        client: &AsyncClient,
        wanted: impl Iterator<Item = &'a String>,
    ) -> Result<(), ClientError> {
        let Some(question) = self.question(wanted) else { return Ok(()) };
        match &question {
            Question::Subscribe(filters) => {
                let filters = filters.iter().map(|path| SubscribeFilter::new(path.clone(), QoS::AtLeastOnce));
                client.try_subscribe_many(filters)?;
            }
            Question::Unsubscribe(filter) => client.try_unsubscribe(filter)?,
        }
        if let Question::Subscribe(filters) = &question {
            self.newest.clone_from(filters);
        }
        self.asked = Some(question);
        Ok(())
    }

    /// Is this what was asked for last? What the broker has retained of it comes then.
    pub(super) fn is_newest(&self, filter: &str) -> bool {
        self.newest.iter().any(|newest| newest == filter)
    }

    #[cfg(test)]
    pub(super) fn newly(filters: &[&str]) -> Self {
        Self { newest: filters.iter().map(|&filter| filter.to_owned()).collect(), ..Self::default() }
    }

    fn question<'a>(&self, wanted: impl Iterator<Item = &'a String>) -> Option<Question> {
        if self.asked.is_some() {
            return None;
        }
        let wanted: BTreeSet<&String> = wanted.collect();
        let known = |filter: &&String| self.granted.contains(*filter) || self.refused.contains(*filter);
        let missing: Vec<String> =
            wanted.iter().copied().filter(|filter| !known(filter)).take(MAX_ASKED).cloned().collect();
        if !missing.is_empty() {
            return Some(Question::Subscribe(missing));
        }
        let left = self.granted.iter().find(|filter| !wanted.contains(filter));
        left.map(|filter| Question::Unsubscribe(filter.clone()))
    }

    /// What was asked for is granted or not. Those that are not.
    pub(super) fn answered(&mut self, granted: impl Iterator<Item = bool>) -> Vec<String> {
        let Some(Question::Subscribe(filters)) = self.asked.take() else { return Vec::new() };
        let mut refused = Vec::new();
        for (filter, is_granted) in filters.into_iter().zip(granted) {
            if is_granted {
                self.granted.insert(filter);
            } else {
                refused.push(filter);
            }
        }
        self.refused.extend(refused.iter().cloned());
        refused
    }

    /// What was given up is given up.
    pub(super) fn left(&mut self) {
        if let Some(Question::Unsubscribe(filter)) = self.asked.take() {
            self.granted.remove(&filter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(all: &mut Subscriptions, wanted: &[&str]) -> Option<Question> {
        let wanted: Vec<String> = wanted.iter().map(|&filter| filter.to_owned()).collect();
        let question = all.question(wanted.iter());
        all.asked = question.clone().or(all.asked.take());
        question
    }

    #[test]
    fn what_is_new_is_asked_for_what_nobody_wants_is_given_up_and_one_question_is_asked_at_a_time() {
        let subscribe =
            |filters: &[&str]| Some(Question::Subscribe(filters.iter().map(|&f| f.to_owned()).collect()));
        let mut all = Subscriptions::of(["a".to_owned(), "b".to_owned()].into());
        assert_eq!(asked(&mut all, &["a", "c", "d"]), subscribe(&["c", "d"]));
        assert_eq!(asked(&mut all, &["a", "c", "d", "e"]), None);
        assert_eq!(all.answered([true, false].into_iter()), ["d"]);
        assert_eq!(asked(&mut all, &["a", "c", "d"]), Some(Question::Unsubscribe("b".into())));
        all.left();
        assert_eq!(asked(&mut all, &["a", "c", "d"]), None, "what is refused is not asked for again");
        assert_eq!(all.granted(), &["a".to_owned(), "c".to_owned()].into());
    }
}
