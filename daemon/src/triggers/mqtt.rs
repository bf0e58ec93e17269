//! An MQTT broker: its messages are calls, acknowledged when the queue has them.
//!
//! Owns the connection to one broker and what is asked of it. The session outlives the connection and the daemon: what is
//! published with QoS 1 meanwhile is kept by the broker, and comes later. Messages are handed over in their order, and
//! acknowledged in it; while [`MAX_IN_FLIGHT`] of them are not, no more are read.
//!
//! ```text
//!   somebody listens ─► connect ─► subscribe to what is new ─► message ─► queue ─► acknowledge
//!         ▲                │                                      │
//!         └──── pause ◄────┴──────────── broken off ◄─────────────┘
//! ```

mod filter;
mod subscriptions;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http::{HeaderMap, HeaderValue};
use roost_proxy::function::{FunctionKey, Namespace};
use rumqttc::{AsyncClient, ClientError, ConnectionError, Event, EventLoop, Incoming, MqttOptions, Publish};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use self::filter::matches;
use self::subscriptions::Subscriptions;
use super::handing::hand_over;
use super::sessions::Session;
use super::settings::{Mqtt, Trust};
use super::topics::Source;
use super::wanted::{Topics, Wanted};
use super::{Deliver, Tools, TriggeredCall, X_CONNECTOR, X_TOPIC};
use crate::pauses::Pauses;

/// How many messages of a broker may be read and not acknowledged. Brokers have limits of their own: Mosquitto sends 20.
const MAX_IN_FLIGHT: usize = 64;

/// How many requests to the broker may wait to be sent: one for each message, and one that asks for topics.
const MAX_REQUESTS: usize = MAX_IN_FLIGHT + 8;

/// How many events of the connection may wait to be looked at.
const MAX_EVENTS: usize = 16;

/// The largest packet, in bytes. A larger one breaks the connection off, so it is far more than a call may have.
const MAX_PACKET: usize = 64 << 20;

/// After so long without a word the broker is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The pauses between two tries to connect.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

const CONNECTOR: HeaderValue = HeaderValue::from_static("mqtt-connector");

/// Takes messages of one broker for ever, while somebody listens to it.
pub async fn run<D: Deliver>(
    source: Source,
    broker: Mqtt,
    tools: Tools<D>,
    mut wanted: watch::Receiver<Arc<Wanted>>,
) {
    let mut listener =
        Listener { name: source.to_string(), session: Session::default(), source, broker, tools };
    let mut pauses = Pauses::new(PAUSES);
    let mut told = String::new();
    loop {
        let why = match listener.take_up_session().await {
            Ok(()) => {
                let idle = |wanted: &Arc<Wanted>| !wanted.topics.contains_key(&listener.source);
                if listener.session.filters.is_empty() && idle(&wanted.borrow_and_update()) {
                    match wanted.changed().await {
                        Ok(()) => continue,
                        Err(_) => return,
                    }
                }
                let (why, was_connected) = listener.connect(&mut wanted).await;
                if was_connected {
                    pauses = Pauses::new(PAUSES);
                    told.clear();
                }
                why
            }
            Err(why) => why,
        };
        listener.tools.figures.connected(&listener.source, false);
        if told != why {
            warn!("{}: not connected: {why}", listener.name);
            told = why;
        }
        pauses.wait().await;
    }
}

struct Listener<D> {
    source: Source,
    /// The source, in words.
    name: String,
    broker: Mqtt,
    tools: Tools<D>,
    session: Session,
}

impl<D: Deliver> Listener<D> {
    /// Reads what the broker knows of this host, or begins something for it to know.
    async fn take_up_session(&mut self) -> Result<(), String> {
        if !self.session.client_id.is_empty() {
            return Ok(());
        }
        let (store, name) = (Arc::clone(&self.tools.store), self.name.clone());
        let noted = tokio::task::spawn_blocking(move || store.session(&name)).await;
        let noted = noted.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let noted = noted.map_err(|error| error.to_string())?;
        let set = self.broker.client_id.as_ref();
        match noted.filter(|noted| set.is_none_or(|id| *id == noted.client_id)) {
            Some(noted) => self.session = noted,
            None => {
                // No more than 23 letters and digits, which every broker takes.
                let new = || format!("roost{}", &uuid::Uuid::new_v4().simple().to_string()[..16]);
                let client_id = set.cloned().unwrap_or_else(new);
                let session = Session { client_id, filters: BTreeSet::new() };
                self.note(&session).await?;
                self.session = session;
            }
        }
        Ok(())
    }

