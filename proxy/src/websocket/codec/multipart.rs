//! Several messages in one body of `multipart/mixed` (RFC 2046): each part is one.
//!
//! ```text
//!   (anything)                 what is before the first line with the boundary means nothing
//!   --BOUNDARY
//!   Content-Type: text/plain   headers, or none
//!                              an empty line
//!   the content                ends before the line break in front of the next boundary
//!   --BOUNDARY--               the last line that means anything
//! ```
//!
//! Owns that grammar. Pure, and bounded: a body is never unpacked to more parts than [`MAX_PARTS`], and is taken apart
//! without a copy. Lines may end with LF alone: shell scripts write such.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use memchr::memmem::Finder;

use super::frames::MAX_FRAMES;

/// The media type of such a body.
pub(super) const MEDIA_TYPE: &str = "multipart/mixed";

/// The most parts of one body.
pub(super) const MAX_PARTS: usize = MAX_FRAMES;

/// The longest boundary, as the RFC has it.
const MAX_BOUNDARY: usize = 70;

/// The longest headers of one part, in bytes.
const MAX_HEADERS: usize = 8 << 10;

/// A part: what its headers say of its content, and that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Nothing but `Content-Type`, if there is one.
    pub(super) headers: HeaderMap,
    pub(super) content: Bytes,
}

/// Why a body is none of this kind. Parts are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("its Content-Type has no boundary of 1 to {MAX_BOUNDARY} printable characters")]
    Boundary,
    #[error("no line of it is its boundary behind `--`")]
    Start,
    #[error(
        "part {0} is not ended by the boundary: expected `--`, the boundary, and `--` behind the last part"
    )]
    End(usize),
    #[error(
        "the headers of part {0} are no lines NAME: VALUE of at most {MAX_HEADERS} bytes with an empty line behind them"
    )]
    Headers(usize),
    #[error("part {0} has a Content-Transfer-Encoding that is none of binary, 8bit, 7bit and base64")]
    Encoding(usize),
    #[error("the content of part {0} is not base64, as its Content-Transfer-Encoding says")]
    Base64(usize),
    #[error("there are more than {MAX_PARTS} parts")]
    TooMany,
}

/// Reads all of `body`, whose `Content-Type` is in `headers`.
pub(super) fn parse(headers: &HeaderMap, body: &Bytes) -> Result<Vec<Part>, Malformed> {
    let boundary = headers.get(CONTENT_TYPE).and_then(boundary).ok_or(Malformed::Boundary)?;
    let line = [b"--", &*boundary].concat();
    let finder = Finder::new(&line);
    let mut parts = Vec::new();
    let mut delimiter = next(&finder, line.len(), body, 0).ok_or(Malformed::Start)?;
    while !delimiter.last {
        if parts.len() == MAX_PARTS {
            return Err(Malformed::TooMany);
        }
        let (from, number) = (delimiter.to, parts.len() + 1);
        delimiter = next(&finder, line.len(), body, from).ok_or(Malformed::End(number))?;
        parts.push(part(&body.slice(from..delimiter.from.max(from)), number)?);
    }
    Ok(parts)
}

/// A line with the boundary.
struct Delimiter {
    /// Where the line break in front of it begins, which is a part of it.
    from: usize,
    /// Behind its own line break.
    to: usize,
    last: bool,
}

/// The first such line of `body` that begins at `at` or behind that.
fn next(finder: &Finder<'_>, length: usize, body: &[u8], mut at: usize) -> Option<Delimiter> {
    let start = at;
    loop {
        let found = at + finder.find(body.get(at..)?)?;
        at = found + 1;
        let before = &body[start..found];
        if found > start && !before.ends_with(b"\n") {
            continue;
        }
        let mut behind = &body[found + length..];
        let last = behind.starts_with(b"--");
        if last {
            behind = &behind[2..];
        }
        let blank = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let ends = match &behind[blank..] {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            // Nothing has to come behind the last one.
            [] if last => 0,
            _ => continue,
        };
        let to = body.len() - behind.len() + blank + ends;
        let line_break = usize::from(before.ends_with(b"\n")) + usize::from(before.ends_with(b"\r\n"));
        return Some(Delimiter { from: found - line_break, to, last });
    }
}

