//! Brokers of a test's own: Mosquitto and NATS, from the distribution, on free ports of loopback.

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::eventually;
use crate::ports::free_port;
use crate::process::{Background, run};
use crate::{LOOK_AGAIN, PATIENCE};

/// A program that listens, and can be ended and started again with what it has kept.
#[derive(Debug)]
struct Server {
    program: &'static str,
    arguments: Vec<String>,
    port: u16,
    dir: TempDir,
    process: Option<Background>,
}

impl Server {
    async fn start(program: &'static str, arguments: Vec<String>, port: u16, dir: TempDir) -> Self {
        let mut server = Self { program, arguments, port, dir, process: None };
        server.start_again().await;
        server
    }

    async fn start_again(&mut self) {
        let mut command = Command::new(self.program);
        command.args(&self.arguments);
        self.process = Some(Background::start(&mut command, &self.dir.path().join("log")));
        let port = self.port;
        let listens = || async { TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()) };
        eventually(self.program, listens).await;
    }

    async fn end(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while process.ended().is_none() {
            assert!(Instant::now() < deadline, "{} does not end", self.program);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Mosquitto, in TCP and in TLS. It asks for a login, and keeps what it has over its end.
#[derive(Debug)]
pub struct Mosquitto {
    server: Server,
    tls_port: u16,
}

impl Mosquitto {
    /// Who may log in.
    pub const USER: (&'static str, &'static str) = ("roost", "a-broker-password");

    /// Starts it.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("roost-mosquitto-").tempdir().unwrap();
        let (port, tls_port, path) = (free_port(), free_port(), dir.path().display().to_string());
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let (user, password) = Self::USER;
        run("mosquitto_passwd", ["-b", "-c", &format!("{path}/users"), user, password]).unwrap();
        let config = format!(
            "user root\nallow_anonymous false\npassword_file {path}/users\npersistence true\n\
             persistence_location {path}/\nmax_queued_messages 100000\nlistener {port} 127.0.0.1\n\
             listener {tls_port} 127.0.0.1\ncertfile {path}/cert.pem\nkeyfile {path}/key.pem\n"
        );
        fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        let arguments = vec!["-c".to_owned(), format!("{path}/mosquitto.conf")];
        Self { server: Server::start("mosquitto", arguments, port, dir).await, tls_port }
    }

    /// The lines of its section in the settings of a host: in TLS, with its password in a secret.
    #[must_use]
    pub fn section(&self, secret: &str) -> String {
        format!(
            "url = 'mqtts://localhost:{}'\nca_file = '{}/cert.pem'\nusername = '{}'\npassword_secret = '{secret}'\n",
            self.tls_port,
            self.server.dir.path().display(),
            Self::USER.0
        )
    }

    /// Publishes a message with QoS 1, and returns when the broker has it.
    pub fn publish(&self, topic: &str, message: &str) {
        self.publish_with(topic, &["-m", message]);
    }

    /// Publishes a message that those get, too, who subscribe later.
    pub fn retain(&self, topic: &str, message: &str) {
        self.publish_with(topic, &["-r", "-m", message]);
    }

    /// Publishes each line as a message, over one connection.
    pub fn publish_lines(&self, topic: &str, lines: &[String]) {
        let mut command = Command::new("mosquitto_pub");
        command.args(self.client(topic)).arg("-l").stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut text = lines.join("\n");
        text.push('\n');
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn publish_with(&self, topic: &str, how: &[&str]) {
        let all = self.client(topic).into_iter().chain(how.iter().map(|&word| word.to_owned()));
        run("mosquitto_pub", all).unwrap();
    }

    fn client(&self, topic: &str) -> Vec<String> {
        let (user, password) = Self::USER;
        let port = self.server.port.to_string();
        ["-h", "127.0.0.1", "-p", &port, "-u", user, "-P", password, "-q", "1", "-t", topic]
            .map(str::to_owned)
            .into()
    }

    /// Ends it in order.
    pub async fn end(&mut self) {
        self.server.end().await;
    }

    /// Starts it again, with what it has kept.
    pub async fn start_again(&mut self) {
        self.server.start_again().await;
    }
}

/// `nats-server` with JetStream.
#[derive(Debug)]
pub struct NatsServer(Server);

impl NatsServer {
    /// Starts it.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("roost-nats-").tempdir().unwrap();
        let (port, path) = (free_port(), dir.path().display().to_string());
        let arguments = ["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd", &path].map(str::to_owned);
        Self(Server::start("nats-server", arguments.into(), port, dir).await)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.0.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Ends it in order.
    pub async fn end(&mut self) {
        self.0.end().await;
    }

    /// Starts it again, with what it has kept.
    pub async fn start_again(&mut self) {
        self.0.start_again().await;
    }
}
