//! By what a function is known when it speaks to connections: what its replicas find in their environment.
//!
//! Owns what is derived from the host's key: for each namespace a token, and a pair of keys for clients of AWS. Nothing is
//! kept for a replica, so one that outlives the daemon is known to the next. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use roost_proxy::function::Namespace;
use roost_proxy::websocket::codec::aws::sigv4::SecretKeys;

use crate::function::spec::Deployment;

/// Where functions find this host.
const URL: &str = "http://gateway:8080";

/// The annotation by which a function speaks AWS' dialect, and its value.
const CODEC: (&str, &str) = ("roost.websocket.codec", "aws");

/// What clients of AWS take for the place where this host is: they need one to sign.
const REGION: &str = "roost";

/// What the id of an access key begins with; the namespace follows.
const KEY_ID: &str = "roost-";

/// What the host's key signs: no signature of the one is good for the other.
const TOKEN: &str = "token";
const SECRET: &str = "aws";

/// Makes tokens, and knows them again.
#[derive(Clone)]
pub struct Passes(Arc<hmac::Key>);

impl fmt::Debug for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passes")
    }
}

impl Passes {
    /// By this key, which nobody else may know.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// The token of a namespace: `NAMESPACE.SIGNATURE`.
    #[must_use]
    pub fn token(&self, namespace: &Namespace) -> String {
        format!("{namespace}.{}", self.sign(TOKEN, namespace))
    }

    /// The namespace that a token is for; `None` for anything that was not made by this key. Compares in constant time.
    #[must_use]
    pub fn namespace(&self, token: &str) -> Option<Namespace> {
        let (namespace, signature) = token.rsplit_once('.')?;
        let namespace = namespace.parse().ok()?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.0, &signed(TOKEN, &namespace), &signature).ok().map(|()| namespace)
    }

    /// The keys by which clients of AWS sign, of these namespaces.
    #[must_use]
    pub fn aws_keys(&self, namespaces: &[Namespace]) -> SecretKeys {
        namespaces.iter().map(|namespace| (key_id(namespace), self.sign(SECRET, namespace))).collect()
    }

    /// The namespace of an access key.
    #[must_use]
    pub fn of_key_id(id: &str) -> Option<Namespace> {
        id.strip_prefix(KEY_ID)?.parse().ok()
    }

    /// What a replica finds in its environment, where its function says nothing else.
    #[must_use]
    pub fn environment(&self, namespace: &Namespace, deployment: &Deployment) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::from([
            ("ROOST_CONNECTIONS_URL".to_owned(), URL.to_owned()),
            ("ROOST_CONNECTIONS_TOKEN".to_owned(), self.token(namespace)),
        ]);
        if deployment.settings().get(CODEC.0).is_some_and(|codec| codec.trim() == CODEC.1) {
            environment.extend(self.aws_environment(namespace, deployment));
        }
        environment
    }

    /// What lets an SDK of AWS speak to connections as it is. A function that has keys of its own keeps both of them.
    fn aws_environment(&self, namespace: &Namespace, deployment: &Deployment) -> BTreeMap<String, String> {
        let of_its_own =
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| deployment.env_vars.contains_key(name));
        let mut environment = BTreeMap::from([
            ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI".to_owned(), URL.to_owned()),
            ("AWS_REGION".to_owned(), REGION.to_owned()),
        ]);
        if of_its_own == [false, false] {
            environment.insert("AWS_ACCESS_KEY_ID".to_owned(), key_id(namespace));
            environment.insert("AWS_SECRET_ACCESS_KEY".to_owned(), self.sign(SECRET, namespace));
        }
        environment
    }

    fn sign(&self, purpose: &str, namespace: &Namespace) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, &signed(purpose, namespace)))
    }
}

fn key_id(namespace: &Namespace) -> String {
    format!("{KEY_ID}{namespace}")
}

fn signed(purpose: &str, namespace: &Namespace) -> Vec<u8> {
    format!("{purpose}\n{namespace}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    #[test]
    fn a_token_is_good_for_its_namespace_under_its_key_and_is_the_same_each_time() {
        let passes = Passes::new(&[1; 32]);
        let token = passes.token(&namespace("dev"));
        assert_eq!(passes.token(&namespace("dev")), token);
        assert_eq!(passes.namespace(&token), Some(namespace("dev")));
        assert_eq!(Passes::new(&[2; 32]).namespace(&token), None, "of another host");
        let (_, signature) = token.split_once('.').unwrap();
        for other in [
            format!("prod.{signature}"),
            format!("dev.{}", passes.sign(SECRET, &namespace("dev"))),
            format!("dev.{}", &signature[1..]),
            format!("dev.{signature}A"),
            "dev.".to_owned(),
            "dev".to_owned(),
            String::new(),
        ] {
            assert_eq!(passes.namespace(&other), None, "{other}");
        }
    }

    #[test]
    fn every_replica_gets_a_token_and_those_that_speak_the_dialect_of_aws_its_keys_too() {
        let passes = Passes::new(&[1; 32]);
        let names = |annotations: &[(&str, &str)], variables: &[(&str, &str)]| {
            let owned = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
            };
            let (annotations, env_vars) = (owned(annotations), owned(variables));
            let deployment = Deployment { annotations, env_vars, ..Deployment::default() };
            let environment = passes.environment(&namespace("dev"), &deployment);
            environment.into_keys().collect::<Vec<_>>().join(" ")
        };
        let ours = "ROOST_CONNECTIONS_TOKEN ROOST_CONNECTIONS_URL";
        let place = "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI AWS_REGION";
        assert_eq!(names(&[], &[]), ours);
        assert_eq!(names(&[("roost.websocket.codec", "cloudevents")], &[]), ours);
        let aws = [("roost.websocket.codec", "aws")];
        assert_eq!(
            names(&aws, &[]),
            format!(
                "AWS_ACCESS_KEY_ID AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI AWS_REGION AWS_SECRET_ACCESS_KEY {ours}"
            )
        );
        assert_eq!(names(&aws, &[("AWS_SECRET_ACCESS_KEY", "x")]), format!("{place} {ours}"));
    }

    #[test]
    fn the_id_of_an_access_key_names_its_namespace() {
        assert_eq!(Passes::of_key_id(&key_id(&namespace("a-b"))), Some(namespace("a-b")));
        assert_eq!(Passes::of_key_id("AKIDEXAMPLE"), None);
    }
}
