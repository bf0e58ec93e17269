//! Secrets: names go out, values only come in.

use serde_json::json;

use crate::support::{IMAGE, Table, empty, error, host, json};

const SECRETS: &str = "/system/secrets";

#[tokio::test]
async fn a_secret_goes_through_its_life_by_the_contract() {
    let host = host().await;
    let mut t = Table::of(&host.api);
    let (get, post, put, delete) =
        ("GET /system/secrets", "POST /system/secrets", "PUT /system/secrets", "DELETE /system/secrets");
    let secret = json!({ "name": "token", "value": "one" });
    let absent = || error(404, "unable to find secret: token\n");
    t.row(get, "", json(json!([]))).await;
    t.row(put, &secret, absent()).await;
    t.row(delete, json!({ "name": "token" }), absent()).await;
    t.row(post, &secret, empty(202)).await;
    t.row(post, &secret, error(409, "secret token already exists: update it with PUT\n")).await;
    t.row(put, json!({ "name": "token", "value": "two", "rawValue": "AAEC/w==" }), empty(202)).await;
    let listed = || json(json!([{ "name": "token", "namespace": "openfaas-fn" }]));
    for query in ["", "?namespace=openfaas-fn", "?namespace="] {
        t.row(&format!("{get}{query}"), "", listed()).await;
    }

    for call in [post, put] {
        t.row(call, "", error(400, "bad JSON at line 1 column 0\n")).await;
        t.row(call, "{", error(400, "bad JSON at line 1 column 1\n")).await;
        t.row(call, "{}", error(400, "name: is required\n")).await;
        t.row(call, json!({ "name": "", "value": "x" }), error(400, "name: is required\n")).await;
        for name in ["a/b", "../a", "..", "UPPER"] {
            let why = format!(
                "name: {name:?} is not valid: expected at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends and on both sides of each '.'\n"
            );
            t.row(call, json!({ "name": name, "value": "x" }), error(400, &why)).await;
        }
    }
    let nowhere = || error(400, "namespace not valid: nowhere does not exist\n");
    let elsewhere = json!({ "name": "token", "namespace": "nowhere", "value": "x" });
    for call in [post, put, delete] {
        t.row(call, &elsewhere, nowhere()).await;
        t.row(&format!("{call}?namespace=nowhere"), &secret, nowhere()).await;
    }
    t.row(&format!("{get}?namespace=nowhere"), "", nowhere()).await;

    // One that a function names stays.
    let user = json!({ "service": "user", "image": IMAGE, "secrets": ["token"] });
    t.row("POST /system/functions", &user, empty(202)).await;
    host.ready("user").await;
    t.row(delete, json!({ "name": "token" }), error(409, "secret token is used by: user\n")).await;
    assert_eq!(host.function("user").await["secrets"], json!(["token"]));
    host.remove("user").await;
    // The namespace in the body goes before the one in the query.
    let body = json!({ "name": "token", "namespace": "openfaas-fn" });
    t.row(&format!("DELETE {SECRETS}?namespace=nowhere"), body, empty(202)).await;
    t.row(get, "", json(json!([]))).await;
}
