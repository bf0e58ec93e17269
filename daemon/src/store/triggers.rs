//! What triggers have to know after a restart: up to when schedules are settled, and what brokers know of this host.

use std::collections::HashMap;

use redb::{ReadableDatabase, ReadableTable};
use roost_proxy::function::FunctionKey;

use super::{FUNCTIONS, Store, StoreError, Table, decode, encode, path_of};
use crate::triggers::clock::Runs;
use crate::triggers::sessions::Session;

/// `namespace/name` → [`Runs`].
pub(super) const SCHEDULES: Table = Table::new("schedules");

/// The name of a source → [`Session`].
pub(super) const SESSIONS: Table = Table::new("sessions");

impl Store {
    /// Up to when the schedules of functions are settled, by `namespace/name`.
    ///
    /// # Errors
    /// When the file or a record in it cannot be read.
    pub fn schedules(&self) -> Result<HashMap<String, Runs>, StoreError> {
        self.all(SCHEDULES)
    }

    /// Notes up to when the schedules of functions are settled, all of it or nothing; none of a function that is no more.
    ///
    /// # Errors
    /// When the file cannot be written. Then nothing has changed.
    pub fn put_schedules(&self, runs: &[(FunctionKey, Runs)]) -> Result<(), StoreError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            {
                let functions = transaction.open_table(FUNCTIONS)?;
                let mut table = transaction.open_table(SCHEDULES)?;
                for (function, runs) in runs {
                    let key = path_of(function);
                    if runs.is_empty() || functions.get(key.as_str())?.is_none() {
                        table.remove(key.as_str())?;
                        continue;
                    }
                    let value = encode(runs).map_err(|why| StoreError::Record { key: key.clone(), why })?;
                    table.insert(key.as_str(), value.as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        })
    }

    /// What a source knows of this host, if it was ever asked.
    ///
    /// # Errors
    /// When the file or the record cannot be read.
    pub fn session(&self, source: &str) -> Result<Option<Session>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(SESSIONS)?;
            let Some(value) = table.get(source)? else { return Ok(None) };
            let session = decode(value.value());
            session.map(Some).map_err(|why| StoreError::Record { key: source.to_owned(), why })
        })
    }

    /// Notes what a source knows of this host.
    ///
    /// # Errors
    /// When the file cannot be written. Then nothing has changed.
    pub fn put_session(&self, source: &str, session: &Session) -> Result<(), StoreError> {
        self.insert(SESSIONS, source, session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::record::{FunctionRecord, Revision};
    use crate::function::spec::Deployment;
    use crate::triggers::clock::Settled;

    #[test]
    fn what_is_noted_of_schedules_is_there_after_opening_again_and_goes_with_its_function() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.redb");
        let deployment = Deployment { service: "f".into(), image: "i".into(), ..Deployment::default() };
        let [f, gone] = ["f", "gone"].map(|name| FunctionKey::from_route(name).unwrap());
        let settled = Settled { at: "2026-05-01T10:00:00Z".parse().unwrap(), call: Some("id".into()) };
        let runs = Runs::from([("@hourly".to_owned(), settled)]);
        {
            let store = Store::open(&path).unwrap();
            store.put(&f, &FunctionRecord::new(Revision::new(deployment))).unwrap();
            store.put_schedules(&[(f.clone(), runs.clone()), (gone, runs.clone())]).unwrap();
        }
        let store = Store::open(&path).unwrap();
        assert_eq!(store.schedules().unwrap(), HashMap::from([(path_of(&f), runs.clone())]));
        store.put_schedules(&[(f.clone(), Runs::new())]).unwrap();
        assert!(store.schedules().unwrap().is_empty());
        store.put_schedules(&[(f.clone(), runs)]).unwrap();
        store.remove(&f).unwrap();
        assert!(store.schedules().unwrap().is_empty());
    }

    #[test]
    fn what_a_broker_knows_is_there_after_opening_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.redb");
        let session = Session { client_id: "roost-1".into(), filters: ["a/#".to_owned()].into() };
        {
            let store = Store::open(&path).unwrap();
            assert_eq!(store.session("mqtt.lan").unwrap(), None);
            store.put_session("mqtt.lan", &session).unwrap();
        }
        assert_eq!(Store::open(&path).unwrap().session("mqtt.lan").unwrap(), Some(session));
    }
}
