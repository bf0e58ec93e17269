//! What a user does with functions on a host, and waits for.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Config, Host};
use crate::client::{Answer, Api};
use crate::command_line::{self, Output};
use crate::image::Image;
use crate::process::Started;
use crate::{PATIENCE, eventually};

/// The image of the echo example, where it was imported by [`Host::with_echo`].
pub const ECHO: &str = "echo:1";

impl Host {
    /// A host on which [`ECHO`] can be deployed.
    pub async fn with_echo(config: Config) -> Self {
        let host = Self::start_with(config).await;
        host.import(&Image::echo(), ECHO).await;
        host
    }

    /// Imports an image under a name.
    pub async fn import(&self, image: &Image, name: &str) {
        let archive = image.archive(&format!("docker.io/library/{name}"));
        let answer = self.api.post(&format!("/system/images?name={name}"), archive).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }

    /// Deploys `image` as `name` and waits until it is ready.
    pub async fn deploy(&self, name: &str, image: &str) {
        self.post_function(&json!({ "service": name, "image": image })).await;
        self.ready(name).await;
    }

    /// Sends a deployment that has to be accepted.
    pub async fn post_function(&self, deployment: &Value) {
        let answer = self.api.post("/system/functions", deployment.to_string()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        assert_eq!(answer.text(), "");
    }

    /// Sends an update that has to be accepted.
    pub async fn put_function(&self, deployment: &Value) {
        let answer = self.api.send(Method::PUT, "/system/functions", deployment.to_string()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    }

    /// What the API tells of a function.
    pub async fn function(&self, name: &str) -> Value {
        let answer = self.api.get(&format!("/system/function/{name}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text());
        answer.json()
    }

    /// Waits until the function's status is as wanted.
    pub async fn status(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let last = std::cell::RefCell::new(Value::Null);
        let look = || async {
            let function = self.function(name).await;
            *last.borrow_mut() = function.clone();
            wanted(&function["status"]).then_some(function)
        };
        match tokio::time::timeout(PATIENCE / 2, eventually(what, look)).await {
            Ok(function) => function,
            Err(_) => panic!("waited for {name}: {what}; it is {:#}", last.borrow()),
        }
    }

    /// Waits until the newest revision of the function is ready, and returns what the API tells of it. It may have failed
    /// before, and been tried again.
    pub async fn ready(&self, name: &str) -> Value {
        let function = self.status(name, "Ready", |status| status["phase"] == "Ready").await;
        assert!(function["availableReplicas"].as_u64() >= Some(1), "{function:#}");
        function
    }

    /// Waits until the newest revision of the function was up. It may have no replicas any more.
    pub async fn was_up(&self, name: &str) -> Value {
        let up = |status: &Value| status["phase"] == "Ready" || status["phase"] == "Idle";
        self.status(name, "Ready or Idle", up).await
    }

    /// The process of the replica of the function that answers at this address, as the echo example tells it. It has to be
    /// kept from going: by an open connection.
    pub async fn process_at(&self, name: &str, address: &str) -> (String, Started) {
        let of_port = format!("{address}:");
        let is_there = |replica: &&Value| {
            replica["address"].as_str().is_some_and(|at| at == address || at.starts_with(&of_port))
        };
        let found = |status: &Value| status["replicas"].as_array().unwrap().iter().find(is_there).cloned();
        // It may have answered before it is told of.
        let function =
            self.status(name, &format!("a replica at {address}"), |status| found(status).is_some()).await;
        let replica = found(&function["status"]).unwrap();
        self.process(replica["id"].as_str().unwrap())
    }

    /// Deploys the function and waits until it is ready.
    pub async fn deployed(&self, deployment: &Value) -> Value {
        self.post_function(deployment).await;
        self.ready(deployment["service"].as_str().unwrap()).await
    }

    /// Waits until exactly so many replicas of the function take requests, and no others are coming up or ending.
    pub async fn has_ready(&self, name: &str, count: usize) -> Value {
        let all_ready = |status: &Value| {
            let phases = phases(status);
            phases.len() == count && phases.iter().all(|phase| phase == "ready")
        };
        self.status(name, &format!("{count} replicas, all ready"), all_ready).await
    }

    /// Waits until the function has no replica that takes requests, and wants none.
    pub async fn idle(&self, name: &str) -> Value {
        self.status(name, "Idle", |status| status["phase"] == "Idle").await
    }

    /// Waits until a replica of the function is in this phase.
    pub async fn has_replica(&self, name: &str, phase: &str) -> Value {
        self.status(name, &format!("a replica that is {phase}"), |status| {
            phases(status).iter().any(|other| other == phase)
        })
        .await
    }

    /// Waits until a replica of the function is in this phase, and returns its process.
    pub async fn process_that_is(&self, name: &str, phase: &str) -> (String, Started) {
        let function = self.has_replica(name, phase).await;
        let mut replicas = function["status"]["replicas"].as_array().unwrap().iter();
        let id =
            replicas.find(|replica| replica["phase"] == phase).unwrap()["id"].as_str().unwrap().to_owned();
        self.process(&id)
    }

    /// Says how many replicas the function is to have.
    pub async fn scale(&self, name: &str, replicas: u32) {
        let body = json!({ "serviceName": name, "replicas": replicas }).to_string();
        let answer = self.api.post(&format!("/system/scale-function/{name}"), body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    }

    /// Waits until so many requests wait for a replica of the function.
    pub async fn waiting(&self, name: &str, count: usize) {
        let sample = format!("roost_waiting_requests{{function_name=\"{name}.openfaas-fn\"}} {count}");
        let metrics = Api::new(self.metrics_port, None);
        eventually(&format!("{count} that wait for {name}"), || async {
            metrics.get("/metrics").await.text().lines().any(|line| line == sample).then_some(())
        })
        .await;
    }

    /// Posts `body` to a function.
    pub async fn call(&self, name: &str, body: &str) -> Answer {
        self.api.post(&format!("/function/{name}"), body.to_owned()).await
    }

    /// Does a function of the echo example answer as it should?
    pub async fn assert_echoes(&self, name: &str) {
        let answer = self.call(name, "hi").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hi"));
    }

    /// Removes a function and waits until it is known no more.
    pub async fn remove(&self, name: &str) {
        let body = json!({ "functionName": name }).to_string();
        let answer = self.api.send(Method::DELETE, "/system/functions", body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
        eventually("the end of the function", || async {
            let answer = self.api.get(&format!("/system/function/{name}")).await;
            (answer.status == StatusCode::NOT_FOUND).then_some(())
        })
        .await;
    }

    /// The lines that the function has printed, by the API.
    pub async fn log_lines(&self, name: &str) -> Vec<String> {
        let answer = self
            .api
            .get(&format!("/system/logs?name={name}&tail=-1&follow=false&since=1970-01-01T00:00:00Z"))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let records = answer.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.map(|record| record["text"].as_str().unwrap().to_owned()).collect()
    }

    /// Logs `roost` in to this host.
    pub async fn log_in(&self) {
        let args = ["login", "--gateway", &self.url(), "--password-stdin"];
        let login = self.roost_with(&args, self.password()).await;
        assert_eq!(login.code, Some(0), "{login:?}");
    }

    /// Runs `roost` against this host, which has to succeed, and returns what it printed.
    pub async fn roost_done(&self, args: &[&str]) -> String {
        let output = self.roost(args).await;
        assert_eq!(output.code, Some(0), "roost {args:?}: {output:?}");
        output.stdout
    }

    /// Runs `roost` against this host. It has to log in first.
    pub async fn roost(&self, args: &[&str]) -> Output {
        self.roost_with(args, "").await
    }

    /// Runs `roost` against this host, with something on its stdin.
    pub async fn roost_with(&self, args: &[&str], input: &str) -> Output {
        command_line::roost(&self.dir.path().join("home"), &self.url(), None, args, input).await
    }

    /// Runs `roost` as root does on this host: it sees the daemon's own files.
    pub async fn roost_as_root(&self, args: &[&str], input: &str) -> Output {
        let config = self.dir.path().join("roostd.toml");
        command_line::roost(&self.dir.path().join("home"), &self.url(), Some(&config), args, input).await
    }
}

/// The phases of the replicas that a status tells of.
fn phases(status: &Value) -> Vec<String> {
    let replicas = status["replicas"].as_array().into_iter().flatten();
    replicas.map(|replica| replica["phase"].as_str().unwrap_or_default().to_owned()).collect()
}
