//! What the image tests run against: a containerd of their own, a registry of their own, a line that breaks on demand.

pub(crate) mod containerd;
pub(crate) mod line;
pub(crate) mod made;
pub(crate) mod registry;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use roost_proxy::function::Namespace;
use roostd::image::{ImageError, Images, Platform, Progress, PullPolicy, Reference, ResolvedImage, Settings};
use roostd::runtime::containerd::client::Client;

use self::containerd::PrivateContainerd;

/// How long anything here may take before it counts as stuck.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A host of images: its own containerd, and the settings that a test may change.
pub(crate) struct Host {
    pub(crate) containerd: PrivateContainerd,
    pub(crate) settings: Settings,
}

impl Host {
    pub(crate) async fn new() -> Self {
        static TLS: Once = Once::new();
        TLS.call_once(|| {
            rustls::crypto::ring::default_provider().install_default().unwrap();
            tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).init();
        });
        let containerd = PrivateContainerd::start().await;
        let settings = Settings {
            snapshotter: "overlayfs".to_owned(),
            platform: Platform { os: "linux".into(), architecture: "amd64".into(), variant: None },
            docker_config: containerd.dir().join("config.json"),
            registries: HashMap::new(),
            max_image_bytes: 64 << 20,
            max_layer_bytes: 32 << 20,
            work_dir: containerd.dir().to_owned(),
        };
        Self { containerd, settings }
    }

    pub(crate) fn images(&self) -> Images {
        Images::new(self.settings.clone(), Client::new(&self.containerd.socket())).unwrap()
    }

    pub(crate) async fn pull(
        &self,
        reference: &str,
        policy: PullPolicy,
    ) -> Result<ResolvedImage, ImageError> {
        let reference: Reference = reference.parse().unwrap();
        self.images().ensure(&Namespace::default(), &reference, policy, &Progress::new()).await
    }
}

/// Runs a tool that has to succeed.
pub(crate) fn run(program: &str, arguments: &[&str], dir: &Path) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until `holds` does.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
