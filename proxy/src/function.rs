//! The names of things, parsed once: a value of one of these types is valid, wherever it came from.
//!
//! Owns the naming rules. Never knows what a name stands for.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The namespace of a function that names none.
pub const DEFAULT_NAMESPACE: &str = "openfaas-fn";

/// The longest name, in bytes (an RFC 1123 label).
const MAX_LABEL: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {text:?} is not valid: expected at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"
)]
pub struct InvalidName {
    what: &'static str,
    text: String,
}

/// Is `text` of the form of an RFC 1123 label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`? How long it may be is another question.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if text.len() <= MAX_LABEL && is_label(text) {
                    Ok(Self(text.into()))
                } else {
                    // A name comes from outside and goes into an answer and a log: no more of it than helps.
                    Err(InvalidName { what: $what, text: text.chars().take(80).collect() })
                }
            }
        }

        // A map keyed by names is asked with the text of a request, without an allocation.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

label!(
    /// A namespace of functions: one containerd namespace of the same name.
    Namespace,
    "namespace"
);
label!(
    /// The name of a function inside its namespace.
    FunctionName,
    "function name"
);
label!(
    /// One replica: unique on the host, also the id of its container.
    ReplicaId,
    "replica id"
);

impl Default for Namespace {
    fn default() -> Self {
        Self(DEFAULT_NAMESPACE.into())
    }
}

/// A function on this host: its namespace and its name. Shown as `name.namespace`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FunctionKey {
    /// Where the function lives.
    pub namespace: Namespace,
    /// What it is called there.
    pub name: FunctionName,
}

impl FunctionKey {
    /// The key of `name` in `namespace`.
    #[must_use]
    pub fn new(namespace: Namespace, name: FunctionName) -> Self {
        Self { namespace, name }
    }

    /// Reads the segment behind `/function/`: `name`, or `name.namespace` with the namespace behind the last dot.
    ///
    /// # Errors
    /// When either part is not a valid name.
    pub fn from_route(segment: &str) -> Result<Self, InvalidName> {
        match segment.rsplit_once('.') {
            Some((name, namespace)) => Ok(Self::new(namespace.parse()?, name.parse()?)),
            None => Ok(Self::new(Namespace::default(), segment.parse()?)),
        }
    }
}

impl fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

impl fmt::Debug for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_lower_case_letters_digits_and_inner_dashes_of_at_most_63_bytes() {
        let longest = "a".repeat(63);
        for good in ["a", "0", "echo", "node-ws", "a--b", longest.as_str()] {
            assert!(good.parse::<FunctionName>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a/b", "a\n", too_long.as_str()] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_route_names_its_namespace_behind_the_last_dot() {
        let key = FunctionKey::from_route("echo").unwrap();
        assert_eq!(key.to_string(), "echo.openfaas-fn");
        let key = FunctionKey::from_route("echo.staging").unwrap();
        assert_eq!((key.name.as_str(), key.namespace.as_str()), ("echo", "staging"));
        assert!(FunctionKey::from_route("a.b.c").is_err());
        assert!(FunctionKey::from_route("echo.").is_err());
        assert!(FunctionKey::from_route("").is_err());
    }
}
