//! How many requests functions answered, written down under the same lock as functions.

use std::sync::Arc;

use super::{Registry, whole, whole_blocking};
use crate::store::StoreError;
use crate::usage::UsageRecord;

impl Registry {
    /// Writes down how often functions were invoked, of those that were since the last time. Under the writer's lock:
    /// none of them is deleted meanwhile and left with a count.
    ///
    /// # Errors
    /// When the store fails. Then nothing has changed.
    pub async fn write_usage(self: &Arc<Self>) -> Result<(), StoreError> {
        let registry = Arc::clone(self);
        whole(async move {
            let mut written = registry.writer.lock().await;
            let counted: Vec<_> = registry
                .observe()
                .into_iter()
                .map(|function| (function.key, UsageRecord { requests: function.upstream.requests() }))
                .filter(|(key, record)| written.get(key).copied().unwrap_or(0) != record.requests)
                .collect();
            if counted.is_empty() {
                return Ok(());
            }
            let store = Arc::clone(&registry.store);
            let counted = whole_blocking(move || store.put_usage(&counted).map(|()| counted)).await?;
            written.extend(counted.into_iter().map(|(key, record)| (key, record.requests)));
            Ok(())
        })
        .await
    }
}
