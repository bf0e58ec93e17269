//! What this containerd is and can do: asked, never guessed from its version.

use std::path::PathBuf;

use containerd_client::services::v1::PluginsRequest;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::version_client::VersionClient;
use roost_proxy::function::Namespace;

use super::client::Client;
use super::error::Kind;
use super::{Error, Settings};

/// The type of the plugins that are snapshotters.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";

/// What containerd says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its version, such as `1.6.20`.
    pub version: String,
    /// The snapshotters that work on this host.
    pub snapshotters: Vec<String>,
    /// Where the snapshotter of the settings keeps root file systems, if it says so.
    pub root: Option<PathBuf>,
}

/// Asks, and checks what the settings need.
pub(super) async fn check(client: &Client, settings: &Settings) -> Result<Version, Error> {
    let Version { version, snapshotters, root } = ask(client, settings).await?;
    if !snapshotters.contains(&settings.snapshotter) {
        return Err(Error::NoSnapshotter { wanted: settings.snapshotter.clone(), present: snapshotters });
    }
    Ok(Version { version, snapshotters, root })
}

/// Asks.
pub(super) async fn ask(client: &Client, settings: &Settings) -> Result<Version, Error> {
    if !settings.socket.exists() {
        return Err(Error::NoSocket { socket: settings.socket.clone() });
    }
    let scope = client.scope(&Namespace::default());
    let answer = VersionClient::new(scope.channel()).version(scope.call(())).await;
    let version = answer.map_err(|status| match Kind::of(&status) {
        Kind::Unavailable | Kind::Timeout => {
            Error::Silent { socket: settings.socket.clone(), reason: reason(&status) }
        }
        _ => Error::call("ask for the version of", "containerd")(status),
    })?;

    let request = PluginsRequest { filters: vec![format!("type=={SNAPSHOTTER}")] };
    let plugins = IntrospectionClient::new(scope.channel())
        .plugins(scope.call(request))
        .await
        .map_err(Error::call("list", "plugins"))?
        .into_inner()
        .plugins;
    let root = plugins.iter().find(|plugin| plugin.id == settings.snapshotter);
    let root = root.and_then(|plugin| plugin.exports.get("root")).map(PathBuf::from);
    // One that could not start on this host is listed too, with its error.
    let snapshotters =
        plugins.into_iter().filter(|plugin| plugin.init_err.is_none()).map(|plugin| plugin.id).collect();
    Ok(Version { version: version.into_inner().version, snapshotters, root })
}

/// The innermost cause, which is what the kernel said: the outer ones only say "transport error".
fn reason(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
