//! The life of a replica by orders, in a real containerd and a real network. Needs root, containerd, runc, busybox and
//! the CNI plugins.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_cni::Conflist;
use roost_proxy::function::{FunctionKey, Namespace, ReplicaId};
use roost_proxy::{Endpoint, Upstream, UpstreamLimits};
use roostd::function::binds::Binds;
use roostd::function::controller::Happening;
use roostd::function::grants::Allowed;
use roostd::function::replica::{
    Adoptable, Cause, Checks, Event, FUNCTION_PORT, Host, Order, Origin, Replica, ReplicaSettings,
};
use roostd::function::spec::{Deployment, FunctionSpec};
use roostd::logs::LogStore;
use roostd::network::HostNetwork;
use roostd::runtime::Standing;
use roostd::runtime::containerd::Containerd;
use roostd::secrets::Secrets;
use serde_json::json;
use support::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Serves its key at `/`, and at `/cgi-bin/ready` the status that stands in its file `status`.
const SERVER: &str = r#"
mkdir -p /www/cgi-bin
echo "key: $ROOST_KEY" > /www/index.html
echo 200 > /www/status
printf '#!/bin/sh\necho "Status: $(cat /www/status) X"; echo; echo' > /www/cgi-bin/ready
chmod 755 /www/cgi-bin/ready
exec httpd -f -p 8080 -h /www
"#;

/// No two tests of this run have the same network.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A host of a test's own.
struct Place {
    containerd: support::Host,
    host: Host,
    bridge: String,
    run: tempfile::TempDir,
}

/// A replica, as its controller has it.
struct Told {
    orders: watch::Sender<Order>,
    happenings: mpsc::Receiver<Happening>,
    task: JoinHandle<()>,
}

impl Place {
    async fn new() -> Self {
        let (containerd, runtime) = support::Host::start().await;
        // On a tmpfs, where secrets are to be.
        let run = tempfile::Builder::new().prefix("roost-replica-").tempdir_in("/run").unwrap();
        let state = containerd.dir().join("state of the daemon");
        fs::create_dir_all(&state).unwrap();
        let bridge = format!("rr{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let host = Host {
            runtime,
            network: network(&bridge, &run),
            secrets: Secrets::open(&state, run.path()).unwrap(),
            logs: LogStore::new(state.join("logs")),
            allowed: Arc::new(Allowed::new(Vec::new(), Vec::new())),
            binds: Binds::open(run.path()).unwrap(),
            settings: ReplicaSettings {
                stop_grace: Duration::ZERO,
                drain: Duration::ZERO,
                start_timeout: PATIENCE,
                log_limit: 1 << 20,
            },
        };
        Self { containerd, host, bridge, run }
    }

    /// The `n`th replica, with these annotations.
    fn make(&self, n: usize, annotations: &[(&str, &str)], order: Order) -> Told {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let deployment = Deployment {
            service: "probe".to_owned(),
            image: "roost.test/busybox:latest".to_owned(),
            annotations: annotations.iter().map(owned).collect(),
            ..Deployment::default()
        };
        let spec = FunctionSpec::parse(deployment).unwrap();
        let image = self.containerd.plan(n, SERVER).image;
        self.run(n, order, Origin::New(Box::new((spec, image))))
    }

    fn run(&self, n: usize, order: Order, origin: Origin) -> Told {
        let orders = watch::Sender::new(order);
        let (tell, happenings) = mpsc::channel(8);
        let replica = Replica {
            id: self.id(n),
            key: key(),
            revision: "r1".to_owned(),
            host: self.host.clone(),
            replica_key: Some("room 1".parse().unwrap()),
            orders: orders.subscribe(),
            tell,
        };
        Told { orders, happenings, task: tokio::spawn(replica.run(origin)) }
    }

    /// What there is to go on with, as a new daemon finds it.
    async fn adopt(&self, n: usize, order: Order) -> Told {
        let found =
            self.runtime().list().await.unwrap().into_iter().find(|found| found.id == self.id(n)).unwrap();
        assert_eq!(found.key, Some("room 1".parse().unwrap()));
        let address = SocketAddr::new(found.address.unwrap(), FUNCTION_PORT);
        let found = Adoptable { standing: found.standing.unwrap(), address };
        self.run(n, order, Origin::Adopted(found, Box::new(Checks::of(&BTreeMap::new()))))
    }

