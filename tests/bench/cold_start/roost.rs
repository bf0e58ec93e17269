//! Starts by Roost: one kind of rest each, and one request that ends it.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use hyper::StatusCode;
use roost_tests::{Config, ECHO, Host, PATIENCE};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figures::Figures;
use crate::phases::{Phase, read};
use crate::quiet;

/// A namespace in which one function always runs, and with it the shim.
const LIVELY: &str = "lively";
/// How often a port is tried that does not answer yet.
const AGAIN: Duration = Duration::from_micros(500);

/// What is left of a function that has no replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, and no other function of its namespace runs: its shim starts, too.
    StoppedAlone,
    /// Nothing, beside a function that runs.
    StoppedBeside,
    /// All but its process.
    Created,
    /// A frozen process.
    Paused,
}

/// One start.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) first_byte: Duration,
    pub(crate) phases: Phase,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::StoppedAlone, Self::StoppedBeside, Self::Created, Self::Paused];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::StoppedAlone => "stopped, the only function",
            Self::StoppedBeside => "stopped, beside another",
            Self::Created => "created",
            Self::Paused => "paused",
        }
    }

    fn function(self) -> &'static str {
        match self {
            Self::StoppedAlone => "alone",
            Self::StoppedBeside => "beside",
            Self::Created => "created",
            Self::Paused => "paused",
        }
    }

    fn namespace(self) -> &'static str {
        if self == Self::StoppedAlone { "openfaas-fn" } else { LIVELY }
    }

    /// What its function asks to be kept of it.
    fn state(self) -> &'static str {
        match self {
            Self::StoppedAlone | Self::StoppedBeside => "stopped",
            Self::Created => "created",
            Self::Paused => "paused",
        }
    }

    /// The bar, and whether it is met: against the faster of what it is compared with.
    pub(crate) fn judged(self, figures: &Figures, against: &[Option<f64>]) -> [String; 2] {
        let plain = against.iter().copied().flatten().reduce(f64::min);
        let (bar, limit) = match self {
            Self::StoppedAlone | Self::StoppedBeside => ("0.6 of ctr run", plain.map(|plain| plain * 0.6)),
            Self::Created => ("0.25 of ctr run", plain.map(|plain| plain * 0.25)),
            Self::Paused => ("10 ms", Some(10.0)),
        };
        let met = match (figures.median(), limit) {
            (Some(median), Some(limit)) if median <= limit => "met",
            (Some(_), Some(_)) => "not met",
            _ => "not measured",
        };
        [bar.to_owned(), met.to_owned()]
    }
}

/// A host with a function for each kind.
#[derive(Debug)]
pub(crate) struct Roost {
    pub(crate) host: Host,
}

impl Roost {
    pub(crate) async fn start() -> Self {
        let host = Host::with_echo(Config::default()).await;
        let body = json!({ "name": LIVELY }).to_string();
        let made = host.api.post("/system/namespace/", body).await;
        assert!(made.status.is_success(), "{}", made.text());
        let archive = roost_tests::Image::echo().archive("docker.io/library/echo:1");
        let path = format!("/system/images?name={ECHO}&namespace={LIVELY}");
        let imported = host.api.post(&path, archive).await;
        assert_eq!(imported.status, StatusCode::OK, "{}", imported.text());
        let roost = Self { host };
        roost.deploy("runs", LIVELY, "stopped").await;
        for kind in Kind::ALL {
            roost.deploy(kind.function(), kind.namespace(), kind.state()).await;
        }
        roost
    }

    async fn deploy(&self, name: &str, namespace: &str, state: &str) {
        let body = json!({
            "service": name,
            "namespace": namespace,
            "image": ECHO,
            "labels": { "com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "1h" },
            "annotations": {
                "roost.idle.state": state,
                "roost.idle.paused-for": "1h",
                "roost.idle.created-for": "1h",
            },
        });
        self.host.post_function(&body).await;
        let up = self.state(name, namespace, |status| status["phase"] == "Ready").await;
        assert!(up, "{name} does not come up");
    }

    /// Waits until the function's status is as wanted; not for ever.
    async fn state(&self, name: &str, namespace: &str, wanted: impl Fn(&Value) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE / 2;
        let path = format!("/system/function/{name}?namespace={namespace}");
        while Instant::now() < deadline {
            if wanted(&self.host.api.get(&path).await.json()["status"]) {
                return true;
            }
            // Nothing is told of a function's phases but what is asked for.
            tokio::time::sleep(AGAIN * 20).await;
        }
        false
    }

    /// Brings the function of this kind to its rest, and then calls it. `None`: it does not come to such a rest.
    pub(crate) async fn start_of(&self, kind: Kind, noisy: &mut usize) -> Option<Start> {
        let (name, namespace) = (kind.function(), kind.namespace());
        let body = json!({ "serviceName": name, "namespace": namespace, "replicas": 0 }).to_string();
        let path = format!("/system/scale-function/{name}?namespace={namespace}");
        let scaled = self.host.api.post(&path, body).await;
        assert_eq!(scaled.status, StatusCode::ACCEPTED, "{}", scaled.text());
        let rests = |status: &Value| {
            let replicas = status["replicas"].as_array().into_iter().flatten();
            let phases: Vec<_> = replicas.map(|replica| &replica["phase"]).collect();
            match kind.state() {
                "stopped" => phases.is_empty(),
                state => phases.iter().all(|phase| *phase == state) && phases.len() == 1,
            }
        };
        if !self.state(name, namespace, rests).await {
            return None;
        }
        *noisy += usize::from(!quiet::wait().await);
        let log = self.host.daemon_log();
        let before = fs::metadata(&log).unwrap().len();
        let (sent, begun) = (SystemTime::now(), Instant::now());
        let path = format!("/function/{name}.{namespace}/headers");
        let answered = first_byte("127.0.0.1", self.host.port(), &path).await;
        let took = begun.elapsed();
        answered.unwrap_or_else(|why| panic!("{why}\n{}", fs::read_to_string(&log).unwrap_or_default()));
        let ready = |status: &Value| status["phase"] == "Ready";
        assert!(self.state(name, namespace, ready).await, "{name} is not ready");
        let written = fs::read(&log).unwrap().split_off(usize::try_from(before).unwrap());
        let written = String::from_utf8_lossy(&written).into_owned();
        let phases = read(&written, &format!("{name}.{namespace}"), sent, sent + took);
        Some(Start { first_byte: took, phases })
    }
}

/// Asks until there is an answer, and returns at its first bytes. Whoever does not listen yet is tried again; whoever does
/// is asked once.
///
/// # Errors
/// With what there was instead, when that is not 200 or there is none in time.
pub(crate) async fn first_byte(address: &str, port: u16, path: &str) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let told = |error: std::io::Error| format!("{address}:{port}{path}: {error}");
    let mut stream = loop {
        match TcpStream::connect((address, port)).await {
            Ok(stream) => break stream,
            Err(error) if Instant::now() >= deadline => return Err(told(error)),
            // Nothing tells that a port is listened on.
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    };
    stream.set_nodelay(true).map_err(told)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(told)?;
    let mut head = [0; 12];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await;
    read.map_err(|_| format!("{address}:{port}{path}: no answer in {PATIENCE:?}"))?.map_err(told)?;
    if &head != b"HTTP/1.1 200" {
        return Err(format!("{address}:{port}{path}: {}", String::from_utf8_lossy(&head)));
    }
    Ok(())
}
