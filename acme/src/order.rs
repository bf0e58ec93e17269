//! One order: from a name to a certificate for it.
//!
//! Owns the account and the steps of an order. What is answered to the authority is taken back at the end of it, however
//! that comes.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use roost_proxy::{Challenges, Pending};
use tokio::time::timeout;
use tracing::{debug, info};

use crate::client::Client;
use crate::store::{Kept, Store, kept};
use crate::{Challenge, Error, Settings, made};

/// How long an order may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How the authority is asked whether it is done: soon at first, and for no longer than this.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// What the authority says when it knows the account no more.
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// A certificate that was given, and the file that it makes.
pub(crate) struct Given {
    pub(crate) kept: Kept,
    pub(crate) pem: String,
}

/// The account: the one that is on disk, else a new one.
pub(crate) async fn account(settings: &Settings, store: &Store) -> Result<Account, Error> {
    let builder = Account::builder_with_http(Box::new(Client::new(settings.ca.as_deref())?));
    if let Some(bytes) = store.account()? {
        let path = store.account_path().to_owned();
        let credentials = serde_json::from_slice(&bytes);
        let credentials = credentials.map_err(|error| Error::Content { path, why: error.to_string() })?;
        return Ok(builder.from_credentials(credentials).await?);
    }
    let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder.create(&new, settings.directory.clone(), None).await?;
    let bytes = serde_json::to_vec(&credentials).map_err(instant_acme::Error::from)?;
    store.write_account(&bytes)?;
    info!("{}: this host has an account now: {}", settings.directory, account.id());
    Ok(account)
}

/// Is it for want of the account that nothing was given?
pub(crate) fn is_without_account(error: &Error) -> bool {
    matches!(error, Error::Acme(instant_acme::Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT))
}

/// Orders a certificate for `name`. `attempt` counts up: each is by another of the ways that are allowed.
pub(crate) async fn order(
    account: &Account,
    settings: &Settings,
    challenges: &Challenges,
    name: &str,
    attempt: u32,
) -> Result<Given, Error> {
    let steps = async {
        let identifiers = [Identifier::Dns(name.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let pending = authorize(&mut order, settings, challenges, name, attempt).await?;
        // With the answers, until the authority has had them.
        let ready = order.poll_ready(&POLL).await;
        drop(pending);
        if ready? != OrderStatus::Ready {
            return Err(Error::Refused(refusal(&mut order).await));
        }
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&POLL).await?;
        let pem = format!("{key}{chain}");
        Ok(Given { kept: kept(name, pem.as_bytes())?, pem })
    };
    timeout(LIMIT, steps).await.map_err(|_| Error::Late(LIMIT))?
}

/// Puts the answers where the authority looks for them, and tells it to look.
async fn authorize(
    order: &mut Order,
    settings: &Settings,
    challenges: &Challenges,
    name: &str,
    attempt: u32,
) -> Result<Vec<Pending>, Error> {
    let mut pending = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            // It was shown before, and not long ago.
            AuthorizationStatus::Valid => continue,
            status => return Err(Error::Refused(format!("the authorization is {status:?}"))),
        }
        let offered = |way: &&Challenge| authorization.challenges.iter().any(|one| one.r#type == kind(**way));
        let ways: Vec<Challenge> = settings.challenges.iter().filter(offered).copied().collect();
        let way = ways.get(attempt as usize % ways.len().max(1)).ok_or(Error::NoChallenge)?;
        let mut challenge = authorization.challenge(kind(*way)).ok_or(Error::NoChallenge)?;
        let key = challenge.key_authorization();
        debug!(name, ?way, "the authority is to look");
        pending.push(match way {
            Challenge::Http01 => challenges.answer_http(&challenge.token, key.as_str()),
            Challenge::TlsAlpn01 => made::answer(challenges, name, key.digest().as_ref())?,
        });
        challenge.set_ready().await?;
    }
    Ok(pending)
}

fn kind(challenge: Challenge) -> ChallengeType {
    match challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// What the authority says of a challenge that failed.
async fn refusal(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        match authorization.refresh().await {
            Ok(state) => {
                if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref())
                {
                    return problem.to_string();
                }
            }
            Err(error) => return error.to_string(),
        }
    }
    "it does not say why".to_owned()
}
