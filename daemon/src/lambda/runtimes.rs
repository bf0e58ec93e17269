//! Where replicas call the Runtime API, and which replica it is that calls.
//!
//! Owns the sockets, one at each network's gateway address, opened with its first such replica; and who sits at which
//! address. A replica is known by the address that it calls from, which it cannot choose: the answer goes there. The
//! sockets are this host's own: nobody outside reaches them by the gateway's port, and they stay open until the daemon has
//! ended, so that what is in flight then can be answered.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use roost_proxy::function::FunctionKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::desk::Desk;
use super::{Lambda, front, runtime_api};
use crate::gateways;
use crate::pauses::Pauses;

/// The port at the gateway's address.
pub const RUNTIME_PORT: u16 = 2018;

/// Connections of one replica at once: a runtime needs one, or a new one for each call.
const MAX_CONNECTIONS: usize = 16;

/// The pauses when no connection can be accepted.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// All replicas that poll.
#[derive(Clone, Default)]
pub struct Runtimes(Arc<Inner>);

#[derive(Default)]
struct Inner {
    places: Mutex<HashMap<IpAddr, Arc<Place>>>,
    /// Who accepts, by the address of a network's gateway.
    listening: Mutex<HashMap<IpAddr, AbortOnDropHandle<()>>>,
}

/// One replica, as its calls find it.
struct Place {
    function: FunctionKey,
    desk: Arc<Desk>,
    connections: Arc<Semaphore>,
}

/// A replica's place. Dropped, it is no longer known, and whoever waits for it is told that it has ended.
pub struct Seat {
    inner: Arc<Inner>,
    at: IpAddr,
    place: Arc<Place>,
    front: SocketAddr,
}

impl Runtimes {
    /// Makes a place for the replica at `address`, whose network has this gateway.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub fn seat(
        &self,
        function: &FunctionKey,
        address: IpAddr,
        gateway: Option<IpAddr>,
        lambda: Lambda,
    ) -> Result<Seat, String> {
        let gateway = gateway.ok_or("the Runtime API: the network has no gateway at which it could be")?;
        self.listen(gateway).map_err(|error| format!("the Runtime API: {error:#}"))?;
        let listener = gateways::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), false);
        let (front, listener) =
            listener.and_then(usable).map_err(|error| format!("the Runtime API: {error:#}"))?;
        let desk = Arc::new(Desk::new(lambda.timeout));
        tokio::spawn(front::serve(listener, Arc::clone(&desk)));
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let place = Arc::new(Place { function: function.clone(), desk, connections });
        lock(&self.0.places).insert(address, Arc::clone(&place));
        Ok(Seat { inner: Arc::clone(&self.0), at: address, place, front })
    }

    /// Listens there, if nobody does.
    fn listen(&self, gateway: IpAddr) -> anyhow::Result<()> {
        let mut listening = lock(&self.0.listening);
        if listening.get(&gateway).is_some_and(|accepts| !accepts.is_finished()) {
            return Ok(());
        }
        let address = SocketAddr::new(gateway, RUNTIME_PORT);
        let (_, listener) = usable(gateways::bind(address, true)?)?;
        info!("listening on {address} for the runtimes of Lambda functions");
        let accepts = tokio::spawn(accept(listener, Arc::downgrade(&self.0)));
        listening.insert(gateway, AbortOnDropHandle::new(accepts));
        Ok(())
    }
}

impl Seat {
    /// Where the proxy asks for it.
    #[must_use]
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// What is known of it.
    #[must_use]
    pub fn desk(&self) -> &Desk {
        &self.place.desk
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.place.desk.close();
        let mut places = lock(&self.inner.places);
        // The address may be another's by now.
        if places.get(&self.at).is_some_and(|place| Arc::ptr_eq(place, &self.place)) {
            places.remove(&self.at);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn usable(listener: std::net::TcpListener) -> anyhow::Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::from_std(listener)?;
    Ok((listener.local_addr()?, listener))
}

async fn accept(listener: TcpListener, all: std::sync::Weak<Inner>) {
    let mut pauses = Pauses::new(PAUSE);
    loop {
        let accepted = listener.accept().await;
        let Some(all) = all.upgrade() else { return };
        match accepted {
            Ok((stream, peer)) => {
                pauses = Pauses::new(PAUSE);
                let place = lock(&all.places).get(&peer.ip()).cloned();
                match place {
                    Some(place) => welcome(stream, place),
                    None => debug!(%peer, "calls the Runtime API and is no replica of a Lambda function"),
                }
            }
            Err(error) => {
                warn!("no call of the Runtime API can be accepted: {error}");
                drop(all);
                pauses.wait().await;
            }
        }
    }
}

/// Answers on a connection of this replica, if it has not too many.
fn welcome(stream: TcpStream, place: Arc<Place>) {
    let Ok(permit) = Arc::clone(&place.connections).try_acquire_owned() else {
        return debug!(function = %place.function, "a runtime has more than {MAX_CONNECTIONS} connections");
    };
    let service = service_fn(move |request| {
        let place = Arc::clone(&place);
        async move { Ok::<_, Infallible>(runtime_api::answer(&place.function, &place.desk, request).await) }
    });
    tokio::spawn(async move {
        let _permit = permit;
        if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
            debug!(%error, "a connection of a runtime");
        }
    });
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LAMBDA: Lambda = Lambda { timeout: Duration::from_secs(30) };

    async fn say(to: SocketAddr, text: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_replica_is_known_by_its_address_as_long_as_it_has_its_place() {
        let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
        // Another address than that of other tests' gateways.
        let gateway = IpAddr::from([127, 9, 8, 7]);
        let runtimes = Runtimes::default();
        let function = FunctionKey::from_route("f").unwrap();
        let seat = runtimes.seat(&function, localhost, Some(gateway), LAMBDA).unwrap();
        let api = SocketAddr::new(gateway, RUNTIME_PORT);
        let next = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let call = "0199e7c2-5a0e-7000-8000-0123456789ab";
        let post = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nX-Call-Id: {call}\r\nContent-Length: 3\r\nConnection: close\r\n\r\n[1]"
        );
        let front = seat.front();
        let runtime = async {
            let event = say(api, next).await.unwrap();
            assert!(event.ends_with("\r\n\r\n[1]"), "{event}");
            assert!(event.contains(&format!("lambda-runtime-aws-request-id: {call}\r\n")), "{event}");
            // It dies.
            drop(seat);
        };
        let (asked, ()) = tokio::join!(say(front, &post), runtime);
        let asked = asked.unwrap();
        assert!(asked.starts_with("HTTP/1.1 502 ") && asked.ends_with("The replica has ended.\n"), "{asked}");
        // The connection ends, as nobody is known at this address.
        assert_eq!(say(api, next).await.unwrap_or_default(), "");
        let none = runtimes.seat(&function, localhost, None, LAMBDA).err().unwrap();
        assert!(none.contains("no gateway"), "{none}");
    }
}
