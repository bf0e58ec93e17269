//! A host for one test: a network namespace and a mount namespace of its own, in which the real plugins run.
//!
//! Whatever the plugins make (bridges, links, rules, mounts) is gone with the test's threads, even when it fails; nothing can clash
//! with another test, with Docker or with the machine's own network.

use std::fs::{self, File};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;
use roost_cni::{Conflist, Network, Overrides, Settings};
use serde_json::{Value, json};

/// Where Debian and upstream put the plugins.
pub(crate) const PLUGIN_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// How long anything may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// The host of a test.
#[derive(Clone)]
pub(crate) struct Host {
    dir: PathBuf,
}

/// Runs a test on a host of its own.
pub(crate) fn on_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let host = Host { dir: dir.path().to_owned() };
    // Threads inherit the namespaces of the one that starts them: everything the runtime starts is on this host.
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
        // The one that is there shows the links of the real host.
        mount(Some("test"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test(host));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Host {
    /// The list that every host gets, in the test's directory.
    pub(crate) fn shipped(&self) -> Conflist {
        let json = include_bytes!("../../../systemd/10-roost.conflist");
        let ipam_dir = Some(self.dir.join("ipam"));
        Conflist::parse(json)
            .unwrap()
            .with_overrides(&Overrides { ipam_dir, ..Overrides::default() })
            .unwrap()
    }

    /// The same, but that the plugin masquerades, by rules of each attachment's own.
    pub(crate) fn masqueraded_by_plugin(&self) -> Conflist {
        let mut list = serde_json::to_value(self.shipped()).unwrap();
        list["plugins"][0]["ipMasq"] = true.into();
        serde_json::from_value(list).unwrap()
    }

    /// A bridge without masquerading, and then `more`.
    pub(crate) fn bridge(&self, version: &str, subnet: &str, more: &[Value]) -> Conflist {
        let ipam = json!({"type": "host-local", "dataDir": self.dir.join("ipam"), "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}]});
        let bridge = json!({"type": "bridge", "bridge": "test0", "isGateway": true, "ipam": ipam});
        let plugins: Vec<&Value> = [&bridge].into_iter().chain(more).collect();
        let list = json!({"cniVersion": version, "name": "test", "plugins": plugins});
        Conflist::parse(list.to_string().as_bytes()).unwrap()
    }

    /// A network as a starting daemon makes it.
    pub(crate) fn network(&self, conflist: Conflist) -> Network {
        Network::new(self.settings(conflist)).unwrap()
    }

    pub(crate) fn settings(&self, conflist: Conflist) -> Settings {
        let plugin_dirs = PLUGIN_DIRS.map(PathBuf::from).to_vec();
        Settings { conflist, plugin_dirs, cache_dir: self.cache_dir(), netns_dir: self.netns_dir() }
    }

    /// A directory of the test's own.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.dir.join("cache")
    }

    pub(crate) fn ipam_dir(&self) -> PathBuf {
        self.dir.join("ipam")
    }

    pub(crate) fn netns_dir(&self) -> PathBuf {
        self.dir.join("netns")
    }

    /// The record of an attachment, to be looked at and changed.
    pub(crate) fn record(&self, id: &str) -> PathBuf {
        self.cache_dir().join(format!("{id}.json"))
    }

    /// The addresses that `host-local` believes in use.
    pub(crate) fn leased(&self, network: &str) -> Vec<String> {
        let mut names = names_in(&self.dir.join("ipam").join(network));
        names.retain(|name| name.parse::<IpAddr>().is_ok());
        names
    }

    /// Asserts that nothing of any attachment is left: no namespace, record, address or link.
    pub(crate) fn assert_empty(&self, network: &str) {
        assert_eq!(names_in(&self.netns_dir()), [""; 0], "namespaces");
        assert_eq!(names_in(&self.cache_dir()), [""; 0], "records");
        assert_eq!(self.leased(network), [""; 0], "addresses");
        assert_eq!(veths(), [""; 0], "links");
    }
}

/// What is outside: a namespace behind an uplink of the host's, with no route back to the functions' subnet.
pub(crate) struct World {
    pub(crate) netns: PathBuf,
}

impl World {
    pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));

    pub(crate) fn new(host: &Host) -> Self {
        let world = host.dir().join("world");
        fs::write(&world, "").unwrap();
        run("unshare", &[&format!("--net={}", world.display()), "true"]);
        inside(&world, || run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "up0"]));
        let host_itself = format!("/proc/{}/ns/net", nix::unistd::gettid());
        inside(&world, move || {
            run("ip", &["link", "set", "up0", "netns", &host_itself]);
            run("ip", &["addr", "add", "198.51.100.2/24", "dev", "uplink"]);
            run("ip", &["link", "set", "uplink", "up"]);
        });
        run("ip", &["addr", "add", "198.51.100.1/24", "dev", "up0"]);
        run("ip", &["link", "set", "up0", "up"]);
        Self { netns: world }
    }
}

/// The names in a directory, sorted; none if it is not there.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).map(|entries| entries.collect::<Result<Vec<_>, _>>().unwrap());
    let mut names: Vec<String> =
        entries.unwrap_or_default().into_iter().map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The host's sides of the veth pairs.
pub(crate) fn veths() -> Vec<String> {
    names_in(Path::new("/sys/class/net")).into_iter().filter(|name| name.starts_with("veth")).collect()
}

/// Waits until the kernel has taken the links down whose namespace is gone, which it does in its own time.
pub(crate) async fn until_no_veth() {
    let gone = async {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while !veths().is_empty() {
            look.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("the links of a namespace that is gone go too");
}

/// Runs a program to its success and returns what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {out}{err}");
    out.into_owned()
}

/// Runs `act` on a thread inside a namespace.
pub(crate) fn inside<T: Send + 'static>(netns: &Path, act: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = File::open(netns).unwrap();
    let thread = thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        act()
    });
    thread.join().unwrap()
}

/// A listener inside a namespace: a socket stays where it was made.
pub(crate) fn listen_inside(netns: &Path) -> TcpListener {
    inside(netns, || TcpListener::bind("0.0.0.0:8080").unwrap())
}

/// Connects from the host.
pub(crate) fn connect(address: IpAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::new(address, 8080), DEADLINE)
}