    async fn note(&self, session: &Session) -> Result<(), String> {
        let (store, name, session) = (Arc::clone(&self.tools.store), self.name.clone(), session.clone());
        let noted = tokio::task::spawn_blocking(move || store.put_session(&name, &session)).await;
        let noted = noted.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        noted.map_err(|error| error.to_string())
    }

    /// Connects and takes messages until that ends: why, and whether there was a connection.
    async fn connect(&mut self, wanted: &mut watch::Receiver<Arc<Wanted>>) -> (String, bool) {
        let options = match self.options().await {
            Ok(options) => options,
            Err(why) => return (why, false),
        };
        let (client, eventloop) = AsyncClient::new(options, MAX_REQUESTS);
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        let mut connected = false;
        let why = tokio::select! {
            error = pump(eventloop, sender) => error.to_string(),
            why = self.serve(&client, events, wanted, &mut connected) => why,
        };
        (why, connected)
    }

    async fn options(&self) -> Result<MqttOptions, String> {
        let Mqtt { host, port, tls, login, .. } = &self.broker;
        let mut options = MqttOptions::new(&self.session.client_id, host, *port);
        options
            .set_clean_session(false)
            .set_manual_acks(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET);
        if let Some(login) = login {
            let password = match &login.password {
                Some(password) => password.read(&self.tools.secrets, Namespace::default()).await?,
                None => String::new(),
            };
            options.set_credentials(&login.user, password);
        }
        if let Some(trust) = tls {
            options.set_transport(Transport::Tls(trusted(trust).await?));
        }
        Ok(options)
    }

    /// Takes messages until something is wrong, and says what.
    async fn serve(
        &mut self,
        client: &AsyncClient,
        mut events: mpsc::Receiver<Event>,
        wanted: &mut watch::Receiver<Arc<Wanted>>,
        connected: &mut bool,
    ) -> String {
        let mut topics = wanted.borrow_and_update().of_source(&self.source);
        let mut subscriptions: Option<Subscriptions> = None;
        let Tools { deliver, figures, .. } = self.tools.clone();
        let name = self.name.clone();
        let mut handing = FuturesOrdered::new();
        loop {
            tokio::select! {
                Some(message) = handing.next(), if !handing.is_empty() => {
                    if let Err(error) = client.try_ack(&message) {
                        return told(&error);
                    }
                }
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return "the daemon ends".to_owned();
                    }
                    topics = wanted.borrow_and_update().of_source(&self.source);
                }
                event = events.recv(), if handing.len() < MAX_IN_FLIGHT => match event {
                    Some(Event::Incoming(Incoming::Publish(message))) => {
                        let functions = listeners(&topics, &message, subscriptions.as_ref());
                        let call = call(&message);
                        let (deliver, figures, name) = (&deliver, &figures, &name);
                        handing.push_back(async move {
                            hand_over(deliver, figures, name, &functions, &call).await;
                            message
                        });
                    }
                    Some(Event::Incoming(Incoming::ConnAck(ack))) => {
                        *connected = true;
                        subscriptions = Some(self.connected(ack.session_present));
                    }
                    Some(Event::Incoming(answer)) => self.heed(subscriptions.as_mut(), &answer),
                    Some(Event::Outgoing(_)) => {}
                    None => return "the connection ended".to_owned(),
                },
            }
            let Some(subscriptions) = &mut subscriptions else { continue };
            self.note_granted(subscriptions).await;
            if let Err(error) = subscriptions.ask(client, topics.keys()) {
                return told(&error);
            }
        }
    }

    fn connected(&self, session_present: bool) -> Subscriptions {
        let Mqtt { host, port, .. } = &self.broker;
        info!("{}: connected to {host}:{port} as {}", self.name, self.session.client_id);
        self.tools.figures.connected(&self.source, true);
        Subscriptions::of(if session_present { self.session.filters.clone() } else { BTreeSet::new() })
    }

    /// What the broker says to a question.
    fn heed(&self, subscriptions: Option<&mut Subscriptions>, answer: &Incoming) {
        let Some(subscriptions) = subscriptions else { return };
        match answer {
            Incoming::SubAck(ack) => {
                for filter in subscriptions.answered(ack.return_codes.iter().map(subscriptions::is_granted)) {
                    warn!("{}: the broker refuses {filter}", self.name);
                }
            }
            Incoming::UnsubAck(_) => subscriptions.left(),
            _ => {}
        }
    }

    async fn note_granted(&mut self, subscriptions: &Subscriptions) {
        if subscriptions.granted() == &self.session.filters {
            return;
        }
        self.session.filters.clone_from(subscriptions.granted());
        if let Err(why) = self.note(&self.session).await {
            warn!("{}: what was subscribed to cannot be noted: {why}", self.name);
        }
    }
}

