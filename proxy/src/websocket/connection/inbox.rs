//! What a client has said and the function has not heard yet.
//!
//! Owns the bound of that, and what becomes of a message before it waits: some are answered here, some are for nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::websocket::client_groups::{self, ClientGroups};
use crate::websocket::ending::{Category, Ending};
use crate::websocket::event::Message;
use crate::websocket::frame::Opcode;
use crate::websocket::lease;
use crate::websocket::member::Member;
use crate::websocket::settings::{Batching, EventMode};
use crate::websocket::spoken::Spoken;
use crate::websocket::wire::{self, Taken};

/// How many bytes of messages wait for the function before no more is read, whatever the mailbox holds by number.
const MAILBOX_BYTES: usize = 1 << 20;

/// What waits for the function.
pub(super) struct Inbox {
    /// With when each came.
    messages: VecDeque<(Message, Instant)>,
    bytes: usize,
    most: usize,
    rules: Rules,
    /// Its client may give a new token, and this is one that it gave.
    pub(super) renews: bool,
    pub(super) token: Option<String>,
    /// Its client does things with groups by itself, if it may.
    pub(super) groups: Option<Box<ClientGroups>>,
}

/// What becomes of a message before it is let into the mailbox.
struct Rules {
    settings: Arc<EventMode>,
    member: Arc<Member>,
}

impl wire::Mailbox for Inbox {
    fn has_room(&self) -> bool {
        let wishes = self.groups.as_ref().map_or(0, |groups| groups.wishes.len());
        self.messages.len() + wishes < self.most && self.bytes < MAILBOX_BYTES
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
        if let Some(groups) = &mut self.groups
            && let Some(wish) = client_groups::wish_in(&message)
        {
            member.carried_in(message.data.len());
            member.counters().answered_here();
            groups.wishes.push(wish);
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
        member.counters().waits(1);
        self.bytes += message.data.len();
        self.messages.push_back((message, Instant::now()));
        Taken::Kept
    }

    fn answered(&mut self, round_trip: Duration) {
        self.rules.member.counters().answered_ping(round_trip);
    }

    fn heard(&self, kind: Opcode, count: u32) {
        self.rules.member.counters().frames_in(kind, count);
    }

    fn says(&self, kind: Opcode) {
        self.rules.member.counters().frame_out(kind);
    }
}

impl Inbox {
    pub(super) fn new(settings: &Arc<EventMode>, member: &Arc<Member>) -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            most: settings.mailbox.max(1),
            rules: Rules { settings: Arc::clone(settings), member: Arc::clone(member) },
            renews: false,
            token: None,
            groups: None,
        }
    }

    /// What an earlier process has left in it.
    pub(super) fn fill(&mut self, messages: VecDeque<Message>) {
        self.rules.member.counters().waits(messages.len());
        self.bytes = messages.iter().map(|message| message.data.len()).sum();
        let now = Instant::now();
        self.messages = messages.into_iter().map(|message| (message, now)).collect();
    }

    /// All that waits, for another process.
    pub(super) fn take_all(&mut self) -> Vec<Message> {
        self.take_out(self.messages.len())
    }

    /// Since when the first of those waits that are there.
    pub(super) fn since(&self) -> Option<Instant> {
        self.messages.front().map(|(_, since)| *since)
    }

    /// What the next event is of, if it is to be made now.
    pub(super) fn next(&mut self, batching: Option<Batching>, at_once: bool) -> Option<Vec<Message>> {
        let since = self.since()?;
        let count = match batching {
            None => 1,
            Some(batching) => {
                let due = at_once || self.messages.len() >= batching.count.min(self.most);
                if !due && since + batching.window > Instant::now() {
                    return None;
                }
                batching.count
            }
        };
        let now = Instant::now();
        let count = count.min(self.messages.len());
        for (_, since) in self.messages.iter().take(count) {
            self.rules.member.counters().waited(now.saturating_duration_since(*since));
        }
        Some(self.take_out(count))
    }

    fn take_out(&mut self, count: usize) -> Vec<Message> {
        let taken: Vec<Message> = self.messages.drain(..count).map(|(message, _)| message).collect();
        self.rules.member.counters().waits_no_more(count);
        self.bytes -= taken.iter().map(|message| message.data.len()).sum::<usize>();
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
        taken
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.rules.member.counters().waits_no_more(self.messages.len());
    }
}
