//! Secrets, as far as functions name them: made and removed under the same lock as functions.
//!
//! Owns no secret; [`crate::secrets`] does.

use std::sync::Arc;

use roost_proxy::function::Namespace;

use super::{Registry, RegistryError, whole};
use crate::function::record::FunctionRecord;
use crate::secrets::{SecretName, SecretValue};

impl Registry {
    /// A new secret. Under the writer's lock, so that its namespace is not deleted meanwhile.
    ///
    /// # Errors
    /// When its namespace does not exist, there is one of that name, or it cannot be written.
    pub async fn create_secret(
        self: &Arc<Self>,
        namespace: Namespace,
        name: SecretName,
        value: SecretValue,
    ) -> Result<(), RegistryError> {
        let registry = Arc::clone(self);
        whole(async move {
            let _writer = registry.writer.lock().await;
            registry.require_namespace(&namespace).map_err(RegistryError::Refused)?;
            Ok(registry.tools.host.secrets.create(namespace, name, value).await?)
        })
        .await
    }

    /// No such secret any more. Under the writer's lock, so that no function comes to name it meanwhile.
    ///
    /// # Errors
    /// When there is no such secret, a function names it, or its file cannot be removed.
    pub async fn remove_secret(
        self: &Arc<Self>,
        namespace: Namespace,
        name: SecretName,
    ) -> Result<(), RegistryError> {
        let registry = Arc::clone(self);
        whole(async move {
            let _writer = registry.writer.lock().await;
            let functions = registry.users_of(&namespace, &name);
            if !functions.is_empty() {
                return Err(RegistryError::SecretInUse { name, functions: functions.join(", ") });
            }
            Ok(registry.tools.host.secrets.remove(namespace, name).await?)
        })
        .await
    }

    /// The functions that replicas with this secret may be started of, by name.
    fn users_of(&self, namespace: &Namespace, secret: &SecretName) -> Vec<String> {
        let uses = |record: &FunctionRecord| {
            let mut names = record.revisions().flat_map(|revision| &revision.deployment.secrets);
            names.any(|name| name == secret.as_str())
        };
        let functions = self.lock();
        let of_namespace = functions.iter().filter(|(key, _)| key.namespace == *namespace);
        let users = of_namespace.filter(|(_, entry)| entry.wanted.borrow().as_ref().is_some_and(uses));
        users.map(|(key, _)| key.name.to_string()).collect()
    }
}
