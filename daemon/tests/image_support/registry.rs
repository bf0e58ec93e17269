//! A registry of a test's own, on a free port of the loopback interface, ended with the test.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;

use super::made::{Made, digest};

pub(crate) const USER: &str = "reader";
pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) struct PrivateRegistry {
    process: Child,
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    auth: RegistryAuth,
    tls: bool,
}

impl PrivateRegistry {
    pub(crate) fn start() -> Self {
        Self::start_with(RegistryAuth::Anonymous, |_| String::new())
    }

    /// One that wants [`USER`] and [`PASSWORD`].
    pub(crate) fn start_private() -> Self {
        let auth = RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned());
        Self::start_with(auth, |dir| {
            super::run("htpasswd", &["-Bbc", "htpasswd", USER, PASSWORD], dir);
            format!("auth: {{htpasswd: {{realm: test, path: {}/htpasswd}}}}\n", dir.display())
        })
    }

    /// One that speaks TLS, with a certificate of a CA that nobody knows: `ca.pem` in its directory.
    pub(crate) fn start_tls() -> Self {
        let mut registry = Self::start_with(RegistryAuth::Anonymous, |dir| {
            make_certificates(dir);
            String::new()
        });
        registry.tls = true;
        registry
    }

    fn start_with(auth: RegistryAuth, prepare: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::Builder::new().prefix("roost-registry-").tempdir().unwrap();
        let more = prepare(dir.path());
        let path = dir.path().display();
        let tls = if dir.path().join("key.pem").exists() {
            format!(", tls: {{certificate: {path}/cert.pem, key: {path}/key.pem}}")
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {path}/data}}}}\n\
             http: {{addr: 127.0.0.1:0{tls}}}\n{more}"
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(File::create(dir.path().join("access.log")).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("listening on 127.0.0.1:")?.1.split(['"', ',']).next()?.parse().ok()
            })
            .expect("the registry says where it listens");
        // It must not block on a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { process, dir, port, auth, tls: false }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The reference of `name` in this registry.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// How many requests of the kind `GET /v2/…/blobs/…` for one of `digests` it has answered with data.
    pub(crate) fn fetched(&self, digests: &[String]) -> usize {
        let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap();
        let is_fetch = |line: &&str| {
            line.contains("\"GET ") && digests.iter().any(|d| line.contains(&format!("/blobs/{d} ")))
        };
        log.lines().filter(is_fetch).filter(|l| l.contains("\" 200 ") || l.contains("\" 206 ")).count()
    }

    /// Puts an image there and returns the digest of its manifest.
    pub(crate) async fn push(&self, name: &str, made: &Made) -> String {
        for blob in made.blobs() {
            self.push_blob(name, blob).await;
        }
        self.push_manifest(name, &made.manifest, &made.media_type).await
    }

    pub(crate) async fn push_blob(&self, name: &str, blob: &[u8]) {
        let image = self.reference(name).parse().unwrap();
        let client = self.client().await;
        client.push_blob(&image, blob.to_vec(), &digest(blob)).await.unwrap();
    }

    pub(crate) async fn push_manifest(&self, name: &str, manifest: &[u8], media_type: &str) -> String {
        let image = self.reference(name).parse().unwrap();
        let client = self.client().await;
        let kind = media_type.parse().unwrap();
        client.push_manifest_raw(&image, manifest.to_vec(), kind).await.unwrap();
        digest(manifest)
    }

    async fn client(&self) -> oci_client::Client {
        let mut config = ClientConfig { protocol: ClientProtocol::Http, ..Default::default() };
        if self.tls {
            config.protocol = ClientProtocol::Https;
            let data = fs::read(self.dir.path().join("ca.pem")).unwrap();
            config.extra_root_certificates = vec![Certificate { encoding: CertificateEncoding::Pem, data }];
        }
        let client = oci_client::Client::try_from(config).unwrap();
        client.store_auth_if_needed(&format!("127.0.0.1:{}", self.port), &self.auth).await;
        client
    }
}

fn make_certificates(dir: &Path) {
    let openssl = |line: &str| super::run("openssl", &line.split(' ').collect::<Vec<_>>(), dir);
    fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1").unwrap();
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca");
    openssl("req -newkey rsa:2048 -nodes -keyout key.pem -out cert.csr -subj /CN=test");
    openssl(
        "x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile san",
    );
}

impl Drop for PrivateRegistry {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        if let Err(error) = kill(pid, Signal::SIGTERM).map(|()| self.process.wait()) {
            tracing::warn!(%pid, %error, "could not end docker-registry");
        }
    }
}
