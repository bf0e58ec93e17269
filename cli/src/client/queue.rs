//! Calls about what was handed over to be done later.

use serde_json::Value;
use ureq::Body;
use ureq::http::{Method, Response};

use super::{ANSWER_TIMEOUT, Client, Error, Payload, authorised, with_query};

impl Client {
    /// What waits, function by function.
    pub(crate) fn queue(&self, parameters: &[(&str, &str)]) -> Result<Vec<Value>, Error> {
        self.json(&with_query("/system/queue", parameters))
    }

    /// Ends a call.
    pub(crate) fn cancel_call(&self, id: &str, headers: &[(String, String)]) -> Result<(), Error> {
        self.about_call(Method::DELETE, id, headers).map(drop)
    }

    /// What a call was answered with; 202 without a body while it is not over.
    pub(crate) fn result_of_call(
        &self,
        id: &str,
        headers: &[(String, String)],
    ) -> Result<Response<Body>, Error> {
        self.about_call(Method::GET, id, headers)
    }

    /// The daemon answers this itself, so it may have the password, unless something else is to be said in its place.
    fn about_call(
        &self,
        method: Method,
        id: &str,
        headers: &[(String, String)],
    ) -> Result<Response<Body>, Error> {
        let mut request = self.request(method, &path_of(id));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            request = authorised(request, self);
        }
        self.agreed(self.send(request, Payload::None, Some(ANSWER_TIMEOUT))?)
    }
}

/// The path of a call. No byte of its id stands for itself: a function whose name it might be is not called by mistake.
fn path_of(id: &str) -> String {
    id.bytes().fold("/async-function/".to_owned(), |path, byte| format!("{path}%{byte:02X}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_taken_for_a_name() {
        assert_eq!(path_of("a/é"), "/async-function/%61%2F%C3%A9");
    }
}
