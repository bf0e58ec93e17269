//! `/system/images`: what is on this host, archives that are brought to it, images that are no longer wanted.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::extract::Query;
use super::functions::Scope;
use super::{Api, ApiError};
use crate::image::Reference;

/// The query of calls on one image.
#[derive(Debug, Deserialize)]
struct Which {
    name: Option<String>,
    #[serde(default)]
    namespace: String,
}

/// An image, as shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageView {
    name: String,
    digest: String,
    size: u64,
    created_at: Timestamp,
    imported: bool,
    in_use: bool,
}

/// An image that an import brought.
#[derive(Debug, Serialize)]
struct Imported {
    name: String,
    digest: String,
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/images", get(list).post(import).delete(remove))
}

async fn list(State(api): State<Api>, Query(scope): Query<Scope>) -> Result<Json<Vec<ImageView>>, ApiError> {
    let namespace = api.namespace(&scope.namespace)?;
    let used = api.registry.images_in_use(&namespace);
    let images = api.images.list(&namespace).await?;
    let view = |image: crate::image::ImageSummary| ImageView {
        in_use: used.contains(&image.digest),
        name: image.name,
        digest: image.digest,
        size: image.size,
        created_at: image.created_at,
        imported: image.imported,
    };
    Ok(Json(images.into_iter().map(view).collect()))
}

async fn import(
    State(api): State<Api>,
    Query(which): Query<Which>,
    body: Body,
) -> Result<Json<Vec<Imported>>, ApiError> {
    let namespace = api.namespace(&which.namespace)?;
    let name = which.name.as_deref().map(reference).transpose()?;
    let archive = receive(&api, body).await?;
    let archive = archive.into_file();
    let images = api.images.import(&namespace, archive, name.as_ref()).await?;
    Ok(Json(images.into_iter().map(|image| Imported { name: image.name, digest: image.digest }).collect()))
}

async fn remove(State(api): State<Api>, Query(which): Query<Which>) -> Result<StatusCode, ApiError> {
    let namespace = api.namespace(&which.namespace)?;
    let name = which.name.as_deref().ok_or_else(|| ApiError::bad_request("name: is required"))?;
    let reference = reference(name)?;
    let used = api.registry.images_in_use(&namespace);
    let full = reference.to_string();
    let images = api.images.list(&namespace).await?;
    let pinned = reference.digest().is_some_and(|digest| used.contains(digest));
    if pinned || images.iter().any(|image| image.name == full && used.contains(&image.digest)) {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("image {full} is in use: remove its functions first"),
        ));
    }
    api.images.remove(&namespace, &reference).await?;
    Ok(StatusCode::ACCEPTED)
}

fn reference(text: &str) -> Result<Reference, ApiError> {
    text.parse().map_err(|why| ApiError::bad_request(format!("name: {why}")))
}

/// Puts the body into a file that goes when it is dropped.
async fn receive(api: &Api, body: Body) -> Result<tempfile::NamedTempFile, ApiError> {
    let archive = tempfile::NamedTempFile::new_in(&api.work_dir).map_err(|e| ApiError::internal(&e))?;
    let file = archive.reopen().map_err(|e| ApiError::internal(&e))?;
    let mut file = tokio::fs::File::from_std(file);
    let mut received = 0u64;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|why| ApiError::bad_request(format!("the archive did not arrive whole: {why}")))?;
        received += chunk.len() as u64;
        if received > api.max_archive {
            let text =
                format!("the archive is over the limit of {} bytes (images.max_size)", api.max_archive);
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        file.write_all(&chunk).await.map_err(|e| ApiError::internal(&e))?;
    }
    file.flush().await.map_err(|e| ApiError::internal(&e))?;
    Ok(archive)
}
