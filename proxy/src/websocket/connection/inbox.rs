//! What a client has said and the function has not heard yet.
//!
//! Owns the bound of that, and what becomes of a message before it waits: some are answered here, some are for nobody.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::websocket::ending::{Category, Ending};
use crate::websocket::event::Message;
use crate::websocket::lease;
use crate::websocket::member::Member;
use crate::websocket::settings::{Batching, EventMode};
use crate::websocket::spoken::Spoken;
use crate::websocket::wire::{self, Taken};

/// How many bytes of messages wait for the function before no more is read, whatever the mailbox holds by number.
const MAILBOX_BYTES: usize = 1 << 20;

/// What waits for the function.
pub(super) struct Inbox {
    pub(super) messages: VecDeque<Message>,
    bytes: usize,
    most: usize,
    /// When the first of them came.
    pub(super) since: Instant,
    rules: Rules,
    /// Its client may give a new token, and this is one that it gave.
    pub(super) renews: bool,
    pub(super) token: Option<String>,
}

/// What becomes of a message before it is let into the mailbox.
struct Rules {
    settings: Arc<EventMode>,
    member: Arc<Member>,
}

impl wire::Mailbox for Inbox {
    fn has_room(&self) -> bool {
        self.messages.len() < self.most && self.bytes < MAILBOX_BYTES
    }

    fn take(&mut self, message: Message) -> Taken {
        let Rules { settings, member } = &self.rules;
        if self.renews
            && let Some(token) = lease::token_in(&message)
        {
            member.counters().answered_here();
            self.token = Some(token);
            return Taken::Kept;
        }
        if let Some((_, answer)) = settings.auto_response.iter().find(|(asked, _)| *asked == message.data) {
            member.counters().answered_here();
            let answer = Message { text: message.text, data: answer.clone() };
            return Taken::Answered(Spoken::new(&answer).to(member.deflate.get().copied()));
        }
        member.carried_in(message.data.len());
        if settings.text_only && !message.text {
            return Taken::Refused(Ending::of_host(1003, "text only", Category::Unsupported));
        }
        if settings.events.no_messages {
            return Taken::Kept;
        }
        if self.messages.is_empty() {
            self.since = Instant::now();
        }
        self.bytes += message.data.len();
        self.messages.push_back(message);
        Taken::Kept
    }

    fn probed(&mut self) {}
}

impl Inbox {
    pub(super) fn new(settings: &Arc<EventMode>, member: &Arc<Member>) -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            most: settings.mailbox.max(1),
            since: Instant::now(),
            rules: Rules { settings: Arc::clone(settings), member: Arc::clone(member) },
            renews: false,
            token: None,
        }
    }

    /// What an earlier process has left in it.
    pub(super) fn fill(&mut self, messages: VecDeque<Message>) {
        self.bytes = messages.iter().map(|message| message.data.len()).sum();
        self.messages = messages;
    }

    /// What the next event is of, if it is to be made now.
    pub(super) fn next(&mut self, batching: Option<Batching>, at_once: bool) -> Option<Vec<Message>> {
        let count = match batching {
            None => 1,
            Some(batching) => {
                let due = at_once || self.messages.len() >= batching.count.min(self.most);
                if !due && self.since + batching.window > Instant::now() {
                    return None;
                }
                batching.count
            }
        };
        let count = count.min(self.messages.len());
        if count == 0 {
            return None;
        }
        let next: Vec<Message> = self.messages.drain(..count).collect();
        self.bytes -= next.iter().map(|message| message.data.len()).sum::<usize>();
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
        self.since = Instant::now();
        Some(next)
    }
}
