//! What a follower of log files has not looked at yet.
//!
//! Owns one such note: news that come before the last were taken become one with them, so it never grows beyond its limit.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::armed::Changes;

/// How many replicas a note names before it says that everything is to be looked at.
const NAMED_LIMIT: usize = 64;

/// A note for one follower.
#[derive(Debug, Default)]
pub(super) struct Told {
    news: Mutex<News>,
    come: Notify,
}

#[derive(Debug, Default)]
enum News {
    #[default]
    Nothing,
    Changed(Changes),
    /// There will be none any more.
    Failed(io::ErrorKind, String),
}

impl Told {
    /// Adds to what there is to be looked at.
    pub(super) fn tell(&self, changes: &Changes) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        *news = match (std::mem::take(&mut *news), changes) {
            (News::Failed(kind, why), _) => News::Failed(kind, why),
            (News::Nothing, changes) => News::Changed(changes.clone()),
            (News::Changed(Changes::Some(mut ids)), Changes::Some(more)) => {
                ids.extend(more.iter().cloned());
                News::Changed(if ids.len() > NAMED_LIMIT { Changes::All } else { Changes::Some(ids) })
            }
            (News::Changed(_), _) => News::Changed(Changes::All),
        };
        self.come.notify_one();
    }

    /// Says that nothing more will be told.
    pub(super) fn fail(&self, error: &io::Error) {
        let failed = News::Failed(error.kind(), error.to_string());
        *self.news.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        self.come.notify_one();
    }

    /// Waits for news and takes them. For one follower. Cancel safe.
    ///
    /// # Errors
    /// When nothing more will be told.
    pub(super) async fn next(&self) -> io::Result<Changes> {
        loop {
            match std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner)) {
                News::Changed(changes) => return Ok(changes),
                News::Failed(kind, why) => return Err(io::Error::new(kind, why)),
                News::Nothing => {}
            }
            self.come.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(ids: impl IntoIterator<Item = usize>) -> Changes {
        Changes::Some(ids.into_iter().map(|id| id.to_string()).collect())
    }

    #[tokio::test]
    async fn what_is_told_before_it_is_looked_at_becomes_one_and_does_not_grow() {
        let told = Told::default();
        told.tell(&some([1]));
        told.tell(&some([2]));
        assert_eq!(told.next().await.unwrap(), some([1, 2]));
        for id in 0..=NAMED_LIMIT {
            told.tell(&some([id]));
        }
        assert_eq!(told.next().await.unwrap(), Changes::All);
        told.tell(&Changes::All);
        told.tell(&some([1]));
        assert_eq!(told.next().await.unwrap(), Changes::All);
        told.fail(&io::ErrorKind::NotADirectory.into());
        told.tell(&some([1]));
        assert_eq!(told.next().await.unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
}
