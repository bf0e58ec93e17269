//! Calls about the host itself.

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::Method;

use super::{Client, Error, Payload, authorised, with_query};

impl Client {
    /// What is kept on the disk.
    pub(crate) fn disk<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.json("/system/disk")
    }

    /// Takes away the images that nothing uses, or only asks which. It takes as long as containerd needs.
    pub(crate) fn prune(&self, dry_run: bool) -> Result<Vec<Value>, Error> {
        let parameters: &[(&str, &str)] = if dry_run { &[("dryRun", "true")] } else { &[] };
        let request = self.request(Method::POST, &with_query("/system/prune", parameters));
        let response = self.send(authorised(request, self), Payload::None, None)?;
        self.read_json(self.agreed(response)?)
    }
}
