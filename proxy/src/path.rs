//! Reading the path of a request: does it name a function, and if not, is it canonical?
//!
//! Owns the routing grammar. Pure text to text; never looks anything up. Nothing is decoded but ids of calls, which are any
//! text: the segment that names a function is looked for in the path as it was sent, and what stands behind it is the
//! function's own business.

use std::borrow::Cow;

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// `/function/SEGMENT[/rest]` or `/async-function/SEGMENT[/rest]`.
    Function(FunctionPath<'a>),
    /// `/async-function/ID`, where `ID` is no name: it can only be the id of a call, which is this, decoded.
    Call(String),
    /// The path is no function's and has `//` or dot segments: the client is sent to this one.
    Redirect(String),
    /// Anything else.
    Other,
}

/// A path that names a function.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FunctionPath<'a> {
    segment: &'a str,
    rest: &'a str,
    deferred: bool,
    /// The function has the whole host: its name does not stand in the path.
    at_root: bool,
}

const PREFIX: &str = "/function/";

/// Behind it stands the same, for calls that are made later; or the id of such a call.
const DEFERRED_PREFIX: &str = "/async-function/";

impl<'a> FunctionPath<'a> {
    /// All of `path` at a host that is the function's own.
    pub(crate) fn at_root(segment: &'a str, path: &'a str) -> Self {
        Self { segment, rest: path, deferred: false, at_root: true }
    }

    /// What the paths of the function begin with.
    pub(crate) fn base(&self) -> Cow<'static, str> {
        if self.at_root { Cow::Borrowed("/") } else { Cow::Owned(format!("{PREFIX}{}", self.segment)) }
    }

    /// `name` or `name.namespace`, as the client wrote it.
    pub(crate) fn segment(&self) -> &'a str {
        self.segment
    }

    /// Is the call to be made later?
    pub(crate) fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// Can the segment be the id of a deferred call? Then there is nothing behind it, not even a slash.
    pub(crate) fn names_call(&self) -> bool {
        self.deferred && self.rest.is_empty()
    }

    /// What the function sees: begins with `/`, and is otherwise byte for byte what the client sent, `//`, `%2F` and dot
    /// segments too.
    pub(crate) fn rest(&self) -> &'a str {
        if self.rest.is_empty() { "/" } else { self.rest }
    }
}

/// Does `path` name a function to be called later, or such a call?
pub(crate) fn is_deferred(path: &str) -> bool {
    path.starts_with(DEFERRED_PREFIX)
        && match read(path) {
            Target::Function(path) => path.deferred,
            Target::Call(_) => true,
            _ => false,
        }
}

/// Reads `path`.
pub(crate) fn read(path: &str) -> Target<'_> {
    let prefixes = [(PREFIX, false), (DEFERRED_PREFIX, true)];
    for (tail, deferred) in
        prefixes.into_iter().filter_map(|(prefix, it)| Some((path.strip_prefix(prefix)?, it)))
    {
        let (segment, rest) = tail.split_at(tail.find('/').unwrap_or(tail.len()));
        // A dot segment names nobody: taken for a name, it would hide where the path leads.
        if !segment.is_empty() && segment.bytes().all(is_name_byte) && dots(segment) == 0 {
            return Target::Function(FunctionPath { segment, rest, deferred, at_root: false });
        }
        if deferred
            && rest.is_empty()
            && dots(segment) == 0
            && let Some(id) = decoded(segment).filter(|id| !id.is_empty())
        {
            return Target::Call(id);
        }
    }
    if is_canonical(path) { Target::Other } else { Target::Redirect(clean(path)) }
}

