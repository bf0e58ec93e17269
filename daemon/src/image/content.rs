//! The content store: blobs by digest, with the labels that keep them from being collected.
//!
//! Owns reading, writing and resuming. containerd checks the digest of all that is committed.
//!
//! An ingest is a blob in the making:
//!
//! ```text
//! open ──► write … write ──► commit ──► blob
//!   ▲          │ connection, task or daemon dies
//!   └──────────┘ the next open goes on where containerd has stored it, as long as a lease holds it
//! ```

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    AbortRequest, Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest,
    WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::error::ImageError;
use super::manifest::MAX_DOCUMENT;
use super::store::Store;
use crate::runtime::containerd::client::Channel;

/// How much is sent to containerd in one message, in bytes. A message may have 4 MiB.
const CHUNK: usize = 256 << 10;

/// How often opening an ingest is tried while containerd still closes the stream of a writer that just went away.
const OPEN_TRIES: u32 = 50;

/// The time between two such tries. containerd has no event for it.
const OPEN_PAUSE: Duration = Duration::from_millis(100);

pub(super) type Labels = HashMap<String, String>;

/// The name of the ingest of `digest`.
pub(super) fn ingest(digest: &str) -> String {
    format!("roost-{digest}")
}

impl Store {
    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.scope.channel()).max_decoding_message_size(MAX_DOCUMENT as usize * 2)
    }

    /// What containerd knows of the blob, if it has it.
    pub(super) async fn blob(&self, digest: &str) -> Result<Option<Info>, ImageError> {
        let request = InfoRequest { digest: digest.to_owned() };
        match self.content().info(self.scope.call(request)).await {
            Ok(answer) => Ok(answer.into_inner().info),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(ImageError::containerd(format!("look for {digest}"))(status)),
        }
    }

    /// Adds `labels` to a blob that is there already.
    pub(super) async fn label(&self, digest: &str, labels: Labels) -> Result<(), ImageError> {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: digest.to_owned(), labels, ..Info::default() };
        let request = UpdateRequest { info: Some(info), update_mask: Some(prost_types::FieldMask { paths }) };
        let updated = self.content().update(self.scope.call(request)).await;
        updated.map(drop).map_err(ImageError::containerd(format!("label {digest}")))
    }

    /// The blob as a whole, if it is there. Only for documents.
    pub(super) async fn read(&self, digest: &str) -> Result<Option<Bytes>, ImageError> {
        self.read_range(digest, MAX_DOCUMENT + 1).await
    }

    /// The first bytes of a blob, to tell what it is.
    pub(super) async fn first_bytes(&self, digest: &str) -> Result<Option<Bytes>, ImageError> {
        self.read_range(digest, 16).await
    }

    async fn read_range(&self, digest: &str, size: u64) -> Result<Option<Bytes>, ImageError> {
        let failed = || ImageError::containerd(format!("read {digest}"));
        let Some(info) = self.blob(digest).await? else { return Ok(None) };
        let size = size.min(u64::try_from(info.size).unwrap_or(0));
        if size > MAX_DOCUMENT {
            return Err(ImageError::TooLarge { what: digest.to_owned(), size, limit: MAX_DOCUMENT });
        }
        if size == 0 {
            return Ok(Some(Bytes::new()));
        }
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: size.cast_signed() };
        let mut stream = self.content().read(self.scope.call(request)).await.map_err(failed())?.into_inner();
        let mut bytes = BytesMut::new();
        while let Some(part) = stream.message().await.map_err(failed())? {
            bytes.extend_from_slice(&part.data);
        }
        Ok(Some(bytes.freeze()))
    }

    /// Stores a document under its digest, with `labels`.
    pub(super) async fn put(&self, digest: &str, bytes: &[u8], labels: Labels) -> Result<(), ImageError> {
        let _one_writer = self.lock(digest).await;
        match self.open_blob(digest, bytes.len() as u64).await? {
            Some(mut writer) => {
                let stored = usize::try_from(writer.offset()).unwrap_or(0).min(bytes.len());
                writer.write(&bytes[stored..]).await?;
                writer.commit(labels).await
            }
            None => self.label(digest, labels).await,
        }
    }

    /// Begins or resumes the ingest of a blob; `None` if the blob is there. Hold the lock of the digest.
    pub(super) async fn open_blob(&self, digest: &str, size: u64) -> Result<Option<Writer>, ImageError> {
        let mut tries = 0;
        loop {
            match Writer::open(self, digest, size).await {
                Ok(writer) if writer.stored > size => {
                    drop(writer);
                    self.forget_ingest(digest).await?;
                }
                Ok(writer) => return Ok(Some(writer)),
                Err(status) if status.code() == Code::AlreadyExists => return Ok(None),
                Err(status) if status.code() == Code::Unavailable && tries < OPEN_TRIES => {
                    tokio::time::sleep(OPEN_PAUSE).await;
                }
                Err(status) => return Err(ImageError::containerd(format!("store {digest}"))(status)),
            }
            tries += 1;
        }
    }

    /// Throws away what has arrived of a blob.
    pub(super) async fn forget_ingest(&self, digest: &str) -> Result<(), ImageError> {
        let mut tries = 0;
        loop {
            let request = AbortRequest { r#ref: ingest(digest) };
            match self.content().abort(self.scope.call(request)).await {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::NotFound => return Ok(()),
                Err(status) if status.code() == Code::Unavailable && tries < OPEN_TRIES => {
                    tokio::time::sleep(OPEN_PAUSE).await;
                    tries += 1;
                }
                Err(status) => {
                    return Err(ImageError::containerd(format!("drop what came of {digest}"))(status));
                }
            }
        }
    }
}

