//! The task that sees to it that each name has a certificate, and has a new one in time.
//!
//! Owns when what is ordered: one order at a time, the one that is due longest first. Nothing is asked of anybody while
//! nothing is due; what wakes it is the time, and the hosts of functions that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use instant_acme::Account;
use roost_proxy::tls::Certificate;
use roost_proxy::{Challenges, Routes};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::order::{self, Given};
use crate::store::{Kept, Store};
use crate::validity::Validity;
use crate::{Error, Settings, plan};

/// The clock may be set, or the machine may sleep: so often it is looked at.
const LOOK: Duration = Duration::from_secs(600);

/// The certificates that there are, by their names.
pub type Held = Arc<BTreeMap<String, Certificate>>;

/// What came of orders. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Figures(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    issued: AtomicU64,
    failed: AtomicU64,
}

impl Figures {
    /// How many certificates were given.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.0.issued.load(Ordering::Relaxed)
    }

    /// How many orders failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }
}

/// What can be seen of it from outside.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// The certificates.
    pub held: watch::Receiver<Held>,
    /// Until when each is good.
    pub expiries: watch::Receiver<BTreeMap<String, SystemTime>>,
    /// What came of orders.
    pub figures: Figures,
}

/// Keeps certificates.
pub struct Keeper {
    settings: Settings,
    store: Store,
    account: Option<Account>,
    names: BTreeMap<String, Name>,
    chance: RandomState,
    draws: u64,
    held: watch::Sender<Held>,
    expiries: watch::Sender<BTreeMap<String, SystemTime>>,
    figures: Figures,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Name {
    kept: Option<Kept>,
    /// When the next order is due: at once where nothing is said.
    due: Option<SystemTime>,
    failures: u32,
}

impl Keeper {
    /// Reads what is on disk.
    ///
    /// # Errors
    /// When the directories cannot be had, or the file of `ca` cannot be read.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let store = Store::open(&settings.directory_path, &settings.directory)?;
        crate::client::Client::new(settings.ca.as_deref())?;
        let mut keeper = Self {
            settings,
            account: None,
            names: BTreeMap::new(),
            chance: RandomState::new(),
            draws: 0,
            held: watch::Sender::default(),
            expiries: watch::Sender::default(),
            figures: Figures::default(),
            store,
        };
        for (name, kept) in keeper.store.certificates()? {
            let due = Some(plan::due(kept.validity, keeper.draw()));
            keeper.names.insert(name, Name { kept: Some(kept), due, failures: 0 });
        }
        keeper.show(SystemTime::now());
        Ok(keeper)
    }

    /// What can be seen of it.
    #[must_use]
    pub fn keeping(&self) -> Keeping {
        Keeping {
            held: self.held.subscribe(),
            expiries: self.expiries.subscribe(),
            figures: self.figures.clone(),
        }
    }

    /// Orders what is due, until it is dropped. Names that `has` a certificate from elsewhere need none.
    pub async fn run(mut self, routes: Routes, challenges: Challenges, has: impl Fn(&str) -> bool + Send) {
        loop {
            let wanted = self.wanted(&routes, &has);
            let now = SystemTime::now();
            self.tidy(&wanted, now);
            let next = wanted.iter().map(|name| (self.due(name), name)).min();
            let pause = match next {
                Some((due, name)) if due.is_none_or(|due| due <= now) => {
                    self.renew(name, &challenges).await;
                    continue;
                }
                Some((due, _)) => due.and_then(|due| due.duration_since(now).ok()).unwrap_or(LOOK).min(LOOK),
                None => LOOK,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = routes.domains_changed() => {}
            }
        }
    }

    fn wanted(&self, routes: &Routes, has: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let of_functions = self.settings.function_domains.then(|| routes.domains());
        let own = self.settings.domains.iter().cloned();
        own.chain(of_functions.into_iter().flatten()).filter(|name| !has(name)).collect()
    }