/// The bytes of a name segment. More than a deployable name may have: the rest is an unknown function, not an unknown path.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// The text that is written with `%XX`; `None` when that is wrong, or it is none.
fn decoded(segment: &str) -> Option<String> {
    let mut pieces = segment.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        let [high, low] = [0, 1].map(|at| char::from(digits.as_bytes()[at]).to_digit(16));
        bytes.push(u8::try_from(high? << 4 | low?).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
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

    #[test]
    fn a_function_path_gives_its_segment_and_the_rest_byte_for_byte() {
        for (path, segment, rest) in [
            ("/function/f", "f", "/"),
            ("/function/f/", "f", "/"),
            ("/function/f.ns/a", "f.ns", "/a"),
            ("/function/f/a/b/", "f", "/a/b/"),
            ("/function/A_b-9.x/..a/.b/c..", "A_b-9.x", "/..a/.b/c.."),
            ("/function/f/a%20b%3F%25", "f", "/a%20b%3F%25"),
            ("/function/f/a%2Fb%2fc", "f", "/a%2Fb%2fc"),
            ("/function/f/%2", "f", "/%2"),
            ("/function/f/ä", "f", "/ä"),
            ("/function/f//", "f", "//"),
            ("/function/f//evil.example//x", "f", "//evil.example//x"),
            ("/function/f/./x/.", "f", "/./x/."),
            ("/function/f/..", "f", "/.."),
            ("/function/f/../../system/functions", "f", "/../../system/functions"),
            ("/function/f/%2e%2E/x", "f", "/%2e%2E/x"),
            ("/function/.../x", "...", "/x"),
        ] {
            match read(path) {
                Target::Function(found) => {
                    assert_eq!((found.segment(), found.rest()), (segment, rest), "{path}");
                }
                other => panic!("{path}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_path_of_a_deferred_call_is_read_alike_and_may_name_the_call_itself() {
        for (path, segment, rest, names_call) in [
            ("/async-function/f.x", "f.x", "/", true),
            ("/async-function/f/", "f", "/", false),
            ("/async-function/f//a%2F../", "f", "//a%2F../", false),
        ] {
            let Target::Function(found) = read(path) else { panic!("{path}") };
            assert_eq!(
                (found.segment(), found.rest(), found.names_call()),
                (segment, rest, names_call),
                "{path}"
            );
            assert!(found.is_deferred(), "{path}");
        }
        let Target::Function(found) = read("/function/async-function/f") else { panic!() };
        assert!(!found.is_deferred() && !found.names_call());
        assert_eq!(read("/async-function/../system/x"), Target::Redirect("/system/x".into()));
    }

    #[test]
    fn what_is_no_name_can_still_be_the_id_of_a_call() {
        for (path, id) in [
            ("/async-function/a:b", Some("a:b")),
            ("/async-function/a%2Fb%20c%3f", Some("a/b c?")),
            ("/async-function/ä%C3%A4", Some("ää")),
            ("/async-function/%41", Some("A")),
            ("/async-function/%252e", Some("%2e")),
            ("/async-function/a%", None),
            ("/async-function/a%2", None),
            ("/async-function/a%+1", None),
            ("/async-function/%ff", None),
            ("/async-function/a:b/", None),
            ("/async-function/", None),
            ("/function/a:b", None),
        ] {
            let expected = id.map_or(Target::Other, |id| Target::Call(id.to_owned()));
            assert_eq!(read(path), expected, "{path}");
            assert_eq!(is_deferred(path), id.is_some(), "{path}");
        }
        assert_eq!(read("/async-function/%2e%2e"), Target::Redirect("/".into()));
    }

    #[test]
    fn a_path_that_names_no_function_and_is_not_canonical_is_sent_to_its_clean_form() {
        for (path, clean) in [
            ("//", "/"),
            ("/function//", "/function/"),
            ("/function//f", "/function/f"),
            ("//function/f/x", "/function/f/x"),
            ("/./function/f//x", "/function/f/x"),
            ("/function/./f", "/function/f"),
            ("/function/..", "/"),
            ("/function/../system/x", "/system/x"),
            ("/function/%2e%2E/system/x", "/system/x"),
            ("/function/.%2e/f/../x", "/x"),
            ("/function/../../../x", "/x"),
            ("//evil.example/x", "/evil.example/x"),
            ("/system//functions", "/system/functions"),
            ("/system/./functions/", "/system/functions/"),
            ("/ui/../x", "/x"),
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
            "/function%2Ff",
            "/function/f%2Fx",
            "/%2Fevil.example",
            "/system/%2F",
            "/x/function/f",
        ] {
            assert_eq!(read(path), Target::Other, "{path}");
        }
    }

    /// All paths of up to six pieces out of an alphabet of nasty ones: cleaning is final and never leaves the root, and
    /// what is a function's is not touched.
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
                match read(path) {
                    Target::Redirect(clean) => {
                        assert!(clean.starts_with('/') && !clean.starts_with("//"), "{path} -> {clean}");
                        assert!(!matches!(read(&clean), Target::Redirect(_)), "{path} -> {clean}");
                    }
                    Target::Function(found) => {
                        let whole = format!("/function/{}{}", found.segment(), found.rest());
                        assert_eq!(whole.trim_end_matches('/'), path.trim_end_matches('/'));
                        assert!(!found.segment().is_empty() && dots(found.segment()) == 0, "{path}");
                    }
                    Target::Call(_) | Target::Other => {}
                }
            }
        }
    }
}
