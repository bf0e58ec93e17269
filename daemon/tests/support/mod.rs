//! A containerd of a test's own, and images to run in it.
//!
//! Everything lives in one temporary directory and one control group; [`Host::end`] stops it all and checks that
//! nothing is left.

#![allow(clippy::unwrap_used, reason = "the code of tests: what cannot go on ends here")]
#![allow(dead_code, reason = "no test needs all of it")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest};
use containerd_client::types::v1::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_proxy::function::{FunctionKey, Namespace, ReplicaId};
use roostd::image::{ImageConfig, ResolvedImage};
use roostd::runtime::containerd::{Containerd, Settings};
use roostd::runtime::{Limits, ReplicaPlan};

/// How long anything may take before a test gives up on it. Generous: other work shares the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The image's users.
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\napp:x:1234:2345:app:/:/bin/sh\n";
/// The image's groups.
const GROUP: &str = "root:x:0:\napp:x:2345:\nextra:x:3456:app\n";

/// A log driver as small as can be, with the contract of the real one: output is on descriptors 3 and 4, closing
/// 5 says ready, `$2` is `limit:directory`.
const LOG_DRIVER: &str = r#"#!/bin/sh
log="${2#*:}/$CONTAINER_ID.log"
exec 5>&-
/bin/busybox cat <&4 >>"$log.err" &
/bin/busybox cat <&3 >>"$log"
wait
"#;

/// A private containerd with one image, and a network namespace for replicas.
pub(crate) struct Host {
    dir: tempfile::TempDir,
    containerd: Child,
    netns: Child,
    settings: Settings,
}

impl Host {
    /// Starts it, with an image in the default namespace.
    pub(crate) async fn start() -> (Self, Containerd) {
        let dir = tempfile::Builder::new().prefix("roost-").rand_bytes(8).tempdir().unwrap();
        let driver = dir.path().join("log driver");
        fs::write(&driver, LOG_DRIVER).unwrap();
        fs::set_permissions(&driver, fs::Permissions::from_mode(0o755)).unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        let settings = Settings {
            socket: dir.path().join("containerd.sock"),
            cgroup_parent: Path::new("/").join(name),
            log_driver: driver,
            ..Settings::default()
        };
        fs::write(dir.path().join("config.toml"), config(dir.path())).unwrap();
        let containerd = spawn_containerd(dir.path());
        let netns = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().unwrap();
        let host = Self { dir, containerd, netns, settings };
        let runtime = host.runtime();
        answers(&runtime).await;
        runtime.ensure_namespace(&Namespace::default()).await.unwrap();
        host.unpack_image(&runtime, &Namespace::default()).await;
        (host, runtime)
    }

    /// Another runtime on the same containerd, as a restarted daemon has it.
    pub(crate) fn runtime(&self) -> Containerd {
        Containerd::new(self.settings.clone())
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The id of this host's `n`th replica. No two hosts have the same: runc keeps its state by namespace and id in
    /// one place, whichever containerd calls it.
    pub(crate) fn id(&self, n: usize) -> ReplicaId {
        format!("probe{}-{n}", self.tag()).parse().unwrap()
    }

    fn tag(&self) -> String {
        let name = self.dir().file_name().unwrap().to_str().unwrap();
        name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| format!("{byte:02x}")).collect()
    }

    /// A plan of the `n`th replica, that runs `script` in the image's shell.
    pub(crate) fn plan(&self, n: usize, script: &str) -> ReplicaPlan {
        ReplicaPlan {
            id: self.id(n),
            function: FunctionKey::new(Namespace::default(), "probe".parse().unwrap()),
            revision: "r1".to_owned(),
            key: None,
            image: ResolvedImage {
                name: "roost.test/busybox:latest".to_owned(),
                digest: "sha256:feed".to_owned(),
                chain_id: "chain-2".to_owned(),
                config: ImageConfig {
                    entrypoint: ["/bin/sh", "-c"].map(str::to_owned).into(),
                    cmd: vec![script.to_owned()],
                    ..ImageConfig::default()
                },
            },
            env: BTreeMap::new(),
            limits: Limits::default(),
            read_only_root: false,
            netns: format!("/proc/{}/ns/net", self.netns.id()).into(),
            address: "10.63.0.2".parse().unwrap(),
            mounts: Vec::new(),
            devices: Vec::new(),
            labels: BTreeMap::new(),
            log_dir: self.dir().join("logs & more"),
            log_limit: 1 << 20,
        }
    }

    /// What the replica has written to its standard output so far.
    pub(crate) fn output(&self, plan: &ReplicaPlan) -> String {
        fs::read_to_string(plan.log_dir.join(format!("{}.log", plan.id))).unwrap_or_default()
    }

