//! `/system/disk` and `/system/prune`: what Roost takes of the disk, and taking less.

use std::path::PathBuf;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::extract::Query;
use super::{Api, ApiError};
use crate::disk::{FileSystem, Report, Settings, Sum, Unused};

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/disk", get(report)).route("/prune", post(prune))
}

/// What is kept, as shown. Sizes are bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportView {
    file_systems: Vec<FileSystemView>,
    images: ImagesView,
    state: Vec<EntryView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileSystemView {
    path: PathBuf,
    holds: Vec<&'static str>,
    size: u64,
    free: u64,
    used_percent: u8,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ImagesView {
    count: usize,
    size: u64,
    unused_count: usize,
    unused_size: u64,
    high_percent: u8,
    low_percent: u8,
}

#[derive(Debug, Serialize)]
struct EntryView {
    name: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
}

/// Whether it is only asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Asked {
    dry_run: String,
}

/// An image that went, or would.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PrunedView {
    name: String,
    namespace: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unused_since: Option<Timestamp>,
}

async fn report(State(api): State<Api>) -> Result<Json<ReportView>, ApiError> {
    let report = api.disk.report().await.map_err(|error| ApiError::internal(&*error))?;
    Ok(Json(view(report, api.disk.settings, &api.disk_limits)))
}

/// `limits` are those of entries of the state directory, by name.
fn view(report: Report, settings: Settings, limits: &[(&str, u64)]) -> ReportView {
    let (Sum { count, size }, unused) = (report.images, report.unused);
    let limit = |name: &str| limits.iter().find(|(of, _)| *of == name).map(|(_, limit)| *limit);
    let file_system = |FileSystem { path, holds, space }| FileSystemView {
        path,
        holds,
        size: space.total,
        free: space.free,
        used_percent: space.used_percent,
    };
    ReportView {
        file_systems: report.file_systems.into_iter().map(file_system).collect(),
        images: ImagesView {
            count,
            size,
            unused_count: unused.count,
            unused_size: unused.size,
            high_percent: settings.high,
            low_percent: settings.low,
        },
        state: report
            .state
            .into_iter()
            .map(|(name, size)| EntryView { limit: limit(&name), name, size })
            .collect(),
    }
}

async fn prune(
    State(api): State<Api>,
    Query(asked): Query<Asked>,
) -> Result<Json<Vec<PrunedView>>, ApiError> {
    let dry_run = match asked.dry_run.as_str() {
        "" | "false" => false,
        "true" => true,
        _ => return Err(ApiError::bad_request("dryRun: expected true or false")),
    };
    let pruned = if dry_run { api.disk.unused().await? } else { api.disk.prune().await? };
    let view = |Unused { namespace, image }: Unused| PrunedView {
        name: image.name,
        namespace: namespace.to_string(),
        digest: image.digest,
        size: image.size,
        unused_since: image.unused_since,
    };
    Ok(Json(pruned.into_iter().map(view).collect()))
}
