//! What is spoken to a function's replicas, as a deployment says it.
//!
//! Owns the annotation `roost.protocol`. A label of this name counts the same; an annotation goes before a label. A change
//! of it replaces the replicas: what a replica speaks is a matter of its program.

use std::collections::BTreeMap;

use crate::function::spec::Deployment;

/// The name of the setting.
pub(crate) const PROTOCOL: &str = "roost.protocol";

/// What is spoken to a replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2, by prior knowledge. What is to become a WebSocket is asked for in HTTP/1.1.
    H2c,
}

/// What a deployment says.
///
/// # Errors
/// When it says something else, named by its field.
pub fn parse(deployment: &Deployment) -> Result<Protocol, String> {
    of(&deployment.settings()).map_err(|why| {
        let kind = if deployment.annotations.contains_key(PROTOCOL) { "annotations" } else { "labels" };
        format!("{kind}.{why}")
    })
}

/// What the settings of a deployment say.
///
/// # Errors
/// When they say something else, named by the setting.
pub(super) fn of(settings: &BTreeMap<&str, &str>) -> Result<Protocol, String> {
    match settings.get(PROTOCOL).map(|value| value.trim()) {
        None | Some("http") => Ok(Protocol::Http),
        Some("h2c") => Ok(Protocol::H2c),
        Some(other) => Err(format!("{PROTOCOL}: {other:?}: expected http or h2c")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_or_a_label_says_so_and_what_is_not_known_is_refused_by_name() {
        let map =
            |value: Option<&str>| value.map(|value| (PROTOCOL.into(), value.into())).into_iter().collect();
        for (annotation, label, expected) in [
            (None, None, Ok(Protocol::Http)),
            (Some("h2c"), None, Ok(Protocol::H2c)),
            (None, Some(" h2c "), Ok(Protocol::H2c)),
            (Some("http"), Some("h2c"), Ok(Protocol::Http)),
            (Some("h2"), None, Err("annotations.roost.protocol: \"h2\": expected http or h2c")),
            (None, Some(""), Err("labels.roost.protocol: \"\": expected http or h2c")),
        ] {
            let deployment =
                Deployment { annotations: map(annotation), labels: map(label), ..Deployment::default() };
            assert_eq!(parse(&deployment), expected.map_err(str::to_owned));
        }
    }
}
