//! What a Lambda runtime finds in its environment.
//!
//! Owns these names and their values. What the image or the deployment says of one of them counts before it, but for where
//! the Runtime API is. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::function::spec::FunctionSpec;
use crate::image::ImageConfig;
use crate::lambda::runtimes::RUNTIME_PORT;

/// Where this is, to clients of AWS.
const REGION: &str = "roost";

/// What a function without a limit is told of its memory, in MB: the most at AWS.
const MOST_MEMORY: u64 = 10_240;

const API: &str = "AWS_LAMBDA_RUNTIME_API";

/// The variables of a replica of `spec`, made from an image that says this of running it.
#[must_use]
pub fn of(spec: &FunctionSpec, image: &ImageConfig) -> BTreeMap<String, String> {
    let name = spec.key.name.as_str();
    let memory = spec.limits.memory_bytes.map_or(MOST_MEMORY, |bytes| (bytes >> 20).max(1));
    let mut all = vec![
        ("AWS_DEFAULT_REGION", REGION.to_owned()),
        (API, format!("gateway:{RUNTIME_PORT}")),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory.to_string()),
        ("AWS_LAMBDA_FUNCTION_NAME", name.to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}")),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "roost".to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
        ("TZ", ":UTC".to_owned()),
    ];
    // As in AWS' images, whose entry point takes it from there.
    all.extend(image.cmd.last().map(|handler| ("_HANDLER", handler.clone())));
    let set: BTreeSet<&str> = image
        .env
        .iter()
        .map(|variable| variable.split_once('=').map_or(&**variable, |(name, _)| name))
        .collect();
    let free = all.into_iter().filter(|(name, _)| *name == API || !set.contains(name));
    free.map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_runtime_finds_itself_its_handler_and_this_host_and_keeps_what_its_image_says() {
        let sent = json!({ "service": "f", "image": "i", "limits": { "memory": "128Mi" } });
        let spec = FunctionSpec::parse(serde_json::from_value(sent).unwrap()).unwrap();
        let image = ImageConfig {
            cmd: vec!["app.handler".to_owned()],
            env: ["LAMBDA_TASK_ROOT=/app", "AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001"]
                .map(str::to_owned)
                .to_vec(),
            ..ImageConfig::default()
        };
        let environment = of(&spec, &image);
        for (name, value) in [
            ("_HANDLER", Some("app.handler")),
            (API, Some("gateway:2018")),
            ("AWS_LAMBDA_FUNCTION_NAME", Some("f")),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", Some("128")),
            ("LAMBDA_TASK_ROOT", None),
        ] {
            assert_eq!(environment.get(name).map(String::as_str), value, "{name}");
        }
    }
}
