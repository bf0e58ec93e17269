//! How a revision turned out, for a caller who waits for it.

use tokio::sync::watch;

use crate::function::record::FunctionRecord;
use crate::function::status::{FunctionPhase, Status};

/// How it turned out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// All its replicas are ready, or none are wanted.
    Ready,
    /// It did not come up, and why. It is tried again.
    Failed(String),
    /// There is a newer one, or the function was deleted.
    Overtaken,
}

/// Resolves when `revision` has turned out one way or the other.
pub async fn settled(
    mut wanted: watch::Receiver<Option<FunctionRecord>>,
    mut status: watch::Receiver<Status>,
    revision: &str,
) -> Settled {
    let other = |record: &Option<FunctionRecord>| record.as_ref().is_none_or(|r| r.newest.id != revision);
    let overtaken = async {
        // An error means that its controller is gone, and the function with it.
        wanted.wait_for(other).await.ok();
        Settled::Overtaken
    };
    let told = async {
        let has = |status: &Status| status.revision == revision && outcome(status).is_some();
        let status = status.wait_for(has).await.ok();
        status.and_then(|status| outcome(&status)).unwrap_or(Settled::Overtaken)
    };
    tokio::select! {
        biased;
        overtaken = overtaken => overtaken,
        told = told => told,
    }
}

fn outcome(status: &Status) -> Option<Settled> {
    match status.phase {
        FunctionPhase::Ready | FunctionPhase::Idle => Some(Settled::Ready),
        FunctionPhase::Failed => Some(Settled::Failed(status.message.clone().unwrap_or_default())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::record::Revision;
    use crate::function::spec::Deployment;

    #[tokio::test]
    async fn a_revision_is_judged_by_what_is_said_of_it_and_not_of_another() {
        let record = FunctionRecord::new(Revision::new(Deployment::default()));
        let id = record.newest.id.clone();
        let (want, wanted) = watch::channel(Some(record.clone()));
        let (tell, status) = watch::channel(Status { phase: FunctionPhase::Ready, ..Status::default() });
        let waiting = settled(wanted.clone(), status.clone(), &id);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending(), "another revision is ready");
        let say = |phase, message: Option<&str>| {
            tell.send_replace(Status {
                revision: id.clone(),
                phase,
                message: message.map(str::to_owned),
                ..Status::default()
            })
        };
        say(FunctionPhase::Pulling, None);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        say(FunctionPhase::Failed, Some("no such image"));
        assert_eq!(waiting.await, Settled::Failed("no such image".to_owned()));
        say(FunctionPhase::Ready, None);
        assert_eq!(settled(wanted.clone(), status.clone(), &id).await, Settled::Ready);
        say(FunctionPhase::Starting, None);
        want.send_replace(Some(record.updated(Revision::new(Deployment::default()))));
        assert_eq!(settled(wanted.clone(), status.clone(), &id).await, Settled::Overtaken);
        want.send_replace(None);
        assert_eq!(settled(wanted, status, &id).await, Settled::Overtaken);
    }
}