    fn id(&self, n: usize) -> ReplicaId {
        self.containerd.id(n)
    }

    fn runtime(&self) -> &Containerd {
        &self.host.runtime
    }

    async fn standing(&self) -> Vec<Option<Standing>> {
        self.runtime().list().await.unwrap().iter().map(|found| found.standing).collect()
    }

    /// The first process of the replica.
    fn first_process(&self, n: usize) -> Pid {
        let processes = self.containerd.cgroup("memory", &self.id(n)).join("cgroup.procs");
        let text = fs::read_to_string(processes).unwrap();
        Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
    }

    /// Sets what the replica says at its path for being ready.
    fn say(&self, n: usize, status: u16) {
        let root = PathBuf::from(format!("/proc/{}/root", self.first_process(n)));
        fs::write(root.join("www/status"), status.to_string()).unwrap();
    }

    async fn end(self) {
        let attached = self.host.network.collect(&std::collections::HashSet::default()).await.unwrap();
        assert_eq!(attached, Vec::<String>::new(), "nothing was left to free");
        self.containerd.end().await;
        umount2(&self.run.path().join("netns"), MntFlags::MNT_DETACH).unwrap();
        let removed =
            std::process::Command::new("ip").args(["link", "delete", &self.bridge]).status().unwrap();
        assert!(removed.success());
    }
}

