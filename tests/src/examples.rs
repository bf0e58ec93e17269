//! The images of the examples, built as their READMEs say: by their own `build.sh`, with the `roost` of this build.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::{Config, Host, clients, program, repository};

/// An example whose image its `build.sh` builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Example {
    /// Node with express and `ws`. Its packages come from npm's registry.
    NodeWs,
    /// Node with Socket.IO. Its packages come from npm's registry.
    SocketIo,
    /// A chat of AWS Lambda's. Its packages come from npm's registry.
    ChatLambda,
    /// Node without packages.
    Agent,
    /// A Lambda function in Python under AWS' own runtime. Its packages come from PyPI.
    LambdaPython,
    /// A shell script under a watchdog. Compiles the watchdog.
    Shell,
}

impl Example {
    /// The name of its directory, and of its image.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeWs => "node-ws",
            Self::SocketIo => "socket-io",
            Self::ChatLambda => "chat-lambda",
            Self::Agent => "agent",
            Self::LambdaPython => "lambda-python",
            Self::Shell => "shell",
        }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(self) -> PathBuf {
        repository().join("examples").join(self.name())
    }

    /// Its image as a file below the target directory. It is built once in each test program.
    ///
    /// # Panics
    /// When it cannot be built.
    pub async fn archive(self) -> PathBuf {
        static NODE_WS: OnceCell<PathBuf> = OnceCell::const_new();
        static SOCKET_IO: OnceCell<PathBuf> = OnceCell::const_new();
        static CHAT_LAMBDA: OnceCell<PathBuf> = OnceCell::const_new();
        static AGENT: OnceCell<PathBuf> = OnceCell::const_new();
        static LAMBDA_PYTHON: OnceCell<PathBuf> = OnceCell::const_new();
        static SHELL: OnceCell<PathBuf> = OnceCell::const_new();
        let built = match self {
            Self::NodeWs => &NODE_WS,
            Self::SocketIo => &SOCKET_IO,
            Self::ChatLambda => &CHAT_LAMBDA,
            Self::Agent => &AGENT,
            Self::LambdaPython => &LAMBDA_PYTHON,
            Self::Shell => &SHELL,
        };
        built.get_or_init(|| self.build()).await.clone()
    }

    async fn build(self) -> PathBuf {
        let archive = images().join(format!("{}.tar", self.name()));
        let mut command = Command::new(self.dir().join("build.sh"));
        command
            .arg("-o")
            .arg(&archive)
            .env("ROOST", program("roost"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        archive
    }
}

/// Where images are built.
fn images() -> PathBuf {
    let images = program("roost").with_file_name("example-images");
    std::fs::create_dir_all(&images).unwrap();
    images
}

/// An image of a directory as a file, built by `roost image build` with these further arguments.
///
/// # Panics
/// When it cannot be built.
pub async fn image_of(root: &Path, name: &str, args: &[&str]) -> PathBuf {
    let archive = images().join(format!("{name}.tar"));
    let mut command = Command::new(program("roost"));
    command.args(["image", "build", "-t", name]).args(args).arg("-o").arg(&archive).arg(root);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    archive
}

/// The root directory of an example's image, copied to `root` to be changed.
///
/// # Panics
/// When it cannot be built or copied.
pub async fn copy_of(example: Example, root: &Path) {
    example.archive().await;
    let copied = Command::new("cp").arg("-a").arg(example.dir().join("rootfs")).arg(root).status().await;
    assert!(copied.unwrap().success(), "{}", root.display());
}

/// A program of Node's on this machine, as a function: the image is that of the node-ws example, and its server and its packages
/// are mounted.
#[derive(Debug)]
pub struct NodeApp {
    directory: PathBuf,
    packages: PathBuf,
}

impl NodeApp {
    /// Of these files, each with its name; `server.js` is what is run. The packages are those that `tests/clients/setup` installs.
    ///
    /// # Panics
    /// When they cannot be copied, or the packages not installed.
    pub async fn new(directory: &Path, files: &[(&Path, &str)]) -> Self {
        for (source, name) in files {
            std::fs::copy(source, directory.join(name)).unwrap();
        }
        std::fs::write(directory.join("package.json"), r#"{"type":"module"}"#).unwrap();
        // It runs as a user of its own.
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory: directory.to_owned(), packages: clients().await.node_modules() }
    }

    /// A host with the image on it that lets functions have these directories.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn host(&self) -> Host {
        let archive = Example::NodeWs.archive().await;
        let mounts = [&self.directory, &self.packages].map(|path| path.display().to_string()).to_vec();
        let host = Host::start_with(Config { mounts, ..Config::default() }).await;
        host.log_in().await;
        host.roost_done(&["image", "import", archive.to_str().unwrap()]).await;
        host
    }

    /// A deployment of it as `name`, with these annotations beside its own.
    #[must_use]
    pub fn deployment(&self, name: &str, mut annotations: Value) -> Value {
        annotations["roost.mount.app"] = json!(format!("{}:/app", self.directory.display()));
        annotations["roost.mount.packages"] = json!(format!("{}:/node_modules", self.packages.display()));
        json!({ "service": name, "image": Example::NodeWs.name(), "annotations": annotations })
    }
}
