//! The images of the examples, built as their READMEs say: by their own `build.sh`, with the `roost` of this build.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::{program, repository};

/// An example whose image its `build.sh` builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Example {
    /// Node with express and `ws`. Its packages come from npm's registry.
    NodeWs,
    /// Node with Socket.IO. Its packages come from npm's registry.
    SocketIo,
    /// A chat of AWS Lambda's. Its packages come from npm's registry.
    ChatLambda,
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
        static LAMBDA_PYTHON: OnceCell<PathBuf> = OnceCell::const_new();
        static SHELL: OnceCell<PathBuf> = OnceCell::const_new();
        let built = match self {
            Self::NodeWs => &NODE_WS,
            Self::SocketIo => &SOCKET_IO,
            Self::ChatLambda => &CHAT_LAMBDA,
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
