//! What a replica is made of, and how it is taken apart.
//!
//! What is made for one goes by its id, so that all of it is found again, however far the making came.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::warn;

use super::{Adoptable, FUNCTION_PORT, Order, Replica};
use crate::function::grants::Granted;
use crate::function::spec::FunctionSpec;
use crate::function::steps::Steps;
use crate::image::ResolvedImage;
use crate::lambda::{Lambda, Seat, environment};
use crate::pauses::Pauses;
use crate::runtime::{BindMount, ReplicaPlan, Standing};

/// The variable in which a replica that is for a key finds it.
const KEY_VARIABLE: &str = "ROOST_KEY";

/// The pauses between tries to take a replica apart.
const CLEAN_UP_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

impl Replica {
    /// Makes all of it, and starts it if it is to run at once: how far it is, where it will answer, and its place at the
    /// Runtime API, if it polls for its events.
    ///
    /// # Errors
    /// With what failed, for whoever runs the host. What was made is there, for [`take_apart`](Self::take_apart).
    pub(super) async fn make(
        &self,
        spec: &FunctionSpec,
        image: &ResolvedImage,
        lambda: Option<Lambda>,
        steps: &mut Steps,
    ) -> Result<(Adoptable, Option<Seat>), String> {
        // Side by side, and each to its end.
        let (attachment, given) =
            tokio::join!(self.host.network.attach(&self.id, &spec.key), self.give(spec));
        let attachment = attachment.map_err(|error| format!("network: {error}"))?;
        let (granted, mounts) = given?;
        steps.done("network");
        if matches!(*self.orders.borrow(), Order::End(_)) {
            return Err("no longer wanted".to_owned());
        }
        // Before it runs: it polls at once.
        let seat = self.seat(attachment.address, lambda)?;
        let mut env = self.host.passes.environment(&spec.key.namespace, &spec.deployment);
        if lambda.is_some() {
            env.extend(environment::of(spec, &image.config));
        }
        env.extend(spec.environment());
        if let Some(key) = &self.replica_key {
            env.insert(KEY_VARIABLE.to_owned(), key.to_string());
        }
        let plan = ReplicaPlan {
            id: self.id.clone(),
            function: self.key.clone(),
            revision: self.revision.clone(),
            key: self.replica_key.clone(),
            image: image.clone(),
            env,
            limits: spec.limits,
            read_only_root: spec.deployment.read_only_root_filesystem,
            netns: attachment.netns,
            address: attachment.address,
            mounts,
            devices: granted.devices,
            labels: BTreeMap::new(),
            log_dir: self.host.logs.directory(&self.key),
            log_limit: self.host.settings.log_limit,
        };
        let runtime = &self.host.runtime;
        let run = *self.orders.borrow() == Order::Run;
        let made = if run { runtime.start(&plan).await } else { runtime.create(&plan).await };
        made.map_err(|error| error.to_string())?;
        steps.done("create");
        let standing = if run { Standing::Running } else { Standing::Created };
        let address = SocketAddr::new(attachment.address, FUNCTION_PORT);
        Ok((Adoptable { standing, address }, seat))
    }

    /// Gives it what it sees of the host and of its secrets.
    async fn give(&self, spec: &FunctionSpec) -> Result<(Granted, Vec<BindMount>), String> {
        let mut granted = self.host.allowed.grant(&spec.wishes).await?;
        let (namespace, names) = (self.key.namespace.clone(), &spec.deployment.secrets);
        let secrets = self.host.secrets.give(namespace, self.id.clone(), names).await;
        let mut mounts = self.host.network.mounts(&self.id);
        mounts.extend(secrets.map_err(|error| error.to_string())?);
        let binds = self.host.binds.make(&self.id, std::mem::take(&mut granted.mounts)).await;
        mounts.extend(binds.map_err(|error| error.to_string())?);
        Ok((granted, mounts))
    }

    /// Takes everything apart, until nothing is left.
    pub(super) async fn take_apart(&self) {
        let mut pauses = Pauses::new(CLEAN_UP_PAUSE);
        while let Err(error) = self.try_take_apart().await {
            warn!(
                function = %self.key, replica = %self.id,
                "replica {}: cannot be taken apart yet: {error}", self.id
            );
            pauses.wait().await;
        }
    }

    async fn try_take_apart(&self) -> Result<(), String> {
        let grace = self.host.settings.stop_grace;
        let namespace = &self.key.namespace;
        self.host.runtime.stop(namespace, &self.id, grace).await.map_err(|e| e.to_string())?;
        self.host.binds.remove(&self.id).await.map_err(|e| e.to_string())?;
        let gone = self.host.secrets.take_away(namespace.clone(), self.id.clone()).await;
        gone.map_err(|e| e.to_string())?;
        self.host.network.detach(&self.id).await.map_err(|e| e.to_string())
    }
}
