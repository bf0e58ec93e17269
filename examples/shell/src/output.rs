//! What a program has printed, as the answer to its request: all of it the body, or headers before that, as with CGI.
//!
//! Owns that form: a header a line, an empty line, the body. `Status: 404 Not Found` is the answer's status. Pure.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::{Response, StatusCode};

/// The most headers that a program may print.
const MAX_HEADERS: usize = 100;
/// How long the answer is, and where it ends, the server says.
const OF_THE_SERVER: [HeaderName; 3] = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The body.
    Body,
    /// Headers, an empty line, and the body.
    Cgi,
}

impl Form {
    /// What `OUTPUT` in the environment says: `body`, as without it, or `cgi`.
    pub(crate) fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            None | Some("body") => Ok(Self::Body),
            Some("cgi") => Ok(Self::Cgi),
            Some(other) => Err(format!("OUTPUT is {other:?}: expected body or cgi")),
        }
    }

    /// The answer that was printed so, or why it is none.
    pub(crate) fn answer(self, printed: Bytes) -> Result<Response<Full<Bytes>>, String> {
        match self {
            Self::Body => Ok(Response::new(Full::new(printed))),
            Self::Cgi => cgi(&printed),
        }
    }
}

fn cgi(printed: &Bytes) -> Result<Response<Full<Bytes>>, String> {
    let mut response = Response::new(Full::default());
    let mut at = 0;
    for number in 1.. {
        let rest = &printed[at..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("no empty line behind its headers")?;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        at += end + 1;
        if line.is_empty() {
            break;
        }
        if number > MAX_HEADERS {
            return Err(format!("more than {MAX_HEADERS} headers"));
        }
        add(&mut response, line).ok_or_else(|| format!("line {number} is no header of an answer"))?;
    }
    *response.body_mut() = Full::new(printed.slice(at..));
    Ok(response)
}

/// Adds the header of this line, if it is one.
fn add(response: &mut Response<Full<Bytes>>, line: &[u8]) -> Option<()> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.eq_ignore_ascii_case(b"status") {
        let status = StatusCode::from_bytes(value.split(|byte| *byte == b' ').next()?).ok()?;
        // A status of 1xx is the beginning of an answer.
        *response.status_mut() = (!status.is_informational()).then_some(status)?;
        return Some(());
    }
    let name = HeaderName::from_bytes(name).ok()?;
    let value = HeaderValue::from_bytes(value).ok()?;
    if !OF_THE_SERVER.contains(&name) {
        response.headers_mut().append(name, value);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn shown(form: Form, printed: &'static str) -> Result<(u16, Vec<String>, String), String> {
        let (head, body) = form.answer(printed.into())?.into_parts();
        let shown =
            |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Ok((head.status.as_u16(), head.headers.iter().map(shown).collect(), body))
    }

    #[tokio::test]
    async fn what_is_printed_is_the_body_or_begins_with_headers_where_that_is_asked_for() {
        let is = |status, headers: &[&str], body: &str| {
            Ok((status, headers.iter().map(|&one| one.to_owned()).collect::<Vec<_>>(), body.to_owned()))
        };
        for (form, printed, expected) in [
            (Form::Body, "A: b\n\nbody\n", is(200, &[], "A: b\n\nbody\n")),
            (Form::Cgi, "A: b\nC:d\na: e \n\nbo\n\ndy", is(200, &["a: b", "a: e", "c: d"], "bo\n\ndy")),
            (Form::Cgi, "Status: 404 Not Found\r\nA: b\r\n\r\n", is(404, &["a: b"], "")),
            (Form::Cgi, "\nbody", is(200, &[], "body")),
            (Form::Cgi, "Content-Length: 99\nConnection: close\n\nbody", is(200, &[], "body")),
            (Form::Cgi, "", Err("no empty line behind its headers".to_owned())),
            (Form::Cgi, "A: b\n", Err("no empty line behind its headers".to_owned())),
            (Form::Cgi, "A: b\nbody\n\n", Err("line 2 is no header of an answer".to_owned())),
            (Form::Cgi, "Status: 101\n\n", Err("line 1 is no header of an answer".to_owned())),
        ] {
            assert_eq!(shown(form, printed).await, expected, "{printed:?}");
        }
        assert!(Form::Cgi.answer([&b"a: b\n".repeat(101)[..], b"\n"].concat().into()).is_err());
        assert_eq!(Form::read(None), Ok(Form::Body));
        assert_eq!(Form::read(Some("cgi")), Ok(Form::Cgi));
        assert!(Form::read(Some("CGI ")).is_err());
    }
}