/// Moves the connection on, without ever being left in the middle of something.
async fn pump(mut eventloop: EventLoop, events: mpsc::Sender<Event>) -> ConnectionError {
    loop {
        match eventloop.poll().await {
            // Nobody looks at them any more: then the other side says why.
            Ok(event) => {
                if events.send(event).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Err(error) => return error,
        }
    }
}

fn told(error: &ClientError) -> String {
    format!("too much waits to be sent: {error}")
}

/// Who is to have a message, each once: all who listen to its topic. One that the broker has retained, and sends because
/// somebody has begun to listen, is for those who have.
fn listeners(topics: &Topics, message: &Publish, subscriptions: Option<&Subscriptions>) -> Vec<FunctionKey> {
    let who = |of: &dyn Fn(&str) -> bool| -> BTreeSet<FunctionKey> {
        let all = topics.iter().filter(|(filter, _)| matches(filter, &message.topic) && of(filter));
        all.flat_map(|(_, functions)| functions).cloned().collect()
    };
    let new = |filter: &str| subscriptions.is_some_and(|all| all.is_newest(filter));
    let begun = if message.retain { who(&new) } else { BTreeSet::new() };
    let all = if begun.is_empty() { who(&|_| true) } else { begun };
    all.into_iter().collect()
}

fn call(message: &Publish) -> TriggeredCall {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(X_CONNECTOR, CONNECTOR);
    // A topic with control characters in it is no header.
    if let Ok(topic) = HeaderValue::from_bytes(message.topic.as_bytes()) {
        headers.insert(X_TOPIC, topic);
    }
    // In memory of its own: it came in a buffer with others.
    TriggeredCall { headers, body: message.payload.to_vec().into(), ..TriggeredCall::default() }
}

/// Whom to trust, read anew for each connection.
async fn trusted(trust: &Trust) -> Result<TlsConfiguration, String> {
    let trust = trust.clone();
    let read = tokio::task::spawn_blocking(move || client_config(&trust)).await;
    let config = read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    Ok(TlsConfiguration::Rustls(Arc::new(config)))
}

fn client_config(trust: &Trust) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &trust.ca_file {
        Some(ca) => roots.add_parsable_certificates(certificates(ca)?),
        None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    };
    if roots.is_empty() {
        return Err("there is no authority to trust: set ca_file".to_owned());
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    let Some((certificate, key)) = &trust.identity else { return Ok(config.with_no_client_auth()) };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|why| format!("{}: {why}", key.display()))?;
    config.with_client_auth_cert(certificates(certificate)?, private).map_err(|why| why.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let told = |why| format!("{}: {why}", path.display());
    CertificateDer::pem_file_iter(path).map_err(told)?.collect::<Result<_, _>>().map_err(told)
}

#[cfg(test)]
mod tests {
    use rumqttc::QoS;

    use super::*;

    #[test]
    fn a_message_is_for_all_who_listen_and_one_that_was_retained_for_those_who_have_begun_to() {
        let [f, g] = ["f", "g"].map(|name| FunctionKey::from_route(name).unwrap());
        let topics = Topics::from([
            ("a/+".to_owned(), BTreeSet::from([f.clone()])),
            ("a/#".to_owned(), BTreeSet::from([f.clone(), g.clone()])),
        ]);
        let subscriptions = Subscriptions::newly(&["a/#"]);
        let mut message = Publish::new("a/b", QoS::AtLeastOnce, "x");
        assert_eq!(listeners(&topics, &message, None), [f.clone(), g.clone()]);
        let of_plus = Subscriptions::newly(&["a/+"]);
        message.retain = true;
        assert_eq!(listeners(&topics, &message, Some(&subscriptions)), [f.clone(), g.clone()]);
        assert_eq!(listeners(&topics, &message, Some(&of_plus)), std::slice::from_ref(&f));
        assert_eq!(listeners(&topics, &message, None), [f, g], "it was on its way when the connection ended");
        message.topic = "b".into();
        assert!(listeners(&topics, &message, None).is_empty());
        assert_eq!(call(&message).headers[X_TOPIC], "b");
    }
}
