//! Calls about dead letters. They are listed as other things that come in pages.

use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::Method;

use super::held::below_system;
use super::{ANSWER_TIMEOUT, Client, Error, Payload, authorised, with_query};
use crate::api::{AllRedriven, Removed};

/// How long the functions of some letters may take together.
const REDRIVE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How many are sent in one call, so that there is word of them.
const AT_ONCE: &str = "100";

impl Client {
    /// One letter.
    pub(crate) fn letter<T: DeserializeOwned>(&self, id: &str, scope: &[(&str, &str)]) -> Result<T, Error> {
        self.json(&with_query(&below_system(&["deadletters", id]), scope))
    }

    /// Sends one again.
    pub(crate) fn redrive(&self, id: &str, scope: &[(&str, &str)]) -> Result<(), Error> {
        let path = with_query(&below_system(&["deadletters", id, "redrive"]), scope);
        let request = authorised(self.request(Method::POST, &path), self);
        self.agreed(self.send(request, Payload::None, Some(REDRIVE_TIMEOUT))?).map(drop)
    }

    /// Sends some of a function again.
    pub(crate) fn redrive_letters(&self, parameters: &[(&str, &str)]) -> Result<AllRedriven, Error> {
        let mut parameters = parameters.to_vec();
        parameters.push(("limit", AT_ONCE));
        let path = with_query(&below_system(&["deadletters", "redrive"]), &parameters);
        let request = authorised(self.request(Method::POST, &path), self);
        let response = self.send(request, Payload::None, Some(REDRIVE_TIMEOUT))?;
        self.read_json(self.agreed(response)?)
    }

    /// Removes one.
    pub(crate) fn remove_letter(&self, id: &str, scope: &[(&str, &str)]) -> Result<(), Error> {
        self.change(Method::DELETE, &with_query(&below_system(&["deadletters", id]), scope), Vec::new())
    }

    /// Removes all of a function.
    pub(crate) fn remove_letters(&self, parameters: &[(&str, &str)]) -> Result<Removed, Error> {
        let request = self.request(Method::DELETE, &with_query(&below_system(&["deadletters"]), parameters));
        let response = self.send(authorised(request, self), Payload::None, Some(ANSWER_TIMEOUT))?;
        self.read_json(self.agreed(response)?)
    }
}
