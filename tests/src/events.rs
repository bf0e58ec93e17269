//! What containerd tells of containers and their processes, as it happens: nothing in between is missed.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::task::JoinHandle;

use crate::containerd::Containerd;
use crate::{PATIENCE, eventually};

/// What was counted of one function since the watch began.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Containers that are there.
    containers: BTreeSet<String>,
    /// Containers whose process runs.
    running: BTreeSet<String>,
    /// How many containers were made.
    pub made: usize,
    /// How many processes were started.
    pub started: usize,
    /// As many containers were there at once, at most.
    pub most_containers: usize,
    /// As many processes ran at once, at most.
    pub most_running: usize,
}

/// A watch on the containers of one function. It ends when this is dropped.
#[derive(Debug)]
pub struct Events {
    seen: Arc<Mutex<Seen>>,
    reader: JoinHandle<()>,
    _ctr: Child,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Events {
    /// Watches the replicas of `function`, whose ids begin with its name. It has to have none yet.
    pub(crate) async fn watch(containerd: &Containerd, function: &str) -> Self {
        let mut command = tokio::process::Command::new("ctr");
        command.arg("--address").arg(containerd.socket()).arg("events");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut ctr = command.spawn().unwrap();
        let mut lines = BufReader::new(ctr.stdout.take().unwrap()).lines();
        // It says nothing when it has begun to listen: something is made to happen until it hears of it.
        let heard = async {
            let mut n = 0;
            loop {
                n += 1;
                containerd.ctr(["namespaces", "label", "roost-test-events", &format!("n={n}")]).ok();
                if n == 1 {
                    containerd.ctr(["namespaces", "create", "roost-test-events"]).ok();
                }
                let line = tokio::time::timeout(crate::LOOK_AGAIN * 4, lines.next_line()).await;
                if line.is_ok() {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("containerd tells of events");
        containerd.ctr(["namespaces", "remove", "roost-test-events"]).unwrap();
        let seen = Arc::default();
        let reader = tokio::spawn(read(lines, format!("{function}-"), Arc::clone(&seen)));
        Self { seen, reader, _ctr: ctr }
    }

    /// What was seen up to now.
    ///
    /// # Panics
    /// When the watch has ended.
    #[must_use]
    pub fn seen(&self) -> Seen {
        assert!(!self.reader.is_finished(), "containerd tells no more events");
        self.seen.lock().unwrap().clone()
    }

    /// Waits until so many processes have been started since the watch began, and returns what was seen.
    pub async fn started(&self, count: usize) -> Seen {
        eventually("as many starts", || async { Some(self.seen()).filter(|seen| seen.started >= count) })
            .await
    }
}

async fn read(mut lines: Lines<BufReader<ChildStdout>>, prefix: String, seen: Arc<Mutex<Seen>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        let Some((topic, event)) = parse(&line) else { continue };
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let mut seen = seen.lock().unwrap();
        match topic {
            "/containers/create" => seen.container_made(&text("id"), &prefix),
            "/containers/delete" => {
                seen.containers.remove(&text("id"));
            }
            "/tasks/start" => seen.process_started(&text("container_id"), &prefix),
            // Further processes in a container end with ids of their own.
            "/tasks/exit" if text("id") == text("container_id") => {
                seen.running.remove(&text("container_id"));
            }
            _ => {}
        }
    }
}

/// The topic of a printed event, and what it tells.
fn parse(line: &str) -> Option<(&str, Value)> {
    let topic = line.split(' ').find(|word| word.starts_with('/'))?;
    Some((topic, serde_json::from_str(&line[line.find('{')?..]).ok()?))
}

impl Seen {
    fn container_made(&mut self, id: &str, prefix: &str) {
        if id.starts_with(prefix) {
            self.containers.insert(id.to_owned());
            self.made += 1;
            self.most_containers = self.most_containers.max(self.containers.len());
        }
    }

    fn process_started(&mut self, id: &str, prefix: &str) {
        if id.starts_with(prefix) {
            self.running.insert(id.to_owned());
            self.started += 1;
            self.most_running = self.most_running.max(self.running.len());
        }
    }
}
