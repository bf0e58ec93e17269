//! Whether a function's answers are compressed, as a deployment says it.
//!
//! Owns the annotation `roost.compression`. A label of this name counts the same; an annotation goes before a label.

use crate::function::spec::Deployment;

/// The name of the setting. Replicas never see it: a change of it alone replaces none.
pub(super) const COMPRESSION: &str = "roost.compression";

/// Are answers that are text compressed for clients that take that?
///
/// # Errors
/// When it says neither, named by its field.
pub fn parse(deployment: &Deployment) -> Result<bool, String> {
    let Some(value) = deployment.settings().remove(COMPRESSION) else { return Ok(false) };
    match value.trim() {
        "gzip" => Ok(true),
        "off" => Ok(false),
        other => {
            let kind =
                if deployment.annotations.contains_key(COMPRESSION) { "annotations" } else { "labels" };
            Err(format!("{kind}.{COMPRESSION}: {other:?}: expected gzip or off"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_or_a_label_says_so_and_what_is_not_known_is_refused_by_name() {
        let map =
            |value: Option<&str>| value.map(|value| (COMPRESSION.into(), value.into())).into_iter().collect();
        for (annotation, label, expected) in [
            (None, None, Ok(false)),
            (Some("gzip"), None, Ok(true)),
            (None, Some(" gzip "), Ok(true)),
            (Some("off"), Some("gzip"), Ok(false)),
            (Some("br"), None, Err("annotations.roost.compression: \"br\": expected gzip or off")),
            (None, Some(""), Err("labels.roost.compression: \"\": expected gzip or off")),
        ] {
            let deployment =
                Deployment { annotations: map(annotation), labels: map(label), ..Deployment::default() };
            assert_eq!(parse(&deployment), expected.map_err(str::to_owned));
        }
    }
}