/// An ingest with us as its writer.
pub(super) struct Writer {
    store: Store,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    digest: String,
    size: u64,
    stored: u64,
    buffer: BytesMut,
}

impl Writer {
    async fn open(store: &Store, digest: &str, size: u64) -> Result<Self, tonic::Status> {
        let (requests, receiver) = mpsc::channel(1);
        let hello = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: ingest(digest),
            total: size.cast_signed(),
            expected: digest.to_owned(),
            ..WriteContentRequest::default()
        };
        // containerd answers the call no sooner than it has read the first message, so that one has to wait for it.
        requests.try_send(hello).map_err(|_| tonic::Status::internal("a new queue is full"))?;
        let stream = store.scope.endless(ReceiverStream::new(receiver));
        let mut answers = store.content().write(stream).await?.into_inner();
        let stored = answers.message().await?.ok_or_else(closed)?.offset;
        Ok(Self {
            store: store.clone(),
            requests,
            answers,
            digest: digest.to_owned(),
            size,
            stored: u64::try_from(stored).unwrap_or(0),
            buffer: BytesMut::with_capacity(CHUNK),
        })
    }

    /// How much of the blob has been taken so far, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.stored + self.buffer.len() as u64
    }

    /// Appends `bytes`. They are refused when the blob would become larger than it has to be.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if self.offset() + bytes.len() as u64 > self.size {
            return Err(ImageError::invalid(&self.digest, format!("more than its {} bytes came", self.size)));
        }
        for part in bytes.chunks(CHUNK) {
            self.buffer.extend_from_slice(part);
            if self.buffer.len() >= CHUNK {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Hands to containerd what has been taken: after this, another writer could go on from here.
    pub(super) async fn flush(&mut self) -> Result<(), ImageError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = self.buffer.split().to_vec();
        let sent = data.len() as u64;
        let message = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: self.stored.cast_signed(),
            data,
            ..WriteContentRequest::default()
        };
        self.exchange(message).await.map_err(ImageError::containerd(format!("store {}", self.digest)))?;
        self.stored += sent;
        Ok(())
    }

    /// Makes a blob of it. If its digest is wrong, all that came is thrown away.
    pub(super) async fn commit(mut self, labels: Labels) -> Result<(), ImageError> {
        self.flush().await?;
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: self.stored.cast_signed(),
            total: self.size.cast_signed(),
            expected: self.digest.clone(),
            labels: labels.clone(),
            ..WriteContentRequest::default()
        };
        match self.exchange(message).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                self.store.label(&self.digest, labels).await
            }
            // So it answers when the hash or the size is another than expected.
            Err(status) if status.code() == Code::FailedPrecondition => {
                let Self { store, digest, requests, answers, .. } = self;
                drop((requests, answers));
                store.forget_ingest(&digest).await?;
                Err(ImageError::invalid(digest, "what came has another digest"))
            }
            Err(status) => Err(ImageError::containerd(format!("commit {}", self.digest))(status)),
        }
    }

    async fn exchange(
        &mut self,
        message: WriteContentRequest,
    ) -> Result<WriteContentResponse, tonic::Status> {
        // The queue is closed when containerd has ended the call: its answer says why.
        if self.requests.send(message).await.is_err() {
            tracing::debug!(digest = %self.digest, "containerd ended a write");
        }
        self.answers.message().await?.ok_or_else(closed)
    }
}

fn closed() -> tonic::Status {
    tonic::Status::unavailable("the write ended without an answer")
}
