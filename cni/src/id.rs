//! What an attachment may be called.
//!
//! Owns the rule. Never touches a disk.

use crate::Error;

/// The longest id, in bytes. A replica's id is a function's name (63) and a suffix; file names end at 255.
const MAX_ID: usize = 128;

/// Refuses an id that would be unsafe in a path or that the CNI specification does not allow.
///
/// No id begins with a dot, so `.`, `..` and our temporary files are not ids.
pub(crate) fn validate(id: &str) -> Result<(), Error> {
    let bytes = id.as_bytes();
    let valid = bytes.len() <= MAX_ID
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b));
    if valid {
        Ok(())
    } else {
        // The id may come from outside and goes into a log: no more of it than helps.
        Err(Error::InvalidId { id: id.chars().take(80).collect(), limit: MAX_ID })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_ids_are_valid() {
        for id in ["a", "0", "echo-1a2b3c4d", "A_b.c-d", "a..b", &"x".repeat(MAX_ID)] {
            assert!(validate(id).is_ok(), "{id:?}");
        }
        for id in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "_a",
            "a/b",
            "../a",
            "a b",
            "a\0",
            "a\n",
            "ä",
            &"x".repeat(MAX_ID + 1),
        ] {
            let message = validate(id).unwrap_err().to_string();
            assert!(message.contains("is not valid"), "{message}");
        }
    }

    #[test]
    fn a_very_long_id_is_shortened_in_the_message() {
        assert!(validate(&"x/".repeat(5000)).unwrap_err().to_string().len() < 300);
    }
}
