//! Image references: what a person writes, and what it means by the naming rules of Docker Hub.
//!
//! Owns parsing and normal forms. Never asks a registry whether the image exists.

use std::fmt;
use std::str::FromStr;

use super::error::{ImageError, shortened};

/// The host that a reference without one means.
pub(super) const DOCKER_HUB: &str = "docker.io";

/// The longest reference that is looked at, in bytes: longer than the longest valid one.
const MAX_TEXT: usize = 1024;

/// The longest repository path, in bytes.
const MAX_REPOSITORY: usize = 255;

/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// A parsed image reference: `[host[:port]/]path[:tag][@sha256:…]`.
///
/// Shown in full, such as `docker.io/library/busybox:latest` for `busybox`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    text: String,
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// The reference as a person wrote it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The registry, with its port if one was given.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path inside the registry, such as `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when neither tag nor digest was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference has one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The name under which the image with `digest` is pinned: `host/path@sha256:…`.
    #[must_use]
    pub fn pinned(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.host, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        parse(text).map_err(|reason| ImageError::InvalidReference {
            text: shortened(text, 120),
            reason: reason.to_owned(),
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > MAX_TEXT {
        return Err("it is too long");
    }
    if text.contains("://") {
        return Err("leave out the scheme, such as https://");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
        Some(_) => return Err("behind '@' it needs a digest: sha256: and 64 digits 0-9a-f"),
        None => (text, None),
    };
    // A colon before the last slash belongs to the port of the registry.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match rest[last..].find(':') {
        Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(
            "a tag is 1 to 128 letters, digits, '_', '.' and '-', and does not begin with '.' or '-'",
        );
    }
    let (host, repository) = split_host(path)?;
    check_repository(&repository)?;
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { text: text.to_owned(), host, repository, tag, digest })
}

/// The first segment is a registry when it can be no path on Docker Hub: it has a dot or a colon, or is `localhost`.
fn split_host(path: &str) -> Result<(String, String), &'static str> {
    let (host, repository) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (first.to_ascii_lowercase(), rest.to_owned())
        }
        _ => (DOCKER_HUB.to_owned(), path.to_owned()),
    };
    if !is_host(&host) {
        return Err("the registry in front of the first '/' is not host[:port]");
    }
    let host = if host == "index.docker.io" { DOCKER_HUB.to_owned() } else { host };
    let official = host == DOCKER_HUB && !repository.contains('/');
    let repository =
        if official && !repository.is_empty() { format!("library/{repository}") } else { repository };
    Ok((host, repository))
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => (&host[..colon], Some(&host[colon + 1..])),
        _ => (host, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_label),
    };
    is_name && port.is_none_or(is_port)
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.is_empty() {
        return Err("it names no repository");
    }
    if repository.len() > MAX_REPOSITORY {
        return Err("its repository is longer than 255 characters");
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("a repository is written in lower case");
    }
    if repository.split('/').all(is_path_segment) {
        Ok(())
    } else {
        Err(
            "each part of a repository is lower-case letters and digits, with single '.', '_', '__' or dashes between them",
        )
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_segment(segment: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = segment.as_bytes();
    let ends_are_words = bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    let separators = segment.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends_are_words
        && separators
            .filter(|s| !s.is_empty())
            .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Is `text` a digest that we take: `sha256:` and 64 lower-case hex digits? No registry in use serves another kind.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_reference_means_what_docker_hub_says() {
        let with_digest = format!("busybox@{DIGEST}");
        let with_both = format!("localhost:5000/a/b:1@{DIGEST}");
        let table = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("owner/app", "docker.io/owner/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/owner/app:v2", "docker.io/owner/app:v2"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("127.0.0.1:5000/a/b/c:x_1.y-2", "127.0.0.1:5000/a/b/c:x_1.y-2"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("[::1]/app", "[::1]/app:latest"),
            ("GHCR.io/owner/a__b-c---d.e", "ghcr.io/owner/a__b-c---d.e:latest"),
            (with_digest.as_str(), &format!("docker.io/library/{with_digest}")),
            (with_both.as_str(), &with_both),
        ];
        for (text, full) in table {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.text(), text);
            let again: Reference = full.parse().unwrap();
            assert_eq!(again.to_string(), full, "the full form means itself");
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_default_tag() {
        let reference: Reference = format!("owner/app@{DIGEST}").parse().unwrap();
        assert_eq!((reference.tag(), reference.digest()), (None, Some(DIGEST)));
        let reference: Reference = "owner/app".parse().unwrap();
        assert_eq!((reference.tag(), reference.digest()), (Some("latest"), None));
        assert_eq!(reference.pinned(DIGEST), format!("docker.io/owner/app@{DIGEST}"));
        assert_eq!((reference.host(), reference.repository()), ("docker.io", "owner/app"));
    }

    #[test]
    fn what_is_no_reference_is_refused_with_a_reason() {
        let long_path = format!("localhost/{}", "a".repeat(256));
        let long_tag = format!("a:{}", "t".repeat(129));
        let table = [
            ("", "empty"),
            ("https://docker.io/busybox", "scheme"),
            ("Busybox", "lower case"),
            ("owner/App", "lower case"),
            ("a b", "each part"),
            ("a//b", "each part"),
            ("/a", "each part"),
            ("a/", "each part"),
            ("-a", "each part"),
            ("a-", "each part"),
            ("a..b", "each part"),
            ("a___b", "each part"),
            ("a._b", "each part"),
            ("../etc/passwd", "registry"),
            ("host.tld/", "no repository"),
            ("host.tld:0/a", "registry"),
            ("host.tld:99999/a", "registry"),
            ("[::1/a", "registry"),
            ("-x.y/a", "registry"),
            ("a:", "tag"),
            ("a:.b", "tag"),
            ("a:b c", "tag"),
            ("a@sha256:12", "digest"),
            ("a@md5:0123456789abcdef", "digest"),
            ("a@", "digest"),
            ("ä", "each part"),
            (&long_path, "255"),
            (&long_tag, "tag"),
            (&"a".repeat(5000), "too long"),
        ];
        for (text, reason) in table {
            match text.parse::<Reference>() {
                Err(ImageError::InvalidReference { reason: why, .. }) => {
                    assert!(why.contains(reason), "{text:?}: {why}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_error_shows_no_more_than_the_beginning_of_a_bad_text() {
        let error = "Ä\n".repeat(2000).parse::<Reference>().unwrap_err().to_string();
        assert!(error.chars().count() < 300, "{error}");
        assert!(!error.contains('\n'));
    }
}
