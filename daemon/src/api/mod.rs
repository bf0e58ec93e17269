//! The REST API: the OpenFaaS contract on `/system/*`, and what is ours beside it.
//!
//! One resource a file, each parse → command → reply. Owns no state. `/function/*` never comes here: the proxy
//! answers that.

mod alert;
mod auth;
mod calls;
mod connections;
mod deadletters;
mod disk;
mod error;
mod events;
mod extract;
mod functions;
mod held;
mod images;
mod info;
mod logs;
mod namespaces;
mod openapi;
mod queue;
mod scale;
mod secrets;
mod ui;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post};
use roost_proxy::function::Namespace;
use roost_proxy::websocket::{Hub, Redrive};
use roost_proxy::{Fallback, ResponseBody};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

pub use calls::ApiCall;
pub use error::ApiError;
pub(crate) use info::COMMIT;

use crate::deadletters::DeadLetters;
use crate::disk::Disk;
use crate::function::registry::Registry;
use crate::function::spec::parse_namespace;
use crate::image::Images;
use crate::logs::LogStore;
use crate::metrics::Timings;
use crate::nodes::Nodes;
use crate::passes::Passes;
use crate::queue::Queue;
use crate::scaling::events::Events;
use crate::secrets::Secrets;
use crate::triggers::ahead::Ahead;
use crate::usage::{Ledger, Sampler};
use crate::users::Users;

/// What the handlers work with.
#[derive(Clone)]
pub struct Api {
    /// Functions.
    pub registry: Arc<Registry>,
    /// Images.
    pub images: Images,
    /// What is kept on the disk.
    pub disk: Disk,
    /// How much of it may be there, in bytes, by its name in the state directory.
    pub disk_limits: Vec<(&'static str, u64)>,
    /// Where an archive that is being imported is put.
    pub work_dir: std::path::PathBuf,
    /// The largest archive, in bytes.
    pub max_archive: u64,
    /// Output of functions.
    pub logs: LogStore,
    /// Secrets. One is removed by the registry, which knows who uses it.
    pub secrets: Secrets,
    /// What replicas use.
    pub sampler: Sampler,
    /// What functions have used.
    pub ledger: Arc<Ledger>,
    /// What is decided about replicas.
    pub events: Events,
    /// The connections that are held here.
    pub hub: Arc<Hub>,
    /// Those that are held anywhere.
    pub nodes: Nodes,
    /// What functions could not be brought to deal with.
    pub letters: DeadLetters,
    /// The way to tell them once more.
    pub redrive: Redrive,
    /// Calls that nobody waits for.
    pub queue: Queue,
    /// By what functions are known that speak to them.
    pub passes: Passes,
    /// What is counted of the calls that are answered here.
    pub calls: Timings<ApiCall>,
    /// Cancelled when the daemon ends: answers that have no end of their own end then.
    pub ending: CancellationToken,
    /// When the clock calls functions.
    pub ahead: Ahead,
    /// Who may ask; `None` for everybody.
    pub users: Option<Arc<Users>>,
}

impl Api {
    /// The namespace that a call names, which has to be there.
    fn namespace(&self, text: &str) -> Result<Namespace, ApiError> {
        let namespace = parse_namespace(text).map_err(ApiError::bad_request)?;
        self.registry.require_namespace(&namespace).map_err(ApiError::bad_request)?;
        Ok(namespace)
    }

    /// The name and namespace of a function that a path names as `NAME` or `NAME.NAMESPACE`; `given` is the namespace that
    /// is named beside it. The name is still any text.
    fn function<'a>(&self, segment: &'a str, given: &str) -> Result<(&'a str, Namespace), ApiError> {
        let (name, suffix) = match segment.rsplit_once('.') {
            Some((name, suffix)) => (name, Some(suffix)),
            None => (segment, None),
        };
        if suffix.is_some_and(|suffix| !given.is_empty() && given != suffix) {
            return Err(ApiError::bad_request("namespace: expected the one in the path"));
        }
        Ok((name, self.namespace(suffix.unwrap_or(given))?))
    }
}

/// All routes but the proxy's.
pub fn router(api: Api) -> Router {
    let system = Router::new()
        .route("/info", get(info::info))
        .route("/openapi.json", get(openapi::document))
        .route(
            "/functions",
            get(functions::list).post(functions::deploy).put(functions::update).delete(functions::remove),
        )
        .route("/function/{name}", get(functions::describe))
        .route("/function/{name}/connections", delete(connections::close))
        .route("/scale-function/{name}", post(scale::scale))
        .route("/alert", post(alert::alert))
        .route("/logs", get(logs::logs))
        .route("/events", get(events::events))
        .route("/usage", get(usage::usage))
        .route("/queue", get(queue::list))
        .merge(namespaces::routes())
        .merge(images::routes())
        .merge(disk::routes())
        .merge(secrets::routes())
        .merge(deadletters::routes())
        .merge(held::routes())
        .fallback(not_found);
    let guarded = Router::new()
        .nest("/system", system)
        .nest("/ui/", ui::routes())
        .layer(middleware::from_fn_with_state(api.clone(), auth::authorize));
    // What functions call, each within its own namespace.
    let inside = held::routes().route_layer(middleware::from_fn_with_state(api.clone(), held::authorize));
    Router::new()
        .route("/", get(ui::to_page))
        .route("/healthz", get(StatusCode::OK))
        .merge(guarded)
        .merge(inside)
        .fallback(held::at_no_route)
        .layer(middleware::from_fn_with_state(api.calls.clone(), calls::count))
        .with_state(api)
}

/// The API as the proxy calls it, for every path that is not a function's.
///
/// # Panics
/// Outside of a runtime. It is there that requests are answered, not on the lane that they came in on: what the API does
/// may take its time, and outlive the request.
pub fn fallback(api: Api) -> Fallback {
    let router = router(api);
    let runtime = Handle::current();
    Arc::new(move |mut request, peer| {
        request.extensions_mut().insert(auth::Peer(peer.ip()));
        let answer = router.clone().oneshot(request.map(axum::body::Body::new));
        let answer = AbortOnDropHandle::new(runtime.spawn(answer));
        Box::pin(async move {
            let mut answer = match answer.await {
                Ok(answer) => answer.unwrap_or_else(|never| match never {}),
                Err(failed) => {
                    tracing::error!(%failed, "a request to the API was not answered");
                    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_response()
                }
            };
            // The contract answers a wrong method without a list of the right ones. The router adds it behind all layers.
            if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
                answer.headers_mut().remove(header::ALLOW);
            }
            answer.map(ResponseBody::boxed)
        })
    })
}

/// The words that clients of the contract know.
async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "404 page not found")
}
