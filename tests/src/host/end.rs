//! The end of a host: everything goes, and what stays is a failure.

use std::time::Instant;

use hyper::{Method, StatusCode};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Host, tail};
use crate::client::{Api, body_of};
use crate::netns::inside;
use crate::process::pause;
use crate::{LOOK_AGAIN, PATIENCE, eventually};

impl Host {
    /// Waits until nothing of any function is left on the machine.
    ///
    /// # Panics
    /// When something stays.
    pub async fn assert_nothing_left(&self) {
        let last = std::cell::RefCell::new(Vec::new());
        let look = || async {
            *last.borrow_mut() = self.left();
            last.borrow().is_empty().then_some(())
        };
        if tokio::time::timeout(PATIENCE / 2, eventually("the end of everything", look)).await.is_err() {
            panic!("left on the machine: {:#?}", last.borrow());
        }
    }

    /// What is left of functions, in words.
    fn left(&self) -> Vec<String> {
        let mut left: Vec<_> = self
            .containerd
            .containers()
            .into_iter()
            .map(|(id, pid)| format!("container {id}, process {pid:?}"))
            .collect();
        left.extend(self.containerd.active_snapshots().into_iter().map(|key| format!("snapshot {key}")));
        let mut daemons: Vec<String> = Vec::new();
        if let Some(daemon) = &self.daemon {
            daemons.push(format!("process {}:", daemon.pid()));
            if self.config.supervised {
                daemons.push(format!("process {}:", self.supervised()));
            }
        }
        let found = inside(self.config.network.as_ref(), || self.marks().find()).into_iter();
        left.extend(found.filter(|text| !daemons.iter().any(|daemon| text.starts_with(daemon))));
        left
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("--- {}\n{}", self.daemon_log().display(), tail(&self.daemon_log()));
            eprintln!("--- {}\n{}", self.containerd.log().display(), tail(&self.containerd.log()));
        }
        let mut left = Vec::new();
        if let Some(mut daemon) = self.daemon.take().filter(|_| !failed) {
            if let Err(error) = in_own_runtime(remove_all(self.port(), self.password())) {
                left.push(error);
            }
            self.daemon = Some(daemon);
            left.extend(self.left_at_last());
            daemon = self.daemon.take().unwrap();
            daemon.signal(Signal::SIGTERM);
            match daemon.wait_blocking(PATIENCE) {
                Ok(status) if status.success() => {}
                Ok(status) => left.push(format!("roostd ended: {status}")),
                Err(error) => left.push(error),
            }
        }
        if !left.is_empty() {
            eprintln!("--- {}\n{}", self.daemon_log().display(), tail(&self.daemon_log()));
            eprintln!("--- {}\n{}", self.containerd.log().display(), tail(&self.containerd.log()));
        }
        self.containerd.clear();
        let marks = self.marks();
        // Its own mounts go with it.
        self.containerd.end();
        inside(self.config.network.as_ref(), || marks.clear());
        assert!(left.is_empty(), "left on the machine: {left:#?}");
    }
}

impl Host {
    /// What is left when it had the time to go.
    fn left_at_last(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE / 2;
        loop {
            let left = self.left();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            pause();
        }
    }
}

/// Runs async work to its end from a place that cannot await: a test's own runtime may be around it.
fn in_own_runtime<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work)
        });
        thread.join().unwrap()
    })
}

/// Removes all functions and namespaces as a user does.
async fn remove_all(port: u16, password: &str) -> Result<(), String> {
    // A client of its own: connections of the test's clients stand still with its runtime.
    let api = Api::new(port, Some(("admin", password)));
    let request = api.request(&Method::GET, "/system/namespaces").body(body_of("")).unwrap();
    for namespace in strings(&api.try_send(request).await?.json()) {
        remove_functions(&api, &namespace).await?;
        if namespace != "openfaas-fn" {
            let path = format!("/system/namespace/{namespace}");
            let request = api.request(&Method::DELETE, &path).body(body_of("")).unwrap();
            let answer = api.try_send(request).await?;
            if answer.status != StatusCode::ACCEPTED {
                return Err(answer.text().to_owned());
            }
        }
    }
    Ok(())
}

async fn remove_functions(api: &Api, namespace: &str) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE / 2;
    loop {
        let path = format!("/system/functions?namespace={namespace}");
        let request = api.request(&Method::GET, &path).body(body_of("")).unwrap();
        let functions = api.try_send(request).await?.json();
        let names: Vec<_> =
            functions.as_array().into_iter().flatten().filter_map(|f| f["name"].as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("functions that cannot be removed: {names:?}"));
        }
        for name in names {
            let body = json!({ "functionName": name, "namespace": namespace }).to_string();
            let request = api.request(&Method::DELETE, "/system/functions").body(body_of(body)).unwrap();
            api.try_send(request).await?;
        }
        tokio::time::sleep(LOOK_AGAIN * 5).await;
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}
