//! `ctr run`: what a start takes without Roost, with the same image on the same containerd.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use roost_tests::{Host, Image, Subnet, eventually, free_port};
use serde_json::json;

/// The namespace of containerd that these containers are in.
const NAMESPACE: &str = "plain";
/// The image's name there.
const IMAGE: &str = "docker.io/library/echo:1";

/// What network a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// None of its own.
    Host,
    /// A bridge, by `ctr run --cni`: an address, and no rule of its own in the firewall.
    Cni,
}

impl Network {
    pub(crate) const ALL: [Self; 2] = [Self::Host, Self::Cni];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Host => "ctr run, host network",
            Self::Cni => "ctr run, CNI bridge",
        }
    }
}

/// Starts and ends plain containers. What it made on the machine goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Plain {
    socket: PathBuf,
    dir: PathBuf,
    subnet: Subnet,
    /// Keeps the mount namespace in which `ctr` finds its network: it looks for it nowhere but in /etc and /opt.
    room: Child,
}

impl Plain {
    pub(crate) async fn on(host: &Host) -> Self {
        let dir = host.dir().join("plain");
        fs::create_dir_all(dir.join("net.d")).unwrap();
        fs::write(dir.join("echo.tar"), Image::echo().archive(IMAGE)).unwrap();
        let subnet = Subnet::new();
        let conflist = json!({
            "cniVersion": "0.4.0",
            "name": "plain",
            "plugins": [{
                "type": "bridge",
                "bridge": subnet.bridge(),
                "isGateway": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": dir.join("ipam"),
                    "ranges": [[{ "subnet": subnet.range() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }],
        });
        fs::write(dir.join("net.d/10-plain.conflist"), conflist.to_string()).unwrap();
        let script = format!(
            "set -e
             mkdir -p {dir}/etc {dir}/work
             mount -t overlay -o lowerdir=/etc,upperdir={dir}/etc,workdir={dir}/work overlay /etc
             mkdir -p /etc/cni/net.d
             mount --bind {dir}/net.d /etc/cni/net.d
             mount -t tmpfs none /opt
             mkdir -p /opt/cni/bin
             mount --bind /usr/lib/cni /opt/cni/bin
             touch {dir}/furnished
             exec sleep infinity",
            dir = dir.display()
        );
        let mut room = Command::new("unshare");
        room.args(["--mount", "--propagation", "private", "sh", "-c", &script]).stdin(Stdio::null());
        let room = room.spawn().unwrap();
        eventually("a room for ctr", || async { dir.join("furnished").exists().then_some(()) }).await;
        let plain = Self { socket: host.containerd_socket(), dir, subnet, room };
        let archive = plain.dir.join("echo.tar");
        plain.ctr(&["images", "import", archive.to_str().unwrap()]).await;
        plain
    }

    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.room.id())).arg("ctr");
        command.arg("--address").arg(&self.socket).args(["--namespace", NAMESPACE]).args(args);
        command.stdin(Stdio::null());
        command
    }

    async fn ctr(&self, args: &[&str]) {
        let output = self.command(args).output().await.unwrap();
        assert!(output.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts a container and waits until its port answers; then removes it.
    pub(crate) async fn run(&self, network: Network, round: usize) -> Duration {
        let id = format!("plain-{round}");
        // None that the kernel chooses for a connection: while it is tried again and again, that could be one to itself.
        let port = free_port();
        let env = format!("PORT={port}");
        let how = match network {
            Network::Host => "--net-host",
            Network::Cni => "--cni",
        };
        let begun = Instant::now();
        // It prints nothing, but what it starts would keep a pipe of its output open.
        let mut run = self.command(&["run", "--detach", how, "--env", &env, IMAGE, &id]);
        let status = run.stdout(Stdio::null()).status().await.unwrap();
        assert!(status.success(), "ctr run: {status}");
        let address = match network {
            Network::Host => "127.0.0.1".to_owned(),
            Network::Cni => self.address(),
        };
        let answered = crate::roost::first_byte(&address, port, "/headers").await;
        let took = begun.elapsed();
        if let Err(why) = answered {
            let tasks = self.command(&["tasks", "list"]).output().await.unwrap();
            panic!("{}: {why}\n{}", network.name(), String::from_utf8_lossy(&tasks.stdout));
        }
        self.remove(&id).await;
        took
    }

    /// The address that was given to the only container.
    fn address(&self) -> String {
        let given = fs::read_dir(self.dir.join("ipam/plain")).unwrap().flatten();
        let mut names = given.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.find(|name| name.starts_with("10.")).expect("an address")
    }

    async fn remove(&self, id: &str) {
        self.ctr(&["tasks", "delete", "--force", id]).await;
        self.ctr(&["containers", "delete", id]).await;
        // Its end of the network went with its namespace. Nobody gives back its address.
        fs::remove_dir_all(self.dir.join("ipam")).ok();
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.room.kill().expect("a child can be killed");
        self.room.wait().expect("a child can be waited for");
        let removed = Command::new("ip").args(["link", "delete", &self.subnet.bridge()]).status();
        assert!(removed.is_ok_and(|status| status.success()), "the bridge of ctr stays");
    }
}