    /// Waits until the replica has written `text`, and returns all that it has written.
    pub(crate) async fn output_with(&self, plan: &ReplicaPlan, text: &str) -> String {
        eventually(&format!("{text:?} in the output of {}", plan.id), || {
            let output = self.output(plan);
            output.contains(text).then_some(output)
        })
        .await
    }

    /// Ends containerd as a crash does, and starts it again.
    pub(crate) async fn crash_containerd(&mut self) {
        self.kill_containerd();
        self.restart_containerd().await;
    }

    pub(crate) fn kill_containerd(&mut self) {
        self.containerd.kill().unwrap();
        self.containerd.wait().unwrap();
    }

    pub(crate) async fn restart_containerd(&mut self) {
        self.containerd = spawn_containerd(self.dir.path());
        answers(&self.runtime()).await;
    }

    /// Pauses a replica by containerd, and not by its freezer.
    pub(crate) async fn pause_by_containerd(&self, runtime: &Containerd, id: &ReplicaId) {
        use containerd_client::services::v1::PauseTaskRequest;
        use containerd_client::services::v1::tasks_client::TasksClient;
        let scope = runtime.client().scope(&Namespace::default());
        let request = scope.call(PauseTaskRequest { container_id: id.to_string() });
        TasksClient::new(scope.channel()).pause(request).await.unwrap();
    }

    /// What containerd itself says of a replica's process.
    pub(crate) async fn word(&self, runtime: &Containerd, id: &ReplicaId) -> Status {
        use containerd_client::services::v1::GetRequest;
        use containerd_client::services::v1::tasks_client::TasksClient;
        let scope = runtime.client().scope(&Namespace::default());
        let request = scope.call(GetRequest { container_id: id.to_string(), exec_id: String::new() });
        let got = TasksClient::new(scope.channel()).get(request).await.unwrap().into_inner();
        got.process.unwrap().status()
    }

    /// Asks containerd itself to start a replica: whether it did, in the end.
    pub(crate) fn asks_to_start(
        &self,
        runtime: &Containerd,
        id: &ReplicaId,
    ) -> tokio::task::JoinHandle<bool> {
        use containerd_client::services::v1::StartRequest;
        use containerd_client::services::v1::tasks_client::TasksClient;
        let scope = runtime.client().scope(&Namespace::default());
        let request = scope.call(StartRequest { container_id: id.to_string(), exec_id: String::new() });
        tokio::spawn(async move { TasksClient::new(scope.channel()).start(request).await.is_ok() })
    }

