//! What a secret is called and what it holds, checked once.
//!
//! Owns the rules about both. A value is never shown: not by `Debug`, and there is no `Display`.

use std::fmt;
use std::str::FromStr;

use roost_proxy::function::is_label;

/// The longest name, in bytes (an RFC 1123 subdomain).
const MAX_NAME: usize = 253;

/// The largest value, in bytes: what Kubernetes takes.
pub const MAX_VALUE: usize = 1 << 20;

/// The name of a secret inside its namespace: also that of a file, so nothing in it leads elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(String);

/// Why a text is not the name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not valid: expected at most {MAX_NAME} lower-case letters, digits, '-' and '.', with a letter or digit at both ends and on both sides of each '.'"
)]
pub struct InvalidSecretName(String);

impl SecretName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = InvalidSecretName;

    fn from_str(text: &str) -> Result<Self, InvalidSecretName> {
        if text.len() <= MAX_NAME && text.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            // It comes from outside and goes into an answer: no more of it than helps.
            Err(InvalidSecretName(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a secret holds.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

/// A value of more than [`MAX_VALUE`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes, expected at most {MAX_VALUE}")]
pub struct TooLarge(usize);

impl SecretValue {
    /// The bytes of a value.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for SecretValue {
    type Error = TooLarge;

    fn try_from(bytes: Vec<u8>) -> Result<Self, TooLarge> {
        if bytes.len() <= MAX_VALUE { Ok(Self(bytes)) } else { Err(TooLarge(bytes.len())) }
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_lower_case_subdomain_and_no_path() {
        let longest = "a".repeat(253);
        for good in ["a", "0", "db-password", "tls.crt", "a.b-c.d", longest.as_str()] {
            assert_eq!(good.parse::<SecretName>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(254);
        for bad in [
            "", ".", "..", "../a", "a/b", "/a", "a..b", ".a", "a.", "-a", "a-", "a.-b", "A", "a_b", "ä",
            "a b", "a\n", "a\0", &too_long,
        ] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_value_has_a_limit_and_is_not_shown() {
        assert!(SecretValue::try_from(vec![0; MAX_VALUE]).is_ok());
        assert_eq!(
            SecretValue::try_from(vec![0; MAX_VALUE + 1]).unwrap_err().to_string(),
            "1048577 bytes, expected at most 1048576"
        );
        let value = SecretValue::try_from(b"hunter2".to_vec()).unwrap();
        assert_eq!(format!("{:?}", Some(value)), "Some(SecretValue(…))");
    }
}