fn network(bridge: &str, run: &tempfile::TempDir) -> HostNetwork {
    let third = std::process::id() % 256;
    let subnet = format!("10.93.{third}.{}/28", NEXT.load(Ordering::Relaxed) % 16 * 16);
    let conflist = json!({
        "cniVersion": "0.4.0",
        "name": bridge,
        "plugins": [{
            "type": "bridge",
            "bridge": bridge,
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": run.path().join("ipam"),
                "ranges": [[{ "subnet": subnet }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    let conflist = Conflist::parse(conflist.to_string().as_bytes()).unwrap();
    let dns = vec!["192.0.2.53".parse().unwrap()];
    let dirs = ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from).to_vec();
    HostNetwork::new(conflist, dirs, run.path(), "10.94.0.0/20".parse().unwrap(), dns, 0).unwrap()
}

fn key() -> FunctionKey {
    FunctionKey::new(Namespace::default(), "probe".parse().unwrap())
}

impl Told {
    fn order(&self, order: Order) {
        self.orders.send_replace(order);
    }

    async fn next(&mut self) -> Event {
        match timeout(PATIENCE, self.happenings.recv()).await.expect("an event in time").unwrap() {
            Happening::Replica(_, event) => event,
            other => panic!("{other:?}"),
        }
    }

    async fn ready(&mut self) -> Arc<Endpoint> {
        match self.next().await {
            Event::Ready(endpoint) => endpoint,
            other => panic!("{other:?}"),
        }
    }

    async fn created(&mut self) {
        let event = self.next().await;
        assert!(matches!(event, Event::Created), "{event:?}");
    }

    async fn paused(&mut self) {
        let event = self.next().await;
        assert!(matches!(event, Event::Paused), "{event:?}");
    }

    async fn busy(&mut self) {
        let event = self.next().await;
        assert!(matches!(event, Event::Busy), "{event:?}");
    }

    /// The cause of its end, of which nothing is left when this returns.
    async fn ended(&mut self) -> Option<Cause> {
        let Event::Ended(cause) = self.next().await else { panic!("it goes on") };
        let event = self.next().await;
        assert!(matches!(event, Event::Gone), "{event:?}");
        cause
    }

    /// As with its daemon.
    async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

async fn get(address: SocketAddr) -> String {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    timeout(PATIENCE, asked).await.expect("an answer in time")
}

#[tokio::test]
async fn orders_lead_through_all_that_a_replica_can_be() {
    let place = Place::new().await;
    let mut told = place.make(1, &[], Order::Stand);
    told.created().await;
    assert_eq!(place.standing().await, [Some(Standing::Created)]);
    // What cannot be done with it yet changes nothing.
    told.order(Order::Pause);
    told.order(Order::Run);
    let endpoint = told.ready().await;
    assert_eq!(endpoint.key(), Some(&"room 1".parse().unwrap()));
    assert!(get(endpoint.address()).await.ends_with("key: room 1\n"));

    let upstream = Upstream::new(key(), UpstreamLimits::default());
    upstream.publish(vec![Arc::clone(&endpoint)]);
    let claim = upstream.claim().unwrap();
    upstream.publish(Vec::new());
    told.order(Order::Pause);
    // It still has a request: to go on takes no thaw.
    told.order(Order::Run);
    assert!(Arc::ptr_eq(&told.ready().await, &endpoint));
    assert_eq!(place.standing().await, [Some(Standing::Running)]);
    told.order(Order::Pause);
    drop(claim);
    told.paused().await;
    assert_eq!(place.standing().await, [Some(Standing::Paused)]);

    told.order(Order::Run);
    assert!(Arc::ptr_eq(&told.ready().await, &endpoint));
    upstream.publish(vec![Arc::clone(&endpoint)]);
    assert!(upstream.claim().is_some(), "what was withdrawn is open again");
    assert!(get(endpoint.address()).await.ends_with("key: room 1\n"));

    told.order(Order::Pause);
    told.paused().await;
    told.order(Order::End(Duration::ZERO));
    assert!(told.ended().await.is_none());
    assert_eq!(place.standing().await, []);
    place.end().await;
}

#[tokio::test]
async fn the_next_daemon_goes_on_with_each_as_it_is() {
    let place = Place::new().await;
    let mut told = place.make(1, &[], Order::Stand);
    told.created().await;
    told.crash().await;

    let mut told = place.adopt(1, Order::Stand).await;
    told.created().await;
    told.order(Order::Run);
    let address = told.ready().await.address();
    told.crash().await;

    let mut told = place.adopt(1, Order::Run).await;
    assert_eq!(told.ready().await.address(), address);
    told.order(Order::Pause);
    told.paused().await;
    told.crash().await;

    let mut told = place.adopt(1, Order::Pause).await;
    told.paused().await;
    told.crash().await;
    let mut told = place.adopt(1, Order::Run).await;
    told.ready().await;
    assert!(get(address).await.ends_with("key: room 1\n"));
    told.order(Order::Pause);
    told.paused().await;
    told.crash().await;

    let mut told = place.adopt(1, Order::End(Duration::ZERO)).await;
    assert!(told.ended().await.is_none());
    place.end().await;
}

#[tokio::test]
async fn one_that_says_it_is_full_is_busy_until_it_has_recovered() {
    let place = Place::new().await;
    let annotations = [
        ("com.openfaas.ready.http.path", "/cgi-bin/ready"),
        ("com.openfaas.ready.http.periodSeconds", "20ms"),
    ];
    let mut told = place.make(1, &annotations, Order::Run);
    let endpoint = told.ready().await;
    place.say(1, 429);
    told.busy().await;
    // It says so again to whoever wants it to run, and can rest meanwhile.
    told.order(Order::Run);
    told.busy().await;
    told.order(Order::Pause);
    told.paused().await;
    told.order(Order::Run);
    let again = told.ready().await;
    told.busy().await;
    place.say(1, 200);
    let recovered = told.ready().await;
    assert!(Arc::ptr_eq(&again, &endpoint) && Arc::ptr_eq(&recovered, &endpoint));
    told.order(Order::End(Duration::ZERO));
    assert!(told.ended().await.is_none());
    place.end().await;
}

#[tokio::test]
async fn one_that_dies_is_noticed_however_far_it_is() {
    let place = Place::new().await;
    let mut told = place.make(1, &[], Order::Stand);
    told.created().await;
    kill(place.first_process(1), Signal::SIGKILL).unwrap();
    let cause = told.ended().await;
    assert!(
        matches!(&cause, Some(Cause::Ended(how)) if how == "killed by signal 9 before it was ready"),
        "{cause:?}"
    );

    let mut told = place.make(2, &[], Order::Run);
    let address = told.ready().await.address();
    told.order(Order::Pause);
    told.paused().await;
    kill(place.first_process(2), Signal::SIGKILL).unwrap();
    // With the first version of control groups what is frozen dies when it is thawed.
    told.order(Order::Run);
    let cause = loop {
        match told.next().await {
            Event::Ready(endpoint) => assert_eq!(endpoint.address(), address),
            Event::Ended(cause) => break cause,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(&cause, Some(Cause::Ended(how)) if how == "killed by signal 9"), "{cause:?}");
    eventually("the end of its task", || told.task.is_finished().then_some(())).await;
    place.end().await;
}
