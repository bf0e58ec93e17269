//! Which of the manifests in an index is for this machine.
//!
//! Owns the choice. Pure: what there is comes in, what to take goes out.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::manifest::Descriptor;

/// An operating system and a processor, in the words of Go that registries use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v8`, `v7`, …; absent where it goes without saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this program was built for.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well what is built for `other` runs here: 0 is best, `None` not at all.
    fn distance(&self, other: &Self) -> Option<u32> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        // A processor runs what was built for the older ones of its line, never for newer ones.
        self.level().checked_sub(other.level())
    }

    /// The variant as a number, so that `v6` runs on `v7`; without one, the variant that goes without saying.
    fn level(&self) -> u32 {
        let said = self.variant.as_deref().and_then(|v| v.strip_prefix('v')).and_then(|v| v.parse().ok());
        said.unwrap_or(match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        })
    }

    /// Can what says that it was built for `other` run here? Who says nothing is believed.
    pub(super) fn runs(&self, other: &Self) -> bool {
        (other.architecture.is_empty() && other.os.is_empty()) || self.distance(other).is_some()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// The manifest for `host` among `manifests`, or else the platforms that there are.
pub(super) fn choose<'a>(
    manifests: &'a [Descriptor],
    host: &Platform,
) -> Result<&'a Descriptor, Vec<String>> {
    let best = manifests
        .iter()
        .filter_map(|m| Some((host.distance(m.platform.as_ref()?)?, m)))
        // The first of equals, as the order of an index is its publisher's.
        .min_by_key(|(distance, _)| *distance);
    if let Some((_, manifest)) = best {
        return Ok(manifest);
    }
    match manifests {
        // Tools that build for one platform do not always say which: the image's own configuration does.
        [only] if only.platform.is_none() => Ok(only),
        _ => Err(platforms(manifests)),
    }
}

fn platforms(manifests: &[Descriptor]) -> Vec<String> {
    let mut names: Vec<String> = manifests
        .iter()
        .filter_map(|m| m.platform.as_ref())
        // Attestations stand in an index as manifests for `unknown/unknown`.
        .filter(|platform| platform.os != "unknown")
        .map(Platform::to_string)
        .collect();
    names.dedup();
    if names.is_empty() {
        names.push("no platform at all".to_owned());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform { os: parts.next().unwrap(), architecture: parts.next().unwrap(), variant: parts.next() }
    }

    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let describe = |(at, text): (usize, &&str)| Descriptor {
            size: at as u64,
            platform: (!text.is_empty()).then(|| platform(text)),
            ..Descriptor::default()
        };
        platforms.iter().enumerate().map(describe).collect()
    }

    #[test]
    fn the_best_that_runs_here_is_taken() {
        let table: [(&str, &[&str], usize); 11] = [
            ("linux/amd64", &["linux/arm64", "linux/amd64"], 1),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64"], 1),
            ("linux/amd64", &["windows/amd64", "linux/amd64/v1"], 1),
            ("linux/arm64/v8", &["linux/arm/v7", "linux/arm64"], 1),
            ("linux/arm64/v8", &["linux/arm64/v9", "linux/arm64/v8"], 1),
            ("linux/arm64", &["linux/arm64/v8"], 0),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm64"], 1),
            ("linux/arm/v7", &["linux/arm/v6", "linux/arm/v7"], 1),
            ("linux/amd64", &["linux/amd64", "linux/amd64"], 0),
            ("linux/amd64", &["unknown/unknown", "linux/amd64"], 1),
            ("linux/amd64", &[""], 0),
        ];
        for (host, there, taken) in table {
            let there = index(there);
            let chosen = choose(&there, &platform(host)).unwrap();
            assert_eq!(chosen.size, taken as u64, "{host} of {there:?}");
        }
    }

    #[test]
    fn what_there_is_instead_is_listed() {
        let table: [(&str, &[&str], &[&str]); 4] = [
            (
                "linux/amd64",
                &["linux/arm64", "unknown/unknown", "linux/arm/v7"],
                &["linux/arm64", "linux/arm/v7"],
            ),
            ("linux/arm/v6", &["linux/arm/v7"], &["linux/arm/v7"]),
            ("linux/amd64", &[], &["no platform at all"]),
            ("linux/amd64", &["", ""], &["no platform at all"]),
        ];
        for (host, there, listed) in table {
            assert_eq!(choose(&index(there), &platform(host)).unwrap_err(), listed, "{host}");
        }
    }

    #[test]
    fn an_image_that_says_nothing_of_its_platform_is_believed() {
        let here = platform("linux/amd64");
        let silent = Platform { os: String::new(), architecture: String::new(), variant: None };
        assert!(here.runs(&silent));
        assert!(here.runs(&platform("linux/amd64")));
        assert!(!here.runs(&platform("linux/arm64")));
    }
}
