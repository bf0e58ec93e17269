//! A line to a registry that breaks or stops on demand, and remembers what was asked.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What goes wrong, once, on the connection that first carries so many bytes of answers.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    CutAfter(usize),
    HoldAfter(usize),
}

pub(crate) struct Line {
    pub(crate) port: u16,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    fault: Mutex<Option<Fault>>,
    asked: Mutex<Vec<u8>>,
}

impl Line {
    pub(crate) async fn to(port: u16, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::new(State { fault: Mutex::new(Some(fault)), asked: Mutex::default() });
        let task = tokio::spawn({
            let state = state.clone();
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    connections.spawn(carry(client, server, state.clone()));
                }
            }
        });
        Self { port: own, state, task }
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// The `Range` headers that were sent.
    pub(crate) fn ranges(&self) -> Vec<String> {
        let asked = self.state.asked.lock().unwrap();
        let text = String::from_utf8_lossy(&asked).to_lowercase();
        text.lines().filter_map(|line| line.strip_prefix("range: ")).map(str::to_owned).collect()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, server: TcpStream, state: Arc<State>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // When either direction ends, both connections are closed.
    tokio::select! {
        () = questions(from_client, to_server, &state) => {}
        () = answers(from_server, to_client, &state) => {}
    }
}

async fn questions(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        state.asked.lock().unwrap().extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State) {
    let mut buffer = vec![0; 16 << 10];
    let mut carried = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        carried += read;
        let due = |fault: &mut Fault| match *fault {
            Fault::CutAfter(limit) | Fault::HoldAfter(limit) => carried >= limit,
        };
        let fault = state.fault.lock().unwrap().take_if(due);
        if let Some(fault) = fault {
            match fault {
                Fault::CutAfter(_) => return,
                Fault::HoldAfter(_) => std::future::pending().await,
            }
        }
    }
}
