//! Calls about the WebSockets that the daemon holds: connections, and groups of them.

use std::io::Read;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::Method;

use super::{ANSWER_TIMEOUT, Client, Error, Payload, authorised, encode, with_query};
use crate::api::{Closed, Told};

/// How much of a list is asked for at once.
const AT_ONCE: &str = "1000";

impl Client {
    /// The whole of a list that comes in pages, such as `connections`, which is in `field` of each.
    pub(crate) fn held(
        &self,
        path: &[&str],
        field: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Vec<Value>, Error> {
        self.pages(path, field, parameters, |page| Some(page["next"].as_str()?.to_owned()))
    }

    /// All that is kept of a group, the oldest first.
    pub(crate) fn history(&self, group: &str, parameters: &[(&str, &str)]) -> Result<Vec<Value>, Error> {
        self.pages(&["groups", group, "history"], "messages", parameters, |page| {
            let more = page["more"].as_bool() == Some(true);
            Some(page["last"].as_str().filter(|_| more)?.to_owned())
        })
    }

    /// Gathers a list page by page. `next` tells behind what the next one begins, if there is one.
    fn pages(
        &self,
        path: &[&str],
        field: &str,
        parameters: &[(&str, &str)],
        next: impl Fn(&Value) -> Option<String>,
    ) -> Result<Vec<Value>, Error> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let mut asked = parameters.to_vec();
            asked.push(("limit", AT_ONCE));
            if !after.is_empty() {
                asked.push(("after", &after));
            }
            let mut page: Value = self.json(&with_query(&below_system(path), &asked))?;
            if let Value::Array(some) = page[field].take() {
                all.extend(some);
            }
            match next(&page) {
                Some(next) if next != after => after = next,
                _ => return Ok(all),
            }
        }
    }

    /// What is said in a group, as server-sent events, behind the event of the id `last` unless that is empty.
    pub(crate) fn watch(
        &self,
        group: &str,
        parameters: &[(&str, &str)],
        last: &str,
    ) -> Result<Box<dyn Read>, Error> {
        let mut asked = parameters.to_vec();
        if !last.is_empty() {
            asked.push(("last-event-id", last));
        }
        self.stream(&below_system(&["groups", group, "events"]), &asked)
    }

    /// One connection.
    pub(crate) fn connection<T: DeserializeOwned>(
        &self,
        id: &str,
        parameters: &[(&str, &str)],
    ) -> Result<T, Error> {
        self.json(&with_query(&below_system(&["connections", id]), parameters))
    }

    /// Says something to one connection.
    pub(crate) fn say(&self, id: &str, parameters: &[(&str, &str)], words: Vec<u8>) -> Result<(), Error> {
        self.post(&below_system(&["connections", id]), parameters, words).map(drop)
    }

    /// Says something to many.
    pub(crate) fn say_to_all(
        &self,
        path: &[&str],
        parameters: &[(&str, &str)],
        words: Vec<u8>,
    ) -> Result<Told, Error> {
        let response = self.post(&below_system(path), parameters, words)?;
        self.read_json(response)
    }

    /// A change of what is at this path that has no more to say: `PUT` or `DELETE`.
    pub(crate) fn change_held(
        &self,
        method: Method,
        path: &[&str],
        parameters: &[(&str, &str)],
    ) -> Result<(), Error> {
        self.change(method, &with_query(&below_system(path), parameters), Vec::new())
    }

    /// Closes many.
    pub(crate) fn close_all(&self, path: &[&str], parameters: &[(&str, &str)]) -> Result<Closed, Error> {
        let request = self.request(Method::DELETE, &with_query(&below_system(path), parameters));
        let response = self.send(authorised(request, self), Payload::None, Some(ANSWER_TIMEOUT))?;
        self.read_json(self.agreed(response)?)
    }

    fn post(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
        words: Vec<u8>,
    ) -> Result<ureq::http::Response<ureq::Body>, Error> {
        let request = self.request(Method::POST, &with_query(path, parameters));
        let request = request.header("Content-Type", "application/octet-stream");
        let payload = if words.is_empty() { Payload::None } else { Payload::Bytes(words) };
        self.agreed(self.send(authorised(request, self), payload, Some(ANSWER_TIMEOUT))?)
    }
}

/// A path of these segments, each of which may be any text.
pub(super) fn below_system(segments: &[&str]) -> String {
    segments.iter().fold("/system".to_owned(), |path, segment| format!("{path}/{}", encode(segment)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_reshape_a_path() {
        assert_eq!(
            below_system(&["groups", "a/b ?", "connections"]),
            "/system/groups/a%2Fb%20%3F/connections"
        );
    }
}
