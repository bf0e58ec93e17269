//! A connection, as it is shown.

use std::net::IpAddr;
use std::time::SystemTime;

use jiff::{Timestamp, Unit};
use roost_proxy::websocket::Member;
use serde::Serialize;

/// One connection. What stands behind `?` in its path is not shown: clients put tokens there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConnectionView {
    id: String,
    function: String,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subprotocol: Option<String>,
    peer: IpAddr,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    since: Option<Timestamp>,
    last_active: Option<Timestamp>,
    /// `opening` until its function has let it in.
    state: &'static str,
    messages: Ways,
    bytes: Ways,
    unsent_bytes: usize,
}

/// What came from the client, and what went to it.
#[derive(Debug, Serialize)]
struct Ways {
    r#in: u64,
    out: u64,
}

/// Some of the connections that there are.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    pub(super) connections: Vec<ConnectionView>,
    /// What to ask for as `after`, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

impl From<&Member> for ConnectionView {
    fn from(member: &Member) -> Self {
        let (identity, carried) = (member.identity(), member.has_carried());
        let mut groups: Vec<String> = member.groups().iter().map(ToString::to_string).collect();
        groups.sort_unstable();
        Self {
            id: identity.id.to_string(),
            function: identity.function.name.to_string(),
            namespace: identity.function.namespace.to_string(),
            user: identity.user().map(str::to_owned),
            groups,
            subprotocol: identity.subprotocol().map(str::to_owned),
            peer: identity.peer,
            path: identity.path.split('?').next().unwrap_or_default().to_owned(),
            user_agent: identity.user_agent.as_deref().map(str::to_owned),
            since: stamp(identity.since),
            last_active: stamp(member.last_active()),
            state: if member.is_open() { "open" } else { "opening" },
            messages: carried.messages.into(),
            bytes: carried.bytes.into(),
            unsent_bytes: member.unsent(),
        }
    }
}

impl From<[u64; 2]> for Ways {
    fn from([r#in, out]: [u64; 2]) -> Self {
        Self { r#in, out }
    }
}

/// To the millisecond.
fn stamp(at: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(at).ok()?.round(Unit::Millisecond).ok()
}
