//! `/system/alert`: AlertManager's webhook, as the gateway of OpenFaaS takes it. Replicas by a step, up or back.

use axum::extract::State;
use axum::http::StatusCode;
use roost_proxy::function::FunctionKey;
use serde::Deserialize;
use serde_json::Value;

use super::extract::Body;
use super::functions::json;
use super::{Api, ApiError};
use crate::function::spec::{Deployment, MAX_REPLICAS};
use crate::scaling::Policy;

/// The label with the most replicas that alerts lead to, and what holds without it.
const MAX: (&str, u32) = ("com.openfaas.scale.max", 20);

/// The label with how much of that one alert adds, in percent, and what holds without it. With 0 alerts change nothing.
const FACTOR: (&str, u32) = ("com.openfaas.scale.factor", 20);

/// What AlertManager posts, as far as it matters here. Alerts are read one by one: some may be of no function.
#[derive(Debug, Deserialize)]
struct Webhook {
    alerts: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    status: String,
    labels: Labels,
}

#[derive(Debug, Deserialize)]
struct Labels {
    function_name: String,
}

pub(super) async fn alert(State(api): State<Api>, Body(body): Body) -> Result<StatusCode, ApiError> {
    // The words that clients of the contract know.
    let webhook: Webhook =
        json(&body).map_err(|_| ApiError::bad_request("Unable to parse alert, bad format."))?;
    let mut failed = Vec::new();
    for (number, alert) in webhook.alerts.into_iter().enumerate() {
        if let Err(why) = scale(&api, alert).await {
            failed.push((number, why));
        }
    }
    match failed.split_first() {
        None => Ok(StatusCode::OK),
        Some(((_, first), others)) => {
            // An alert that cannot be heeded is worth another post only if that is this host's doing.
            let status = others.iter().map(|(_, why)| why.status).fold(first.status, StatusCode::max);
            let lines: Vec<_> =
                failed.iter().map(|(number, why)| format!("[{number}] {}", why.text)).collect();
            Err(ApiError::new(status, lines.join("\n")))
        }
    }
}

async fn scale(api: &Api, alert: Value) -> Result<(), ApiError> {
    let alert = read(alert)?;
    let name = alert.labels.function_name;
    let key = FunctionKey::from_route(&name).map_err(|_| ApiError::unknown_function(name))?;
    let firing = alert.status == "firing";
    let step = move |replicas, deployment: &Deployment| next(firing, replicas, deployment);
    Ok(api.registry.scale(key, step).await?)
}

fn read(alert: Value) -> Result<Alert, ApiError> {
    serde_path_to_error::deserialize(alert).map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner();
        ApiError::bad_request(if path == "." { why.to_string() } else { format!("{path}: {why}") })
    })
}

/// How many replicas there are to be after an alert.
fn next(firing: bool, replicas: u32, deployment: &Deployment) -> u32 {
    let settings = deployment.settings();
    let number = |(label, default): (&str, u32)| {
        settings.get(label).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (max, factor) = (number(MAX).min(MAX_REPLICAS), number(FACTOR).min(100));
    match (firing, factor) {
        (_, 0) => replicas,
        // What was scaled beyond the label by hand stays.
        (true, _) => replicas.saturating_add((max * factor).div_ceil(100)).min(max.max(replicas)),
        (false, _) => Policy::parse(deployment).unwrap_or_default().min,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_adds_a_part_of_the_most_and_its_end_leads_back_to_the_least() {
        let labelled = |pairs: &[(&str, &str)]| {
            let label =
                |(key, value): &(&str, &str)| (format!("com.openfaas.scale.{key}"), (*value).to_owned());
            Deployment { labels: pairs.iter().map(label).collect(), ..Deployment::default() }
        };
        for (firing, replicas, pairs, expected) in [
            (true, 1, &[][..], 5),
            (true, 18, &[][..], 20),
            (true, 30, &[][..], 30),
            (true, 1, &[("max", "3"), ("factor", "50")][..], 3),
            (true, 1, &[("max", "4"), ("factor", "10")][..], 2),
            (true, 2, &[("factor", "0")][..], 2),
            (true, 1, &[("max", "many"), ("factor", "-1")][..], 5),
            (true, 499, &[("max", "4000000000"), ("factor", "100")][..], 500),
            (false, 7, &[][..], 1),
            (false, 7, &[("min", "3")][..], 3),
            (false, 7, &[("factor", "0")][..], 7),
        ] {
            assert_eq!(next(firing, replicas, &labelled(pairs)), expected, "{firing} {replicas} {pairs:?}");
        }
    }
}