    /// Waits until containerd knows that the program of a replica runs.
    pub(crate) async fn knows_that_it_runs(&self, runtime: &Containerd, id: &ReplicaId) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.word(runtime, id).await != Status::Running {
            assert!(tokio::time::Instant::now() < deadline, "containerd does not come to know of {id}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The shims of this containerd.
    pub(crate) fn shims(&self) -> Vec<Pid> {
        shims(&self.settings.socket)
    }

    /// The directory of a replica's control group in the hierarchy of `controller`.
    pub(crate) fn cgroup(&self, controller: &str, id: &ReplicaId) -> PathBuf {
        let parent = self.settings.cgroup_parent.strip_prefix("/").unwrap();
        let root = Path::new("/sys/fs/cgroup");
        let root = if root.join("memory").exists() { root.join(controller) } else { root.to_owned() };
        root.join(parent).join(Namespace::default().as_str()).join(id.as_str())
    }

    /// Keys of all snapshots but the image's.
    pub(crate) async fn snapshots(&self, runtime: &Containerd) -> Vec<String> {
        use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
        let scope = runtime.client().scope(&Namespace::default());
        let request =
            ListSnapshotsRequest { snapshotter: self.settings.snapshotter.clone(), filters: Vec::new() };
        let mut stream =
            SnapshotsClient::new(scope.channel()).list(scope.call(request)).await.unwrap().into_inner();
        let mut keys = Vec::new();
        while let Some(page) = stream.message().await.unwrap() {
            keys.extend(
                page.info.into_iter().map(|info| info.name).filter(|name| !name.starts_with("chain-")),
            );
        }
        keys
    }

    /// Ids of all leases.
    pub(crate) async fn leases(&self, runtime: &Containerd) -> Vec<String> {
        use containerd_client::services::v1::ListRequest;
        use containerd_client::services::v1::leases_client::LeasesClient;
        let scope = runtime.client().scope(&Namespace::default());
        let listed =
            LeasesClient::new(scope.channel()).list(scope.call(ListRequest::default())).await.unwrap();
        listed.into_inner().leases.into_iter().map(|lease| lease.id).collect()
    }

    /// Stops all replicas and containerd, and checks that nothing is left on the machine.
    pub(crate) async fn end(self) {
        let runtime = self.runtime();
        for replica in runtime.list().await.unwrap() {
            runtime.stop(&replica.function.namespace, &replica.id, Duration::ZERO).await.unwrap();
        }
        assert_eq!(runtime.list().await.unwrap().len(), 0);
        assert_eq!(self.snapshots(&runtime).await, Vec::<String>::new());
        assert_eq!(self.leases(&runtime).await, Vec::<String>::new());
        eventually("the end of all shims", || self.shims().is_empty().then_some(())).await;
        assert_eq!(mounts_below(self.dir()), Vec::<String>::new());
        assert_eq!(cgroups_below(&self.settings.cgroup_parent), Vec::<PathBuf>::new());
    }

    /// Two layers, unpacked as an image's would be: busybox with its users, and a file on top.
    async fn unpack_image(&self, runtime: &Containerd, namespace: &Namespace) {
        let below = self.layer(runtime, namespace, "", "chain-1", |root| {
            for dir in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
                fs::create_dir_all(root.join(dir)).unwrap();
            }
            fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
            fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
            for applet in [
                "sh", "cat", "chmod", "id", "httpd", "mkdir", "sleep", "mount", "unshare", "dd", "ls",
                "touch", "hostname", "env",
            ] {
                symlink("busybox", root.join("bin").join(applet)).unwrap();
            }
            fs::write(root.join("etc/group"), GROUP).unwrap();
        });
        below.await;
        let above = self.layer(runtime, namespace, "chain-1", "chain-2", |root| {
            fs::create_dir_all(root.join("etc")).unwrap();
            // A link that would leave the image if it were followed on the host.
            fs::write(root.join("etc/accounts"), PASSWD).unwrap();
            symlink("/etc/accounts", root.join("etc/passwd")).unwrap();
        });
        above.await;
    }

    async fn layer(
        &self,
        runtime: &Containerd,
        namespace: &Namespace,
        parent: &str,
        name: &str,
        fill: impl FnOnce(&Path),
    ) {
        let scope = runtime.client().scope(namespace);
        let mut snapshots = SnapshotsClient::new(scope.channel());
        // Held for ever: nothing else refers to it.
        let labels = HashMap::from([("containerd.io/gc.root".to_owned(), "now".to_owned())]);
        let request = PrepareSnapshotRequest {
            snapshotter: self.settings.snapshotter.clone(),
            key: format!("chain-of-{name}"),
            parent: parent.to_owned(),
            labels: labels.clone(),
        };
        let mounts = snapshots.prepare(scope.call(request)).await.unwrap().into_inner().mounts;
        let upper = mounts[0].options.iter().find_map(|option| option.strip_prefix("upperdir="));
        fill(Path::new(upper.unwrap_or(&mounts[0].source)));
        let request = CommitSnapshotRequest {
            snapshotter: self.settings.snapshotter.clone(),
            name: name.to_owned(),
            key: format!("chain-of-{name}"),
            labels,
        };
        snapshots.commit(scope.call(request)).await.unwrap();
    }
}

impl Drop for Host {
    /// Also after a failed test: nothing may stay.
    fn drop(&mut self) {
        for mut child in [&mut self.containerd, &mut self.netns].into_iter().map(std::mem::ManuallyDrop::new)
        {
            child.kill().ok();
            child.wait().ok();
        }
        for shim in shims(&self.settings.socket) {
            kill(shim, Signal::SIGKILL).ok();
        }
        for group in cgroups_below(&self.settings.cgroup_parent) {
            for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
                kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).ok();
            }
        }
        for mount in mounts_below(self.dir.path()) {
            nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH).ok();
        }
        remove_cgroups(&self.settings.cgroup_parent);
    }
}

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = \"{dir}/containerd.sock\"\n"
    )
}

fn spawn_containerd(dir: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("containerd.log")).unwrap();
    Command::new("containerd")
        .arg("--config")
        .arg(dir.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("containerd is installed")
}

async fn answers(runtime: &Containerd) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = runtime.connect().await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Looks again and again until there is what is looked for.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Processes whose command line names the socket, besides containerd itself.
fn shims(socket: &Path) -> Vec<Pid> {
    let socket = socket.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains("containerd-shim") && line.split('\0').any(|word| word == socket) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

fn mounts_below(dir: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(dir)).map(str::to_owned).collect()
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut all: Vec<PathBuf> = fs::read_dir(&root).unwrap().flatten().map(|entry| entry.path()).collect();
    all.push(root);
    all
}

/// Groups below `parent`, the parents themselves not counted.
fn cgroups_below(parent: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        let mut todo = vec![hierarchy.join(parent.strip_prefix("/").unwrap())];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.push(entry.path());
                    todo.push(entry.path());
                }
            }
        }
    }
    found
}

fn remove_cgroups(parent: &Path) {
    for group in cgroups_below(parent).into_iter().rev() {
        fs::remove_dir(group).ok();
    }
    for hierarchy in hierarchies() {
        fs::remove_dir(hierarchy.join(parent.strip_prefix("/").unwrap())).ok();
    }
}
