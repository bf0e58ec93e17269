//! Whether a replica that was ready still lives.
//!
//! Asked only where `com.openfaas.health.http.path` is annotated: a path that was not named may be anything, and asking
//! for it may cost a fork of the function. Owns the reading of these annotations; what follows is the replica's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::function::protocol::{self, Protocol};
use crate::function::readiness::{self, Setting};

/// The pause between two tries, where none is set.
const PERIOD: Duration = Duration::from_secs(2);

/// How many tries in a row have to fail, where nothing is set.
const FAILURES: u32 = 3;

/// How a replica is asked whether it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Liveness {
    path: String,
    protocol: Protocol,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    failures: u32,
}

impl Liveness {
    /// Reads `com.openfaas.health.http.*`, in the spellings of old and new documentation. `None` without a path.
    ///
    /// # Errors
    /// With the annotation's name when its value is not a path, a duration or a count.
    pub fn parse(settings: &BTreeMap<&str, &str>) -> Result<Option<Self>, String> {
        let setting = Setting::new(settings, "health");
        let failures = setting.count("failureThreshold")?.unwrap_or(FAILURES);
        let Some(path) = setting.path()? else { return Ok(None) };
        Ok(Some(Self {
            path,
            // One that is none is told of elsewhere.
            protocol: protocol::of(settings).unwrap_or_default(),
            initial_delay: setting.initial_delay()?.unwrap_or_default(),
            period: setting.period()?.unwrap_or(PERIOD),
            timeout: setting.timeout()?.unwrap_or(readiness::TRY_TIMEOUT),
            failures,
        }))
    }

    /// Resolves when the replica at `address` has failed too often in a row, with how.
    pub async fn lost(&self, address: SocketAddr) -> String {
        sleep(self.initial_delay).await;
        let mut failures = 0;
        loop {
            // That nothing happens can only be found by asking.
            sleep(self.period).await;
            let how = match timeout(self.timeout, readiness::ask(address, self.protocol, &self.path)).await {
                Ok(Some(status)) if status.is_success() || status.is_redirection() => {
                    failures = 0;
                    continue;
                }
                Ok(Some(status)) => format!("answers {}", status.as_u16()),
                _ => "gets no answer".to_owned(),
            };
            failures += 1;
            if failures >= self.failures {
                return format!("not alive: GET {} {how}, {failures} times", self.path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn without_a_path_nothing_is_asked_and_both_spellings_are_read() {
        let key = |name: &str| format!("com.openfaas.health.http.{name}");
        let parse = |pairs: &[(&str, &str)]| {
            let owned: Vec<_> = pairs.iter().map(|(name, value)| (key(name), *value)).collect();
            Liveness::parse(&owned.iter().map(|(name, value)| (name.as_str(), *value)).collect())
        };
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[("periodSeconds", "1s")]), Ok(None));
        let new = parse(&[("path", "/up"), ("initialDelaySeconds", "5"), ("periodSeconds", "1s")]).unwrap();
        let old = parse(&[("path", "/up"), ("initialDelay", "5s"), ("period", "1")]).unwrap();
        assert_eq!(new, old);
        assert_eq!(new.unwrap().failures, FAILURES);
        for (name, value) in [("path", "up"), ("failureThreshold", "0"), ("failureThreshold", "often")] {
            assert!(parse(&[(name, value)]).unwrap_err().starts_with(&key(name)), "{name}={value}");
        }
    }

    #[tokio::test]
    async fn only_failures_in_a_row_count() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let period = Duration::from_millis(1);
        let (initial_delay, timeout) = (Duration::ZERO, Duration::from_secs(20));
        let protocol = Protocol::Http;
        let liveness = Liveness { path: "/up".into(), protocol, initial_delay, period, timeout, failures: 2 };
        let asked = tokio::spawn(async move {
            for status in [500, 204, 500, 302, 500, 503] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let n = stream.read(&mut [0; 4096]).await.unwrap();
                assert!(n > 0);
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(liveness.lost(address).await, "not alive: GET /up answers 503, 2 times");
        asked.await.unwrap();
        // Nobody listens any more.
        assert_eq!(liveness.lost(address).await, "not alive: GET /up gets no answer, 2 times");
    }
}
