//! Leases: what one operation makes is not collected before the operation is over.
//!
//! A lease expires by itself, so that one that a crash left behind holds nothing for ever.

use std::collections::HashMap;
use std::time::Duration;

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{CreateRequest, DeleteRequest};
use jiff::Timestamp;
use uuid::Uuid;

use super::Error;
use super::client::Scope;
use super::error::gone_is_fine;

/// containerd's collector reads this label: a time in RFC 3339.
const EXPIRY_LABEL: &str = "containerd.io/gc.expire";

/// One operation's hold on what it makes.
#[derive(Debug)]
pub struct Lease {
    id: String,
    scope: Scope,
}

impl Lease {
    /// Takes a lease in `scope` that ends by itself after `lifetime`.
    ///
    /// # Errors
    /// When containerd does not give one.
    pub async fn take(scope: &Scope, lifetime: Duration) -> Result<Self, Error> {
        let id = format!("roost-{}", Uuid::now_v7());
        let failed = |status| Error::call("take lease", &id)(status);
        let expiry = Timestamp::now()
            .checked_add(lifetime)
            .map_err(|error| failed(tonic::Status::invalid_argument(error.to_string())))?;
        let labels = HashMap::from([(EXPIRY_LABEL.to_owned(), expiry.to_string())]);
        let held = scope.with_lease(&id).map_err(failed)?;
        LeasesClient::new(scope.channel())
            .create(scope.call(CreateRequest { id: id.clone(), labels }))
            .await
            .map_err(failed)?;
        Ok(Self { id, scope: held })
    }

    /// The scope whose calls put what they make under this lease.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Gives the lease back. A failure is logged only: the lease ends by itself.
    pub async fn release(self) {
        let request = self.scope.call(DeleteRequest { id: self.id.clone(), sync: false });
        let deleted = LeasesClient::new(self.scope.channel()).delete(request).await;
        let deleted = deleted.map(drop).map_err(Error::call("release lease", &self.id));
        if let Err(error) = gone_is_fine(deleted) {
            tracing::warn!("a lease stays until it expires: {error}");
        }
    }
}
