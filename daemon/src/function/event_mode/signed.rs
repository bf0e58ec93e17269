//! The terms with what is not in the deployment: the keys that events are signed with, which takes a look at the secrets and
//! so is not pure, and which revision is to be asked if it takes them.

use roost_proxy::WebSocketLimits;
use roost_proxy::function::FunctionKey;
use roost_proxy::websocket::codec::Codec;
use roost_proxy::websocket::{EventMode, Validation};
use tracing::warn;

use crate::function::record::Revision;
use crate::secrets::{SecretName, Secrets};

/// What this revision of `function` says, as [`of`](super::of) reads it, with the keys as the secrets are now. Whoever lets
/// requests in takes this one: a function that verifies refuses what is not signed.
#[must_use]
pub fn signed(
    function: &FunctionKey,
    revision: &Revision,
    limits: &WebSocketLimits,
    secrets: &Secrets,
) -> Option<EventMode> {
    let deployment = &revision.deployment;
    let mut mode = super::of(deployment, limits)?;
    if let Codec::CloudEvents(codec) = &mut mode.codec {
        let key = |name: SecretName| {
            let key = secrets.signing_key(&function.namespace, &name);
            // What is signed with less than it asks for, the function refuses.
            key.map_err(|error| warn!(%function, "{function}: events are not signed: {error}")).ok()
        };
        codec.validation = super::is_asked(deployment).then(|| Validation::of(&revision.id));
        codec.keys = super::signing(deployment).into_iter().filter_map(key).collect();
    }
    Some(mode)
}
