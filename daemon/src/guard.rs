//! Who calls a function, for the proxy, which knows neither users nor subnets.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use roost_proxy::{BadToken, Denied, Guard, Judgement, Verification};

use crate::jwt::Tokens;
use crate::network::HostNetwork;
use crate::users::{Refused, Users};

/// Judges callers by the users of the API, the keys of tokens and the network of the functions.
pub struct HostGuard {
    /// `None` when everybody may use the API. A function that asks for a login has nobody to let in then.
    pub users: Option<Arc<Users>>,
    /// `None` when no tokens are verified. A function that asks for one has nobody to let in then.
    pub tokens: Option<Arc<Tokens>>,
    /// Where replicas are.
    pub network: HostNetwork,
}

impl Guard for HostGuard {
    fn is_replica(&self, address: IpAddr) -> bool {
        self.network.is_replica(address)
    }

    fn authenticate<'a>(&'a self, headers: &'a HeaderMap, peer: IpAddr) -> Judgement<'a> {
        Box::pin(async move {
            let users = self.users.as_ref().ok_or(Denied::Nobody)?;
            match users.authenticate(headers, peer).await {
                Ok(_) => Ok(()),
                Err(Refused::Wrong) => Err(Denied::Credentials),
                Err(Refused::Busy) => Err(Denied::Busy),
            }
        })
    }

    fn user(&self, headers: &HeaderMap) -> Option<String> {
        Users::name(headers)
    }

    fn claims<'a>(&'a self, token: &'a str) -> Verification<'a> {
        Box::pin(async move { self.tokens.as_ref().ok_or(BadToken::Nobody)?.verify(token).await })
    }
}