/// The boundary that a `Content-Type` names.
fn boundary(content_type: &HeaderValue) -> Option<Vec<u8>> {
    let mut rest = content_type.to_str().ok()?.split_once(';')?.1;
    loop {
        let (name, value) = rest.split_once('=')?;
        let (value, behind) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (token, behind) = value.split_once(';').unwrap_or((value, ""));
                (token.trim().to_owned(), behind)
            }
        };
        if name.trim().eq_ignore_ascii_case("boundary") {
            let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !value.ends_with(' ');
            return ((1..=MAX_BOUNDARY).contains(&value.len()) && printable).then(|| value.into_bytes());
        }
        rest = behind.trim_start().trim_start_matches(';');
    }
}

/// What stands before the closing quotation mark, and what is behind that.
fn unquote(text: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(characters.next()?.1),
            (_, other) => value.push(other),
        }
    }
}

fn part(part: &Bytes, number: usize) -> Result<Part, Malformed> {
    let mut headers = HeaderMap::new();
    let (mut encoding, mut at) = (None, 0);
    loop {
        let line = &part[at..part.len().min(at + MAX_HEADERS)];
        let end = memchr::memchr(b'\n', line).filter(|end| at + end < MAX_HEADERS);
        // A part without content may end with its headers.
        let (line, length) = match end {
            Some(end) => (&line[..end], end + 1),
            None if at + line.len() == part.len() => (line, line.len()),
            None => return Err(Malformed::Headers(number)),
        };
        at += length;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let colon = memchr::memchr(b':', line).ok_or(Malformed::Headers(number))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-type") {
            let value = HeaderValue::from_bytes(value).map_err(|_| Malformed::Headers(number))?;
            headers.insert(CONTENT_TYPE, value);
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            encoding = Some(value.to_ascii_lowercase());
        }
    }
    let content = part.slice(at..);
    let content = match encoding.as_deref() {
        None | Some(b"binary" | b"8bit" | b"7bit") => content,
        Some(b"base64") => {
            let text: Vec<u8> = content.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            BASE64_STANDARD.decode(text).map_err(|_| Malformed::Base64(number))?.into()
        }
        Some(_) => return Err(Malformed::Encoding(number)),
    };
    Ok(Part { headers, content })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn typed(content_type: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())])
    }

    fn read(body: &[u8]) -> Result<Vec<Part>, Malformed> {
        parse(&typed("multipart/mixed; boundary=b"), &Bytes::copy_from_slice(body))
    }

    fn of(content_type: Option<&str>, content: &[u8]) -> Part {
        let headers = content_type.map_or_else(HeaderMap::new, typed);
        Part { headers, content: Bytes::copy_from_slice(content) }
    }

    #[test]
    fn a_body_is_its_parts_one_behind_the_other() {
        let plain = |content: &[u8]| of(None, content);
        for (body, parts) in [
            (&b"--b--"[..], vec![]),
            (b"--b--\r\n", vec![]),
            (b"--b\r\n\r\none\r\n--b--", vec![plain(b"one")]),
            (b"--b\n\none\n--b\n\ntwo\n--b--\n", vec![plain(b"one"), plain(b"two")]),
            (b"before\r\n--b \t\r\n\r\none\r\n--b--\r\nbehind", vec![plain(b"one")]),
            (b"--b\r\n\r\n\r\n--b--", vec![plain(b"")]),
            (b"--b\r\n\r\n--b--", vec![plain(b"")]),
            (b"--b\r\n--b--", vec![plain(b"")]),
            (b"--b\r\nX-A: 1\r\n--b--", vec![plain(b"")]),
            (
                b"--b\r\nContent-Type: text/plain\r\n\r\na\r\n\r\n--b\r\nX-A: 1\r\ncontent-type:  x/y \r\n\r\n\xff\0\r\n--b--",
                vec![of(Some("text/plain"), b"a\r\n"), of(Some("x/y"), b"\xff\0")],
            ),
            // What only looks like a boundary is content.
            (b"--b\r\n\r\na --b\r\n--bb\r\n--b-\r\n--b--", vec![plain(b"a --b\r\n--bb\r\n--b-")]),
            (
                b"--b\r\nContent-Transfer-Encoding: Base64\r\n\r\n/wA\r\n=\r\n--b--",
                vec![plain(b"\xff\0")],
            ),
        ] {
            assert_eq!(read(body), Ok(parts), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_body_that_is_wrong_anywhere_is_no_parts_at_all() {
        let long = [b"--b\r\nx: ", &[b'y'; MAX_HEADERS][..], b"\r\n\r\n\r\n--b--"].concat();
        for (body, why) in [
            (&b""[..], Malformed::Start),
            (b"hello", Malformed::Start),
            (b"--b", Malformed::Start),
            (b"x--b--", Malformed::Start),
            (b"--b\r\n\r\none", Malformed::End(1)),
            (b"--b\r\n\r\none\r\n--b", Malformed::End(1)),
            (b"--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n", Malformed::End(2)),
            (b"--b\r\n\r\none\r\n--b--behind", Malformed::End(1)),
            (b"--b\r\nno header\r\n\r\none\r\n--b--", Malformed::Headers(1)),
            (b"--b\r\n\r\n\r\n--b\r\nContent-Type: \0\r\n\r\n\r\n--b--", Malformed::Headers(2)),
            (&long, Malformed::Headers(1)),
            (b"--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\r\n--b--", Malformed::Encoding(1)),
            (b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\n!\r\n--b--", Malformed::Base64(1)),
        ] {
            assert_eq!(read(body), Err(why), "{:?}", String::from_utf8_lossy(body));
        }
        let parts = |count| [b"--b\n\n\n".repeat(count), b"--b--".to_vec()].concat();
        assert_eq!(read(&parts(MAX_PARTS)).map(|parts| parts.len()), Ok(MAX_PARTS));
        assert_eq!(read(&parts(MAX_PARTS + 1)), Err(Malformed::TooMany));
    }

    #[test]
    fn a_boundary_is_a_word_or_quoted_and_may_stand_behind_other_parameters() {
        let long = "x".repeat(MAX_BOUNDARY + 1);
        for (content_type, expected) in [
            ("multipart/mixed; boundary=b", Some("b")),
            ("multipart/mixed;BOUNDARY=a.b'c ; x=y", Some("a.b'c")),
            (r#"multipart/mixed; x="a;boundary=no\""; boundary="a b:\"c""#, Some("a b:\"c")),
            ("multipart/mixed", None),
            ("multipart/mixed; boundary=", None),
            (r#"multipart/mixed; boundary="""#, None),
            (r#"multipart/mixed; boundary="b"#, None),
            (r#"multipart/mixed; boundary="b ""#, None),
            (&format!("multipart/mixed; boundary={long}"), None),
            (&format!("multipart/mixed; boundary={}", &long[1..]), Some(&long[1..])),
        ] {
            let expected = expected.map(|text| text.as_bytes().to_vec());
            assert_eq!(boundary(&content_type.parse().unwrap()), expected, "{content_type}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            contents in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..12),
            lf in any::<bool>(),
        ) {
            let end = if lf { "\n" } else { "\r\n" };
            let (mut body, mut expected) = (Vec::new(), Vec::new());
            for (text, mut content) in contents {
                // Nobody could tell a line break of one kind from half of one of the other.
                content.retain(|byte| !lf || *byte != b'\r');
                let kind = if text { "text/plain" } else { "application/octet-stream" };
                body.extend(format!("--b{end}Content-Type: {kind}{end}{end}").into_bytes());
                body.extend(&content);
                body.extend(end.as_bytes());
                expected.push(of(Some(kind), &content));
            }
            body.extend(b"--b--");
            prop_assert_eq!(read(&body), Ok(expected));
        }

        #[test]
        fn no_body_breaks_it(body in "(--b|--b--|--b \r\n|\r\n|\n|\r|a: b|content-transfer-encoding: base64|\\PC){0,12}") {
            if let Ok(parts) = read(body.as_bytes()) {
                prop_assert!(parts.iter().map(|part| part.content.len()).sum::<usize>() <= body.len());
            }
        }
    }
}
