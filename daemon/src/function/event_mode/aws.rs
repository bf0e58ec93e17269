//! The dialect of API Gateway, as a deployment asks for it: the routes of its API, and how functions are asked.
//!
//! Owns the annotations below `roost.websocket.aws`. Pure.

use std::collections::BTreeMap;

use http::uri::Authority;
use roost_proxy::function::{FunctionKey, FunctionName, Namespace};
use roost_proxy::websocket::Subscriptions;
use roost_proxy::websocket::codec::aws::{AwsApi, Binary, CONNECT, DEFAULT, DISCONNECT, Route, Transport};

use super::Reader;

const SELECTION: &str = "roost.websocket.aws.selection";
const ROUTES: &str = "roost.websocket.aws.routes";
const TRANSPORT: &str = "roost.websocket.aws.transport";
const BINARY: &str = "roost.websocket.aws.binary";
const STAGE: &str = "roost.websocket.aws.stage";
const DOMAIN: &str = "roost.websocket.aws.domain";

/// All of them.
pub(super) const NAMES: [&str; 6] = [SELECTION, ROUTES, TRANSPORT, BINARY, STAGE, DOMAIN];

/// As many routes as an API may have at AWS.
const MOST_ROUTES: usize = 300;
const LONGEST_KEY: usize = 128;
const LONGEST_STAGE: usize = 128;

/// What follows a route whose answers are for the client.
const TWO_WAY: &str = "two-way";

const DEFAULT_STAGE: &str = "prod";

/// Where replicas find this host.
const GATEWAY: &str = "gateway:8080";

/// Reads the API of the function `own`.
pub(super) fn read(reader: &mut Reader<'_>, own: &FunctionKey) -> AwsApi {
    let expected = format!(
        "routes such as $connect, $default=FUNCTION, KEY=FUNCTION;{TWO_WAY}: each key once, {CONNECT} and \
         {DISCONNECT} not {TWO_WAY}, at most {MOST_ROUTES}"
    );
    AwsApi {
        api_id: own.name.as_str().into(),
        stage: reader
            .read(STAGE, "letters, digits, - and _", |value| is_stage(value).then(|| value.into()))
            .unwrap_or_else(|| DEFAULT_STAGE.into()),
        domain_name: reader.read(DOMAIN, "a host, or HOST:PORT", host).unwrap_or_else(|| GATEWAY.into()),
        selection: reader
            .read(SELECTION, "$request.body.KEY or ${request.body.KEY}", |value| value.parse().ok())
            .unwrap_or_default(),
        routes: reader.read(ROUTES, &expected, |value| routes(value, own)).unwrap_or_else(|| all_to(own)),
        transport: reader
            .read(TRANSPORT, "http, lambda or emulator", |value| match value {
                "http" => Some(Transport::Http),
                "lambda" => Some(Transport::Lambda),
                "emulator" => Some(Transport::Emulator),
                _ => None,
            })
            .unwrap_or_default(),
        binary: reader
            .read(BINARY, "encoded or refused", |value| match value {
                "encoded" => Some(Binary::Encoded),
                "refused" => Some(Binary::Refused),
                _ => None,
            })
            .unwrap_or_default(),
    }
}

/// Of what the functions of an API are told: what there is a route for. A message without one is answered here.
pub(super) fn subscriptions(api: &AwsApi) -> Subscriptions {
    Subscriptions {
        connect: api.routes.contains_key(CONNECT),
        disconnected: api.routes.contains_key(DISCONNECT),
        ..Subscriptions::default()
    }
}

fn all_to(own: &FunctionKey) -> BTreeMap<String, Route> {
    let route = |key: &str| (key.to_owned(), Route { function: own.clone(), two_way: false });
    [CONNECT, DISCONNECT, DEFAULT].map(route).into()
}

/// `KEY[=FUNCTION][;two-way]`, with commas between them. Without a function it is the one that is deployed.
fn routes(value: &str, own: &FunctionKey) -> Option<BTreeMap<String, Route>> {
    let mut routes = BTreeMap::new();
    for text in value.split(',') {
        let (target, two_way) = match text.split_once(';') {
            Some((target, word)) if word.trim() == TWO_WAY => (target, true),
            Some(_) => return None,
            None => (text, false),
        };
        let (key, function) = match target.split_once('=') {
            Some((key, name)) => (key.trim(), function(name.trim(), &own.namespace)?),
            None => (target.trim(), own.clone()),
        };
        let is_key = (1..=LONGEST_KEY).contains(&key.len()) && !key.contains(char::is_control);
        let of_connection = [CONNECT, DISCONNECT].contains(&key);
        if !is_key
            || (two_way && of_connection)
            || routes.insert(key.to_owned(), Route { function, two_way }).is_some()
        {
            return None;
        }
    }
    (routes.len() <= MOST_ROUTES).then_some(routes)
}

fn function(name: &str, namespace: &Namespace) -> Option<FunctionKey> {
    let name: FunctionName = name.parse().ok()?;
    Some(FunctionKey::new(namespace.clone(), name))
}

fn is_stage(value: &str) -> bool {
    (1..=LONGEST_STAGE).contains(&value.len())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}

fn host(value: &str) -> Option<Box<str>> {
    let authority: Authority = value.parse().ok()?;
    (!authority.host().is_empty() && !value.contains('@')).then(|| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> FunctionKey {
        FunctionKey::new("dev".parse().unwrap(), "chat".parse().unwrap())
    }

    fn read_routes(value: &str) -> Option<Vec<(String, String, bool)>> {
        let told = |(key, route): (String, Route)| (key, route.function.to_string(), route.two_way);
        routes(value, &own()).map(|routes| routes.into_iter().map(told).collect())
    }

    #[test]
    fn a_route_leads_to_a_function_of_the_same_namespace_or_to_the_one_that_is_deployed() {
        let route = |key: &str, function: &str, two_way| (key.to_owned(), function.to_owned(), two_way);
        assert_eq!(
            read_routes("$connect, $default=b ,send=c;two-way, ask ; two-way").unwrap(),
            [
                route("$connect", "chat.dev", false),
                route("$default", "b.dev", false),
                route("ask", "chat.dev", true),
                route("send", "c.dev", true),
            ]
        );
    }

    #[test]
    fn routes_that_cannot_be_meant_are_refused() {
        for value in [
            "",
            "a,",
            "=b",
            "a=",
            "a=No",
            "a=b.other",
            "a;one-way",
            "a=b;two-way;x",
            "a,a=b",
            "$connect;two-way",
            "$disconnect=b;two-way",
            &"a".repeat(LONGEST_KEY + 1),
        ] {
            assert_eq!(read_routes(value), None, "{value}");
        }
        let many = |count: usize| (0..count).map(|n| format!("r{n}")).collect::<Vec<_>>().join(",");
        assert!(read_routes(&many(MOST_ROUTES)).is_some());
        assert!(read_routes(&many(MOST_ROUTES + 1)).is_none());
    }

    #[test]
    fn a_function_is_told_of_what_it_has_a_route_for() {
        for (value, connect, disconnected) in [
            ("$default", false, false),
            ("$connect,$default", true, false),
            ("$disconnect", false, true),
            ("$connect,$disconnect,send", true, true),
        ] {
            let api = AwsApi {
                api_id: "".into(),
                stage: "".into(),
                domain_name: "".into(),
                selection: Default::default(),
                routes: routes(value, &own()).unwrap(),
                transport: Transport::default(),
                binary: Binary::default(),
            };
            let expected = Subscriptions { connect, disconnected, ..Subscriptions::default() };
            assert_eq!(subscriptions(&api), expected, "{value}");
        }
    }
}
