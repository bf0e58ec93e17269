//! The checks: pure functions from the facts to a finding.

pub(super) mod containerd;
pub(super) mod firewall;
pub(super) mod kernel;
pub(super) mod machine;
pub(super) mod network;
pub(super) mod secrets;
pub(super) mod service;
pub(super) mod settings;

use super::facts::Facts;

/// The first two numbers of a version, wherever they begin: `v1.6.20~ds1`, `6.1.0-rpi7`.
fn version(text: &str) -> Option<(u32, u32)> {
    let text = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// How a setting is written, and where.
fn set(facts: &Facts, section: &str, line: &str) -> String {
    format!("in {}, below [{section}]: {line}", facts.config_path.display())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn a_version_is_its_first_two_numbers() {
        for (text, expected) in [
            ("1.6.20~ds1", Some((1, 6))),
            ("v2.0.0-rc.1", Some((2, 0))),
            ("6.18.44-fc-v782", Some((6, 18))),
            ("5", None),
            ("none", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }
}
