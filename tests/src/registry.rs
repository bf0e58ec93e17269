//! A registry on loopback: Debian's docker-registry, open or behind a password.

use std::fs;
use std::process::Command;

use hyper::header::{CONTENT_TYPE, LOCATION};
use hyper::{Method, StatusCode};
use tempfile::TempDir;

use crate::client::{Answer, Api, body_of};
use crate::image::Image;
use crate::ports::free_port;
use crate::process::{Background, run};

/// A running registry. It ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    port: u16,
    process: Option<Background>,
    login: Option<(String, String)>,
    dir: TempDir,
}

impl Registry {
    /// A registry for everybody.
    pub async fn open() -> Self {
        Self::start(None).await
    }

    /// A registry for those who know the password.
    pub async fn behind(user: &str, password: &str) -> Self {
        Self::start(Some((user, password))).await
    }

    async fn start(login: Option<(&str, &str)>) -> Self {
        let dir = tempfile::Builder::new().prefix("roost-registry-").tempdir().unwrap();
        let port = free_port();
        let shown = dir.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{ level: warn }}\nstorage: {{ filesystem: {{ rootdirectory: {shown}/data }} }}\n\
             http: {{ addr: '127.0.0.1:{port}' }}\n"
        );
        if let Some((user, password)) = login {
            let line = run("htpasswd", ["-B", "-b", "-n", user, password]).unwrap();
            fs::write(dir.path().join("htpasswd"), line.trim()).unwrap();
            config += &format!("auth: {{ htpasswd: {{ realm: test, path: {shown}/htpasswd }} }}\n");
        }
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let mut registry = Self { port, process: None, login, dir };
        registry.start_again().await;
        registry
    }

    /// Ends it: from now on nothing can be pulled.
    pub fn stop(&mut self) {
        self.process.take().unwrap().crash();
    }

    /// Starts it again, with what it had.
    pub async fn start_again(&mut self) {
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.dir.path().join("config.yml"));
        self.process = Some(Background::start(&mut command, &self.dir.path().join("log")));
        super::eventually("the registry", || async {
            let request = self.client().request(&Method::GET, "/v2/").body(body_of("")).unwrap();
            self.client().try_send(request).await.ok()
        })
        .await;
    }

    /// Its host and port, as in a reference.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn client(&self) -> Api {
        Api::new(self.port, None)
    }

    /// Puts an image there, and returns its reference.
    pub async fn push(&self, image: &Image, name: &str, tag: &str) -> String {
        for blob in &image.blobs {
            let begun = self.send(Method::POST, &format!("/v2/{name}/blobs/uploads/"), "", Vec::new()).await;
            assert_eq!(begun.status, StatusCode::ACCEPTED, "{}", begun.text());
            let location = begun.header(LOCATION.as_str());
            let (_, path) = location.split_once(&self.host()).unwrap_or(("", location));
            let path = format!("{path}&digest={}", blob.digest);
            let done = self.send(Method::PUT, &path, "application/octet-stream", blob.bytes.clone()).await;
            assert_eq!(done.status, StatusCode::CREATED, "{}", done.text());
        }
        let path = format!("/v2/{name}/manifests/{tag}");
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let done = self.send(Method::PUT, &path, media_type, image.manifest.bytes.clone()).await;
        assert_eq!(done.status, StatusCode::CREATED, "{}", done.text());
        format!("{}/{name}:{tag}", self.host())
    }

    async fn send(&self, method: Method, path: &str, media_type: &str, body: Vec<u8>) -> Answer {
        let mut request = self.client().request(&method, path);
        if let Some((user, password)) = &self.login {
            use base64::Engine;
            let pair = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
            request = request.header("Authorization", format!("Basic {pair}"));
        }
        if !media_type.is_empty() {
            request = request.header(CONTENT_TYPE, media_type);
        }
        self.client().try_send(request.body(body_of(body)).unwrap()).await.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skopeo(args: &[&str]) -> Result<String, String> {
        run("skopeo", args)
    }

    #[tokio::test]
    async fn an_image_that_is_pushed_can_be_pulled_and_its_archive_is_the_same() {
        let registry = Registry::open().await;
        let image = Image::new(&[(std::path::Path::new("/bin/busybox"), "/bin/sh")], &["/bin/sh"]);
        let reference = registry.push(&image, "test/image", "1").await;
        let inspect = format!("docker://{reference}");
        let inspected = skopeo(&["inspect", "--tls-verify=false", &inspect]).unwrap();
        assert!(inspected.contains(&image.manifest.digest), "{inspected}");

        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("image.tar");
        fs::write(&archive, image.archive("test/image:1")).unwrap();
        let from = format!("oci-archive:{}", archive.display());
        let to = format!("dir:{}", dir.path().join("copy").display());
        skopeo(&["copy", "--insecure-policy", &from, &to]).unwrap();
        let manifest = fs::read(dir.path().join("copy/manifest.json")).unwrap();
        assert_eq!(manifest, image.manifest.bytes);
    }

    #[tokio::test]
    async fn a_registry_behind_a_password_asks_for_it() {
        let registry = Registry::behind("user", "right").await;
        let image = Image::new(&[], &["/none"]);
        let reference = format!("docker://{}", registry.push(&image, "image", "1").await);
        for (credentials, works) in [("user:right", true), ("user:wrong", false)] {
            let result = skopeo(&["inspect", "--tls-verify=false", "--creds", credentials, &reference]);
            assert_eq!(result.is_ok(), works, "{credentials}: {result:?}");
        }
        assert!(skopeo(&["inspect", "--tls-verify=false", "--no-creds", &reference]).is_err());
    }
}
