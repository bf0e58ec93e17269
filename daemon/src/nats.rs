//! The connection to a NATS server.
//!
//! Owns how it is made: who logs in, whom to trust, and what is told of it. Once there it comes back by itself. What is said
//! over it is its user's.

use async_nats::{Client, ConnectOptions, Event};
use roost_proxy::function::Namespace;
use tracing::{debug, info, warn};

use crate::secrets::Secrets;
use crate::triggers::settings::{Nats, Password};

/// How many messages of one subscription may wait to be looked at; those that come then are lost.
const MAX_WAITING: usize = 1024;

/// Connects to a server. From then on `connected` hears of each change.
///
/// # Errors
/// When the server cannot be reached, does not take the login, or a file of it cannot be read.
pub async fn connect(
    server: &Nats,
    secrets: &Secrets,
    connected: impl Fn(bool) + Clone + Send + Sync + 'static,
) -> Result<Client, String> {
    let url = server.url.clone();
    let mut options = ConnectOptions::new()
        .name(roost_proxy::PRODUCT)
        .subscription_capacity(MAX_WAITING)
        .event_callback(move |event| {
            let (connected, url) = (connected.clone(), url.clone());
            async move {
                match event {
                    Event::Connected => {
                        info!("{url}: connected");
                        connected(true);
                    }
                    Event::Disconnected => {
                        warn!("{url}: not connected");
                        connected(false);
                    }
                    Event::SlowConsumer(_) => warn!("{url}: messages of a subject without a stream are lost"),
                    event => debug!("{url}: {event}"),
                }
            }
        });
    if let Some(ca) = &server.ca_file {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some(path) = &server.credentials_file {
        let read = options.credentials_file(path).await;
        options = read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    }
    if let Some(login) = &server.login {
        let password = password(login.password.as_ref(), secrets).await?;
        options = options.user_and_password(login.user.clone(), password);
    }
    options.connect(&server.url).await.map_err(|error| error.to_string())
}

async fn password(password: Option<&Password>, secrets: &Secrets) -> Result<String, String> {
    match password {
        Some(password) => password.read(secrets, Namespace::default()).await,
        None => Ok(String::new()),
    }
}
