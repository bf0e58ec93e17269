//! A message on its way to many: each frame that it makes is made once.
//!
//! Owns the frames for as long as one saying of it takes.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::deflate::Deflate;
use super::event::Message;
use super::fanout::Fanout;
use super::frame;

/// A message that is being said.
pub(super) struct Spoken<'a> {
    pub(super) message: &'a Message,
    /// When it began to be said.
    pub(super) at: Instant,
    /// There for what is said to many.
    pub(super) fanout: Option<Arc<Fanout>>,
    plain: OnceCell<Bytes>,
    /// By how far their readers look back.
    compressed: RefCell<Vec<(u8, Bytes)>>,
}

impl<'a> Spoken<'a> {
    pub(super) fn new(message: &'a Message) -> Self {
        let (at, plain, compressed) = (Instant::now(), OnceCell::new(), RefCell::default());
        Self { message, at, fanout: None, plain, compressed }
    }

    /// One that is said to many, and so is measured.
    pub(super) fn to_many(message: &'a Message, fanout: Arc<Fanout>) -> Self {
        Self { fanout: Some(fanout), ..Self::new(message) }
    }

    /// The frame for a client with which this was agreed upon.
    pub(super) fn to(&self, deflate: Option<Deflate>) -> Bytes {
        let Some(deflate) = deflate else {
            return self.plain.get_or_init(|| frame::message(self.message, None)).clone();
        };
        let mut compressed = self.compressed.borrow_mut();
        if let Some((_, frame)) = compressed.iter().find(|(window, _)| *window == deflate.window()) {
            return frame.clone();
        }
        let frame = frame::message(self.message, Some(deflate));
        compressed.push((deflate.window(), frame.clone()));
        frame
    }
}
