//! What function is meant: `name`, `name.namespace`, or `name` with `-n namespace`.

use std::fmt;

use crate::failure;

/// A function as a person names it. Without a namespace the daemon's default is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

impl Target {
    /// Joins what was typed as the name and what was typed behind `-n`.
    pub(crate) fn new(text: &str, namespace: Option<&str>) -> anyhow::Result<Self> {
        let (name, inner) = match text.rsplit_once('.') {
            Some((name, inner)) => (name, Some(inner)),
            None => (text, None),
        };
        if !is_label(name) || inner.is_some_and(|n| !is_label(n)) {
            let rule = "use a-z, 0-9 and '-' inside, at most 63 characters";
            return Err(failure::usage(format!("'{text}' is not a function's name: {rule}")));
        }
        match (inner, namespace) {
            (Some(a), Some(b)) if a != b => {
                Err(failure::usage(format!("'{text}' names the namespace {a}, but -n says {b}")))
            }
            (a, b) => Ok(Self { name: name.to_owned(), namespace: a.or(b).map(str::to_owned) }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.namespace.iter().try_for_each(|namespace| write!(f, ".{namespace}"))
    }
}

/// A DNS label (RFC 1123): the rule the daemon checks too, asked here so that no name can reshape a URL.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| inner(b) || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_may_stand_in_the_name_or_beside_it() {
        let table = [
            ("echo", None, Some(("echo", None))),
            ("echo.dev", None, Some(("echo", Some("dev")))),
            ("echo", Some("dev"), Some(("echo", Some("dev")))),
            ("echo.dev", Some("dev"), Some(("echo", Some("dev")))),
            ("echo.dev", Some("prod"), None),
            ("Echo", None, None),
            ("a/b", None, None),
            ("a.b.c", None, None),
            ("-a", None, None),
            ("", None, None),
        ];
        for (text, namespace, expected) in table {
            let got = Target::new(text, namespace).ok();
            let got = got.as_ref().map(|t| (t.name.as_str(), t.namespace.as_deref()));
            assert_eq!(got, expected, "{text} {namespace:?}");
        }
    }
}
