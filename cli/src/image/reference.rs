//! The name of an image that we build: `name[:tag]`, written in full by Docker Hub's rules.

use std::fmt;
use std::str::FromStr;

/// The longest tag a registry takes.
const MAX_TAG: usize = 128;
/// The longest repository name a registry takes.
const MAX_REPOSITORY: usize = 255;

/// A name and a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    repository: String,
    tag: String,
}

impl Reference {
    /// A name of ours that is known to be right.
    pub(super) fn tagged(repository: &str, tag: &str) -> Self {
        Self { repository: repository.to_owned(), tag: tag.to_owned() }
    }

    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// With registry and tag, so that it means the same everywhere.
    pub(crate) fn full(&self) -> String {
        let (first, rest) = self.repository.split_once('/').unwrap_or(("", &self.repository));
        let is_host = first == "localhost" || first.contains(['.', ':']);
        match (first, is_host) {
            ("docker.io", _) if !rest.contains('/') => format!("docker.io/library/{rest}:{}", self.tag),
            (_, true) => self.to_string(),
            ("", _) => format!("docker.io/library/{self}"),
            _ => format!("docker.io/{self}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("{why}; write it like echo, echo:1.0 or registry.lan:5000/team/echo:1.0");
        if text.contains('@') {
            return Err(wrong("a name with a digest cannot be given to a new image"));
        }
        // A colon before the last slash belongs to the registry's port.
        let (repository, tag) = match text.rsplit_once(':') {
            Some((before, after)) if !after.contains('/') => (before, after),
            _ => (text, "latest"),
        };
        let tag_byte = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if tag.is_empty() || tag.len() > MAX_TAG || !tag.bytes().all(tag_byte) || tag.starts_with(['.', '-'])
        {
            return Err(wrong("the tag is not a tag"));
        }
        let mut parts = repository.split('/').peekable();
        let first = parts.peek().copied().unwrap_or_default();
        if repository.contains('/') && (first == "localhost" || first.contains(['.', ':'])) {
            parts.next();
        }
        let edge = |part: &str| part.starts_with(['.', '-', '_']) || part.ends_with(['.', '-', '_']);
        let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if repository.len() > MAX_REPOSITORY || parts.any(|p| p.is_empty() || edge(p) || !p.bytes().all(byte))
        {
            return Err(wrong("the name may hold a-z, 0-9, and '.', '-', '_' inside"));
        }
        Ok(Self { repository: repository.to_owned(), tag: tag.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_in_full() {
        let table = [
            ("echo", "docker.io/library/echo:latest"),
            ("team/echo:1", "docker.io/team/echo:1"),
            ("docker.io/echo", "docker.io/library/echo:latest"),
            ("docker.io/team/echo", "docker.io/team/echo:latest"),
            ("localhost/echo", "localhost/echo:latest"),
            ("registry.lan:5000/a/b:v1", "registry.lan:5000/a/b:v1"),
            ("registry.lan:5000/a", "registry.lan:5000/a:latest"),
        ];
        for (text, full) in table {
            assert_eq!(text.parse::<Reference>().unwrap().full(), full);
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for text in ["", "Echo", "a:", "a:b c", "a//b", "-a", "a@sha256:00", "a:.x", "é"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
