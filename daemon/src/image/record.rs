//! Image records: the names under which containerd keeps an image from being collected.
//!
//! Owns their form. Each image of ours has two: its full reference, which leads to what the registry said, and
//! `path@digest`, which pins the manifest for this platform. Labels say where it came from, when, and how large it is.

use std::collections::HashMap;

use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};
use containerd_client::types;
use jiff::Timestamp;
use tonic::Code;

use super::error::ImageError;
use super::manifest::Descriptor;
use super::store::Store;
use crate::runtime::containerd::client::Channel;

const ORIGIN: &str = "roost.image.origin";
const AT: &str = "roost.image.at";
const MANIFEST: &str = "roost.image.manifest";
const SIZE: &str = "roost.image.size";
const UNUSED_SINCE: &str = "roost.image.unused-since";

/// The most image records of one namespace that are read at once, as the size of the answer in bytes.
const MAX_LIST: usize = 64 << 20;

/// Where an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Pulled,
    Imported,
    /// Somebody else made the record.
    Foreign,
}

/// What one record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: String,
    /// What the name leads to: an index or a manifest.
    pub(super) target: String,
    pub(super) target_type: String,
    pub(super) target_size: u64,
    pub(super) origin: Origin,
    /// The manifest for this platform.
    pub(super) manifest: String,
    /// The bytes of the image, compressed.
    pub(super) size: u64,
    pub(super) at: Timestamp,
    /// When the collection first found that nothing uses it.
    pub(super) unused_since: Option<Timestamp>,
}

impl Record {
    /// A record that is made now.
    pub(super) fn new(name: String, target: &Descriptor, origin: Origin, manifest: &str, size: u64) -> Self {
        Self {
            name,
            target: target.digest.clone(),
            target_type: target.media_type.clone(),
            target_size: target.size,
            origin,
            manifest: manifest.to_owned(),
            size,
            at: Timestamp::now(),
            unused_since: None,
        }
    }

    fn read(image: Image) -> Self {
        let target = image.target.unwrap_or_default();
        let label = |key: &str| image.labels.get(key);
        let created = image.created_at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
        Self {
            origin: match label(ORIGIN).map(String::as_str) {
                Some("pulled") => Origin::Pulled,
                Some("imported") => Origin::Imported,
                _ => Origin::Foreign,
            },
            manifest: label(MANIFEST).unwrap_or(&target.digest).clone(),
            size: label(SIZE).and_then(|size| size.parse().ok()).unwrap_or(0),
            at: label(AT).and_then(|at| at.parse().ok()).or(created).unwrap_or_default(),
            unused_since: label(UNUSED_SINCE).and_then(|at| at.parse().ok()),
            name: image.name,
            target: target.digest,
            target_type: target.media_type,
            target_size: u64::try_from(target.size).unwrap_or(0),
        }
    }

    fn write(&self) -> Image {
        let origin = match self.origin {
            Origin::Pulled => "pulled",
            Origin::Imported => "imported",
            Origin::Foreign => "",
        };
        let mut labels = HashMap::from([
            (ORIGIN.to_owned(), origin.to_owned()),
            (AT.to_owned(), self.at.to_string()),
            (MANIFEST.to_owned(), self.manifest.clone()),
            (SIZE.to_owned(), self.size.to_string()),
        ]);
        if let Some(since) = self.unused_since {
            labels.insert(UNUSED_SINCE.to_owned(), since.to_string());
        }
        let target = types::Descriptor {
            media_type: self.target_type.clone(),
            digest: self.target.clone(),
            size: self.target_size.cast_signed(),
            ..types::Descriptor::default()
        };
        Image { name: self.name.clone(), labels, target: Some(target), ..Image::default() }
    }
}

impl Store {
    fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.scope.channel()).max_decoding_message_size(MAX_LIST)
    }

    /// The record of `name`, if there is one.
    pub(super) async fn record(&self, name: &str) -> Result<Option<Record>, ImageError> {
        let request = GetImageRequest { name: name.to_owned() };
        match self.images().get(self.scope.call(request)).await {
            Ok(answer) => Ok(answer.into_inner().image.map(Record::read)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(ImageError::containerd(format!("look for image {name}"))(status)),
        }
    }

    /// All records, also those that others made.
    pub(super) async fn records(&self) -> Result<Vec<Record>, ImageError> {
        let answer = self.images().list(self.scope.call(ListImagesRequest::default())).await;
        let images = answer.map_err(ImageError::containerd("list images"))?.into_inner().images;
        Ok(images.into_iter().map(Record::read).collect())
    }

    /// Makes `record`, or makes the one of its name like it.
    pub(super) async fn save(&self, record: &Record) -> Result<(), ImageError> {
        let image = Some(record.write());
        let failed = || ImageError::containerd(format!("name image {}", record.name));
        let create = CreateImageRequest { image: image.clone(), ..CreateImageRequest::default() };
        match self.images().create(self.scope.call(create)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                let update = UpdateImageRequest { image, ..UpdateImageRequest::default() };
                self.images().update(self.scope.call(update)).await.map(drop).map_err(failed())
            }
            Err(status) => Err(failed()(status)),
        }
    }

    /// Removes the record of `name`; with `sync`, returns when what it alone kept has been collected.
    pub(super) async fn forget(&self, name: &str, sync: bool) -> Result<(), ImageError> {
        let request = DeleteImageRequest { name: name.to_owned(), sync, ..DeleteImageRequest::default() };
        match self.images().delete(self.scope.long(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(ImageError::containerd(format!("remove image {name}"))(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_containerd() {
        let target = Descriptor {
            media_type: "m".to_owned(),
            digest: "d".to_owned(),
            size: 7,
            ..Descriptor::default()
        };
        let mut record = Record::new("localhost/a:1".to_owned(), &target, Origin::Imported, "x", 42);
        assert_eq!(Record::read(record.write()), record);
        record.unused_since = Some(Timestamp::UNIX_EPOCH);
        assert_eq!(Record::read(record.write()), record);
    }

    #[test]
    fn a_record_of_others_is_read_as_far_as_it_goes() {
        let target = types::Descriptor { digest: "d".to_owned(), ..types::Descriptor::default() };
        let read = Record::read(Image { name: "a".to_owned(), target: Some(target), ..Image::default() });
        assert_eq!((read.origin, read.manifest.as_str(), read.size), (Origin::Foreign, "d", 0));
        assert_eq!(read.unused_since, None);
    }
}
