//! A connection, as it is shown: to whoever asks this node, and to other nodes.

use std::net::IpAddr;
use std::time::SystemTime;

use jiff::{Timestamp, Unit};
use roost_proxy::websocket::Member;
use serde::{Deserialize, Serialize};

/// One connection. What stands behind `?` in its path is not shown: clients put tokens there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    pub(crate) id: String,
    function: String,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    user: Option<String>,
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    subprotocol: Option<String>,
    pub(crate) peer: IpAddr,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) user_agent: Option<String>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) last_active: Option<Timestamp>,
    /// `opening` until its function has let it in.
    state: State,
    messages: Ways,
    bytes: Ways,
    unsent_bytes: usize,
    /// On which node it is, where there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    node: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Opening,
    Open,
}

/// What came from the client, and what went to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ways {
    r#in: u64,
    out: u64,
}

impl ConnectionView {
    /// One that is held here, on the node of this name.
    pub(super) fn new(member: &Member, node: Option<&str>) -> Self {
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
            state: if member.is_open() { State::Open } else { State::Opening },
            messages: carried.messages.into(),
            bytes: carried.bytes.into(),
            unsent_bytes: member.unsent(),
            node: node.map(str::to_owned),
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
