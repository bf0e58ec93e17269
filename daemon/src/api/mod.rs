//! The REST API: the OpenFaaS contract on `/system/*`, and what is ours beside it.
//!
//! One resource a file, each parse → command → reply. Owns no state. `/function/*` never comes here: the proxy
//! answers that.

mod auth;
mod error;
mod functions;
mod images;
mod info;
mod logs;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use roost_proxy::{Fallback, ResponseBody};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub use auth::Credentials;
pub use error::ApiError;

use crate::function::registry::Registry;
use crate::image::Images;
use crate::logs::LogStore;

/// The largest JSON body, in bytes.
const MAX_BODY: usize = 4 << 20;

/// What the handlers work with.
#[derive(Clone)]
pub struct Api {
    /// Functions.
    pub registry: Arc<Registry>,
    /// Images.
    pub images: Images,
    /// Where an archive that is being imported is put.
    pub work_dir: std::path::PathBuf,
    /// The largest archive, in bytes.
    pub max_archive: u64,
    /// Output of functions.
    pub logs: LogStore,
    /// Cancelled when the daemon ends: answers that have no end of their own end then.
    pub ending: CancellationToken,
    /// Who may ask; `None` for everybody.
    pub credentials: Option<Arc<Credentials>>,
}

/// All routes but the proxy's.
pub fn router(api: Api) -> Router {
    let system = Router::new()
        .route("/info", get(info::info))
        .route("/namespaces", get(info::namespaces))
        .route(
            "/functions",
            get(functions::list).post(functions::deploy).put(functions::update).delete(functions::remove),
        )
        .route("/function/{name}", get(functions::describe))
        .route("/logs", get(logs::logs))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .merge(images::routes())
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(api.clone(), authorize));
    Router::new()
        .route("/healthz", get(StatusCode::OK))
        .nest("/system", system)
        .fallback(not_found)
        .layer(middleware::map_response(plain_method_not_allowed))
        .with_state(api)
}

/// The API as the proxy calls it, for every path that is not a function's.
pub fn fallback(api: Api) -> Fallback {
    let router = router(api);
    Arc::new(move |request, _peer| {
        let router = router.clone();
        Box::pin(async move {
            let answer = router.oneshot(request.map(axum::body::Body::new)).await;
            answer.unwrap_or_else(|never| match never {}).map(ResponseBody::boxed)
        })
    })
}

/// Lets a request through if it brings the right credentials.
async fn authorize(State(api): State<Api>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    match &api.credentials {
        Some(credentials) if !credentials.admit(header) => auth::refusal(),
        _ => next.run(request).await,
    }
}

/// The words that clients of the contract know.
async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "404 page not found\n")
        .into_response()
}

/// The contract answers a wrong method without a list of the right ones.
async fn plain_method_not_allowed(mut response: Response) -> Response {
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().remove(header::ALLOW);
    }
    response
}
