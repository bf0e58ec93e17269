//! The part `websockets:` of a stack file: APIs in the dialect of AWS, as annotations of the functions that are their
//! entries.
//!
//! Ours; faas-cli passes over it. An API has the name of the function whose address clients connect to.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

use crate::Map;

const MODE: &str = "roost.websocket";
const CODEC: &str = "roost.websocket.codec";
const ROUTES: &str = "roost.websocket.aws.routes";

/// An API.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Websocket {
    /// By their keys. Without a function a route leads to the entry itself.
    routes: Option<BTreeMap<String, Option<Route>>>,
    selection: Option<String>,
    transport: Option<String>,
    binary: Option<String>,
    stage: Option<String>,
    domain: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected the name of a function, or `function` and `response`")]
enum Route {
    To(String),
    Full(Full),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Full {
    function: Option<String>,
    response: Option<bool>,
}

impl Route {
    fn function(&self) -> Option<&str> {
        let name = match self {
            Self::To(name) => Some(name),
            Self::Full(full) => full.function.as_ref(),
        };
        name.map(String::as_str).filter(|name| !name.is_empty())
    }

    fn is_two_way(&self) -> bool {
        matches!(self, Self::Full(Full { response: Some(true), .. }))
    }
}

/// All APIs of a file.
pub(crate) type Websockets = BTreeMap<String, Option<Websocket>>;

/// What the APIs add to the annotations of functions, by the names of these: those that are routed to speak the dialect too.
///
/// # Errors
/// When an API has no entry among `functions`, or a route cannot be written, with its key.
pub(crate) fn annotations(
    apis: Websockets,
    is_function: impl Fn(&str) -> bool,
) -> Result<(BTreeMap<String, Map>, Vec<String>), String> {
    let mut all = BTreeMap::<String, Map>::new();
    let mut notes = Vec::new();
    for (name, api) in apis {
        if !is_function(&name) {
            return Err(format!("websockets.{name}: expected the name of a function of this file"));
        }
        let api = api.unwrap_or_default();
        let routes = api.routes.unwrap_or_default();
        for (key, route) in &routes {
            let Some(function) = route.as_ref().and_then(Route::function) else { continue };
            if is_function(function) {
                speaks_aws(all.entry(function.to_owned()).or_default());
            } else {
                notes.push(format!("websockets.{name}.routes.{key}: {function:?} is not in this file"));
            }
        }
        let annotations = all.entry(name.clone()).or_default();
        speaks_aws(annotations);
        annotations.insert(MODE.to_owned(), "events".to_owned());
        let mut also = |key: &str, value: Option<String>| {
            annotations.extend(value.map(|value| (key.to_owned(), value)));
        };
        also(ROUTES, written(&name, &routes)?);
        also("roost.websocket.aws.selection", api.selection);
        also("roost.websocket.aws.transport", api.transport);
        also("roost.websocket.aws.binary", api.binary);
        also("roost.websocket.aws.stage", api.stage);
        also("roost.websocket.aws.domain", api.domain);
    }
    Ok((all, notes))
}

fn speaks_aws(annotations: &mut Map) {
    annotations.insert(CODEC.to_owned(), "aws".to_owned());
}

/// The routes as the annotation says them; `None` where there are none.
fn written(api: &str, routes: &BTreeMap<String, Option<Route>>) -> Result<Option<String>, String> {
    let mut text = String::new();
    for (key, route) in routes {
        let function = route.as_ref().and_then(Route::function);
        if [key.as_str(), function.unwrap_or_default()].iter().any(|part| part.contains([',', ';', '='])) {
            return Err(format!(
                "websockets.{api}.routes.{key}: expected no comma, semicolon or equals sign"
            ));
        }
        let comma = if text.is_empty() { "" } else { "," };
        let equals = if function.is_some() { "=" } else { "" };
        let two_way = if route.as_ref().is_some_and(Route::is_two_way) { ";two-way" } else { "" };
        let function = function.unwrap_or_default();
        write!(text, "{comma}{key}{equals}{function}{two_way}").unwrap_or_default();
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}
