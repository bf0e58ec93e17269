//! The terms with the keys that events are signed with: a look at the secrets, so not pure.

use roost_proxy::WebSocketLimits;
use roost_proxy::function::FunctionKey;
use roost_proxy::websocket::EventMode;
use roost_proxy::websocket::codec::Codec;
use tracing::warn;

use crate::function::spec::Deployment;
use crate::secrets::{SecretName, Secrets};

/// What the deployment of `function` says, as [`of`](super::of) reads it, with the keys as the secrets are now. Whoever lets
/// requests in takes this one: a function that verifies refuses what is not signed.
#[must_use]
pub fn signed(
    function: &FunctionKey,
    deployment: &Deployment,
    limits: &WebSocketLimits,
    secrets: &Secrets,
) -> Option<EventMode> {
    let mut mode = super::of(deployment, limits)?;
    if let Codec::CloudEvents(codec) = &mut mode.codec {
        let key = |name: SecretName| {
            let key = secrets.signing_key(&function.namespace, &name);
            // What is signed with less than it asks for, the function refuses.
            key.map_err(|error| warn!(%function, "{function}: events are not signed: {error}")).ok()
        };
        codec.keys = super::signing(deployment).into_iter().filter_map(key).collect();
    }
    Some(mode)
}
