//! Reading the path of a request: is it canonical, and does it name a function?
//!
//! Owns the routing grammar. Pure text to text; never looks anything up.

use std::borrow::Cow;

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// `/function/SEGMENT[/rest]`.
    Function(FunctionPath<'a>),
    /// The path has `//` or dot segments: the client is sent to this one.
    Redirect(String),
    /// Anything else.
    Other,
}

/// A path that names a function.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FunctionPath<'a> {
    /// `/function/SEGMENT/rest`, with `%2F` decoded.
    path: Cow<'a, str>,
    /// Where the segment ends in `path`.
    end: usize,
}

const PREFIX: &str = "/function/";

impl FunctionPath<'_> {
    /// `name` or `name.namespace`, as the client wrote it.
    pub(crate) fn segment(&self) -> &str {
        &self.path[PREFIX.len()..self.end]
    }

    /// What the function sees: begins with `/`.
    pub(crate) fn rest(&self) -> &str {
        match &self.path[self.end..] {
            "" => "/",
            rest => rest,
        }
    }
}

/// Reads `path`. `%2F` counts as `/`, every other byte is left as it is.
pub(crate) fn read(path: &str) -> Target<'_> {
    let path = decode_slashes(path);
    if !is_canonical(&path) {
        return Target::Redirect(clean(&path));
    }
    let Some(tail) = path.strip_prefix(PREFIX) else { return Target::Other };
    let length = tail.find('/').unwrap_or(tail.len());
    if length == 0 || !tail[..length].bytes().all(is_name_byte) {
        return Target::Other;
    }
    Target::Function(FunctionPath { path, end: PREFIX.len() + length })
}

/// The bytes of a name segment. More than a deployable name may have: the rest is an unknown function, not an unknown path.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn decode_slashes(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find("%2F").into_iter().chain(rest.find("%2f")).min() {
        out.push_str(&rest[..at]);
        out.push('/');
        rest = &rest[at + 3..];
    }
    if out.is_empty() {
        return Cow::Borrowed(path);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// No empty segment but the last, and no dot segment. Asked for each request, so one pass without allocation.
fn is_canonical(path: &str) -> bool {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return bytes == b"*";
    }
    // A suspect byte behind a slash is rare: only then are segments looked at.
    let suspect = bytes.windows(2).any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.' | b'%'));
    if !suspect {
        return true;
    }
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if (segment.is_empty() && !last) || dots(segment) > 0 {
            return false;
        }
    }
    true
}

/// The rooted path without empty and dot segments; a slash at the end stays.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match dots(segment) {
            _ if segment.is_empty() => {}
            0 => kept.push(segment),
            1 => {}
            _ => {
                kept.pop();
            }
        }
    }
    let mut out = String::with_capacity(path.len() + 1);
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() || path.ends_with('/') {
        out.push('/');
    }
    out
}

/// 1 for `.`, 2 for `..`, in any spelling (`%2e` is the same character in a URL), else 0.
fn dots(segment: &str) -> usize {
    // The longest spelling of two dots is `%2e%2e`.
    if segment.is_empty() || segment.len() > 6 {
        return 0;
    }
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() {
        rest = match rest
            .strip_prefix('.')
            .or_else(|| rest.strip_prefix("%2e"))
            .or_else(|| rest.strip_prefix("%2E"))
        {
            Some(rest) => rest,
            None => return 0,
        };
        count += 1;
    }
    if count <= 2 { count } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(path: &str) -> (String, String) {
        match read(path) {
            Target::Function(found) => (found.segment().to_owned(), found.rest().to_owned()),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn a_function_path_gives_its_segment_and_the_rest_untouched() {
        for (path, segment, rest) in [
            ("/function/f", "f", "/"),
            ("/function/f/", "f", "/"),
            ("/function/f.ns/a", "f.ns", "/a"),
            ("/function/f/a/b/", "f", "/a/b/"),
            ("/function/A_b-9.x/..a/.b/c..", "A_b-9.x", "/..a/.b/c.."),
            ("/function/f/a%20b%3F%25", "f", "/a%20b%3F%25"),
            ("/function/f/a%2Fb%2fc", "f", "/a/b/c"),
            ("/function%2Ff%2Fx", "f", "/x"),
            ("/function/f/%2", "f", "/%2"),
            ("/function/f/...", "f", "/..."),
            ("/function/f/ä", "f", "/ä"),
            ("/function/f/a%2ejs", "f", "/a%2ejs"),
        ] {
            assert_eq!(function(path), (segment.to_owned(), rest.to_owned()), "{path}");
        }
    }

    #[test]
    fn a_path_that_is_not_canonical_is_sent_to_its_clean_form() {
        for (path, clean) in [
            ("//", "/"),
            ("/function//f", "/function/f"),
            ("/function/f//", "/function/f/"),
            ("/function/f/./x", "/function/f/x"),
            ("/function/f/.", "/function/f"),
            ("/function/f/..", "/function"),
            ("/function/f/../", "/function/"),
            ("/function/../../../x", "/x"),
            ("/function/f/%2e%2E/x", "/function/x"),
            ("/function/f/.%2e/x", "/function/x"),
            ("/function/f/%2Fx", "/function/f/x"),
            ("/function/f/a%2F..%2Fb%20c", "/function/f/b%20c"),
            ("//evil.example/x", "/evil.example/x"),
            ("/%2Fevil.example", "/evil.example"),
            ("/system//functions", "/system/functions"),
            ("", "/"),
        ] {
            assert_eq!(read(path), Target::Redirect(clean.to_owned()), "{path}");
        }
    }

    #[test]
    fn everything_else_is_not_a_functions() {
        for path in [
            "/",
            "*",
            "/function",
            "/function/",
            "/functions/f",
            "/function/f%20x",
            "/function/ä",
            "/x/function/f",
        ] {
            assert_eq!(read(path), Target::Other, "{path}");
        }
    }

    /// All paths of up to six pieces out of an alphabet of nasty ones: cleaning is final and never leaves the root.
    #[test]
    fn cleaning_once_is_enough() {
        let pieces = ["/", ".", "..", "a", "%2e", "%2F", "function"];
        let mut paths = vec![String::from("/")];
        for _ in 0..5 {
            paths = paths
                .iter()
                .flat_map(|path| pieces.iter().map(move |piece| format!("{path}{piece}")))
                .collect();
            for path in &paths {
                if let Target::Redirect(clean) = read(path) {
                    assert!(clean.starts_with('/') && !clean.starts_with("//"), "{path} -> {clean}");
                    assert!(!matches!(read(&clean), Target::Redirect(_)), "{path} -> {clean}");
                }
            }
        }
    }
}
