//! `/system/info`.

use axum::Json;
use serde_json::{Value, json};

/// The commit that this build was made from, if the build knew it.
pub(crate) const COMMIT: &str = match option_env!("ROOST_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

pub(super) async fn info() -> Json<Value> {
    let version = json!({ "release": env!("CARGO_PKG_VERSION"), "sha": COMMIT, "commit_message": "" });
    Json(json!({
        "provider": { "provider": "roost", "version": version, "orchestration": "containerd" },
        "version": version,
        "arch": std::env::consts::ARCH,
    }))
}
