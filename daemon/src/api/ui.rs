//! `/` and `/ui/`: what a browser finds. A page that says what this is and where to go on; there is no dashboard.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;

use super::{Api, not_found};

/// What the contract lets pages of other origins do here.
const CROSS_ORIGIN: [(HeaderName, &str); 3] = [
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type"),
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "raw.githubusercontent.com"),
];

const PAGE: &str = concat!(
    r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Roost</title>
<h1>Roost "#,
    env!("CARGO_PKG_VERSION"),
    r#"</h1>
<p>This host runs functions. It has no dashboard; look at them here:</p>
<ul>
<li><a href="/system/functions">/system/functions</a>: the functions, as JSON
<li><a href="/system/info">/system/info</a>: what runs here
</ul>
<p>or in a shell:</p>
<pre>
roost list
roost deploy NAME --image IMAGE
roost describe NAME
roost logs NAME -f
</pre>
<p>A function answers at <code>/function/NAME</code>.</p>
</html>
"#
);

/// What stands below `/ui`.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/", get(page)).fallback(not_found)
}

async fn page() -> Response {
    (CROSS_ORIGIN, Html(PAGE)).into_response()
}

/// `GET /`.
pub(super) async fn to_page() -> Redirect {
    Redirect::temporary("/ui/")
}