    fn due(&self, name: &str) -> Option<SystemTime> {
        self.names.get(name).and_then(|name| name.due)
    }

    /// Forgets names that are wanted no more, once their certificates are no good any more.
    fn tidy(&mut self, wanted: &BTreeSet<String>, now: SystemTime) {
        let is_over = |one: &Name| one.kept.as_ref().is_none_or(|kept| kept.validity.until <= now);
        let gone: Vec<String> = self
            .names
            .iter()
            .filter(|(name, one)| !wanted.contains(*name) && is_over(one))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &gone {
            self.names.remove(name);
            if let Err(error) = self.store.forget_certificate(name) {
                warn!("{name}: the certificate that is no good any more is left: {error}");
            }
        }
        if !gone.is_empty() {
            self.show(now);
        }
    }

    /// Orders a certificate, and tells what came of it.
    async fn renew(&mut self, name: &str, challenges: &Challenges) {
        let failures = self.names.get(name).map_or(0, |name| name.failures);
        let given = self.order(name, challenges, failures).await;
        let chance = self.draw();
        let now = SystemTime::now();
        let mut known = self.names.remove(name).unwrap_or_default();
        match given {
            Ok(Given { kept, pem }) => {
                self.figures.0.issued.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = self.store.write_certificate(name, &pem) {
                    warn!("{name}: the certificate is lost when this daemon ends: {error}");
                }
                info!("{name}: there is a certificate, good for {} hours", hours(kept.validity, now));
                let due = plan::due(kept.validity, chance);
                // One that is good for a moment only is not ordered over and over.
                let due =
                    due.max(now + plan::pause(1, self.settings.pace, chance).min(life(kept.validity) / 3));
                known = Name { kept: Some(kept), due: Some(due), failures: 0 };
            }
            Err(error) => {
                self.figures.0.failed.fetch_add(1, Ordering::Relaxed);
                known.failures += 1;
                let pause = plan::pause(known.failures, self.settings.pace, chance);
                known.due = Some(now + pause);
                let meanwhile = match known.kept.as_ref().filter(|kept| kept.validity.until > now) {
                    Some(kept) => {
                        format!("the one that there is stays, for {} hours", hours(kept.validity, now))
                    }
                    None => "there is none".to_owned(),
                };
                warn!(
                    "{name}: no certificate was given: {error}; {meanwhile}; next try in {} s",
                    pause.as_secs()
                );
            }
        }
        self.names.insert(name.to_owned(), known);
        self.show(now);
    }

    async fn order(&mut self, name: &str, challenges: &Challenges, attempt: u32) -> Result<Given, Error> {
        let account = match self.account.take() {
            Some(account) => account,
            None => order::account(&self.settings, &self.store).await?,
        };
        let given = order::order(&account, &self.settings, challenges, name, attempt).await;
        match &given {
            // The next try makes another one.
            Err(error) if order::is_without_account(error) => self.store.forget_account()?,
            _ => self.account = Some(account),
        }
        given
    }

    /// Shows what is good now.
    fn show(&mut self, now: SystemTime) {
        let good = || {
            self.names.iter().filter_map(|(name, one)| {
                Some((name.clone(), one.kept.as_ref().filter(|kept| kept.validity.until > now)?))
            })
        };
        let expiries = good().map(|(name, kept)| (name, kept.validity.until)).collect();
        let held: BTreeMap<_, _> = good().map(|(name, kept)| (name, kept.certificate.clone())).collect();
        // The times first: whoever sees a certificate finds its time.
        self.expiries.send_replace(expiries);
        self.held.send_replace(Arc::new(held));
    }

    /// A number from 0 to 1.
    fn draw(&mut self) -> f64 {
        self.draws += 1;
        (self.chance.hash_one(self.draws) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn life(validity: Validity) -> Duration {
    validity.until.duration_since(validity.from).unwrap_or_default()
}

fn hours(validity: Validity, now: SystemTime) -> u64 {
    validity.until.duration_since(now).unwrap_or_default().as_secs() / 3600
}
