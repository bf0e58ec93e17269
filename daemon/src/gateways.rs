//! The sockets at which functions reach the proxy: the gateway's port at their own network's gateway address.
//!
//! Owns when they are opened and closed: with the first word of a namespace, and when it is gone. What comes in by them
//! is the server's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use roost_proxy::Server;
use roost_proxy::function::Namespace;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::function::namespace::Namespaces;
use crate::network::HostNetwork;
use crate::pauses::Pauses;

/// The port at which functions expect the gateway.
pub(crate) const GATEWAY_PORT: u16 = 8080;

/// The pauses between tries to open a gateway.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Connections that the kernel holds while none is accepted.
const BACKLOG: i32 = 4096;

/// The gateways of all namespaces.
pub struct Gateways {
    server: Server,
    network: HostNetwork,
    /// What is listened on anyway.
    covered: Vec<SocketAddr>,
    /// At which address, and who accepts there, by namespace.
    open: BTreeMap<Namespace, (SocketAddr, AbortOnDropHandle<()>)>,
}

impl Gateways {
    /// Gateways to `server`, but for addresses at which it listens already.
    #[must_use]
    pub fn new(server: Server, network: HostNetwork, listening: &[TcpListener]) -> Self {
        let covered = listening.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        Self { server, network, covered, open: BTreeMap::new() }
    }

    /// Follows the namespaces as they come and go, until the daemon ends.
    pub async fn follow(mut self, mut namespaces: watch::Receiver<Namespaces>) {
        while namespaces.changed().await.is_ok() {
            self.set(&namespaces.borrow_and_update());
        }
    }

    /// Opens the gateways of these namespaces and closes all others. What was accepted goes on.
    pub fn set(&mut self, namespaces: &Namespaces) {
        let wanted: BTreeMap<_, _> =
            namespaces.keys().filter_map(|name| Some((name, self.address(name)?))).collect();
        // A name may have come back with another network.
        self.open.retain(|name, (address, _)| wanted.get(name) == Some(address));
        for (name, address) in wanted {
            if !self.open.contains_key(name) {
                let accepts = self.listen(name, address);
                self.open.insert(name.clone(), (address, accepts));
            }
        }
    }

    /// Where a namespace has its gateway; `None` while it has no network, or where the main socket covers the address.
    fn address(&self, namespace: &Namespace) -> Option<SocketAddr> {
        let address = SocketAddr::new(self.network.gateway(namespace)?, GATEWAY_PORT);
        let covers = |there: &SocketAddr| {
            *there == address || (there.ip().is_unspecified() && there.port() == GATEWAY_PORT)
        };
        (!self.covered.iter().any(covers)).then_some(address)
    }

    /// Listens at `address` from now on, or as soon as it can be.
    fn listen(&self, namespace: &Namespace, address: SocketAddr) -> AbortOnDropHandle<()> {
        let mut tried = open(address);
        let (server, namespace) = (self.server.clone(), namespace.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut pauses = Pauses::new(PAUSE);
            let listener = loop {
                match tried {
                    Ok(listener) => break listener,
                    Err(error) => warn!("functions of {namespace} cannot reach the gateway yet: {error:#}"),
                }
                pauses.wait().await;
                tried = open(address);
            };
            info!("listening on {address} for the functions of {namespace}");
            server.serve(listener).await;
        }))
    }
}

/// The bridge comes with the first replica; the address is bound before it is there.
fn open(address: SocketAddr) -> anyhow::Result<TcpListener> {
    Ok(TcpListener::from_std(bind(address, true)?)?)
}

/// Opens a socket that listens. With `free`, the address need not be there yet.
///
/// # Errors
/// When the kernel refuses.
pub fn bind(address: SocketAddr, free: bool) -> anyhow::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if free && address.is_ipv4() {
            socket.set_freebind_v4(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok::<_, std::io::Error>(socket.into())
    };
    open().with_context(|| format!("cannot listen on {address}"))
}
