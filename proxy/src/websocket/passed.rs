//! A connection as it is written down for the process that goes on with it.
//!
//! Owns that form. It is written when nothing of the connection is under way: no event, no half of a frame in a system call.
//! What it says of time are lengths, and when it was written by a clock that nobody sets.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::client_groups::Rights;
use super::lease::PassedLease;

/// The version of the form. One that is not known is not read.
const VERSION: u32 = 1;

/// The most that is read of it, in bytes.
const MOST: u64 = 4 << 30;

/// Bytes, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Raw(pub(super) Bytes);

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Passed {
    pub(super) id: String,
    pub(super) function: String,
    pub(super) namespace: String,
    pub(super) path: String,
    pub(super) user: Option<String>,
    pub(super) subprotocol: Option<String>,
    pub(super) peer: std::net::IpAddr,
    pub(super) host: Option<String>,
    pub(super) user_agent: Option<String>,
    /// Milliseconds since 1970, for people.
    pub(super) since: u64,
    /// How old it is and how long nothing was said, in milliseconds.
    pub(super) age: u64,
    pub(super) idle: u64,
    pub(super) groups: Vec<String>,
    pub(super) state: Option<String>,
    pub(super) sequence: u64,
    pub(super) key: Option<String>,
    /// Of a client that came with a token.
    #[serde(default)]
    pub(super) lease: Option<PassedLease>,
    /// What its client may do by itself, if it may do anything.
    #[serde(default)]
    pub(super) rights: Option<Rights>,
    /// How far back its client looks in what is compressed, if that was agreed upon.
    pub(super) window: Option<u8>,
    /// Where its frames are.
    pub(super) place: [u64; 3],
    pub(super) unfinished: Raw,
    /// What was read behind that.
    pub(super) rest: Raw,
    /// What waits for the function: is it text, and what it says.
    pub(super) messages: Vec<(bool, Raw)>,
    /// What waits for the client, in frames; of the first one a part may be gone.
    pub(super) unsent: Vec<Raw>,
    pub(super) carried: [[u64; 2]; 2],
    /// What is kept for its client to come back, if it may.
    #[serde(default)]
    pub(super) resume: Option<PassedReturn>,
    /// It has no socket, and waits for so many milliseconds more.
    #[serde(default)]
    pub(super) away: Option<u64>,
}

/// What is kept for a client that may come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PassedReturn {
    pub(super) token: String,
    /// Of whom the token was that its client came with.
    #[serde(default)]
    pub(super) subject: Option<String>,
    /// How many messages were said to it in all.
    pub(super) said: u64,
    /// The last of them, as frames.
    pub(super) kept: Vec<Raw>,
}

/// All of them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct All {
    version: u32,
    /// When it was written, in milliseconds of the clock that begins with the machine.
    at: u64,
    pub(super) connections: Vec<Passed>,
    /// What is kept of groups. Versions that know nothing of it have none.
    #[serde(default)]
    pub(super) groups: Vec<PassedGroup>,
}

/// What is kept of what was said in one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PassedGroup {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The place before its first message.
    pub(super) place: String,
    pub(super) messages: Vec<PassedMessage>,
}

/// One message of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PassedMessage {
    pub(super) text: bool,
    pub(super) data: Raw,
    /// Milliseconds since 1970, for people.
    pub(super) at: u64,
    /// How old it is, in milliseconds.
    pub(super) age: u64,
}

/// A place in memory that another process can be given.
#[derive(Debug)]
pub(super) struct Letter(File);

impl Letter {
    /// Writes all of them.
    pub(super) fn write(connections: Vec<Passed>, groups: Vec<PassedGroup>) -> io::Result<Self> {
        // SAFETY: a name that ends, and flags that there are; what comes back is new, or an error.
        let file = unsafe { libc::memfd_create(c"roost-connections".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else knows its number.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(file) });
        let all = All { version: VERSION, at: machine_clock(), connections, groups };
        let mut writer = io::BufWriter::new(&mut file);
        serde_json::to_writer(&mut writer, &all)?;
        writer.flush()?;
        drop(writer);
        Ok(Self(file))
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads what an earlier process has written, and how long ago that was.
pub(super) fn read(letter: OwnedFd) -> io::Result<(All, Duration)> {
    let mut file = File::from(letter);
    file.rewind()?;
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text)?;
    let all: All = serde_json::from_slice(&text)?;
    if all.version != VERSION {
        let why = format!("expected version {VERSION}, found {}", all.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let ago = Duration::from_millis(machine_clock().saturating_sub(all.at));
    Ok((all, ago))
}

fn machine_clock() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes one `timespec`, to where `time` is.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) } != 0 {
        return 0;
    }
    u64::try_from(time.tv_sec * 1000 + time.tv_nsec / 1_000_000).unwrap_or(0)
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map(|bytes| Self(bytes.into())).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_back_and_another_version_is_not() {
        let one = Passed {
            id: "AAAAAAAAAAAAAAAAAAAAAA".into(),
            function: "f".into(),
            namespace: "n".into(),
            path: "/room?x".into(),
            user: Some("ada".into()),
            subprotocol: None,
            peer: [127, 0, 0, 1].into(),
            host: None,
            user_agent: Some("me".into()),
            since: 1,
            age: 2,
            idle: 3,
            groups: vec!["g".into()],
            state: Some("s".into()),
            sequence: 4,
            key: None,
            lease: None,
            rights: Some(Rights::default()),
            window: Some(15),
            place: [5, 6, u64::MAX],
            unfinished: Raw(Bytes::from_static(&[0, 255])),
            rest: Raw::default(),
            messages: vec![(true, Raw("hi".into()))],
            unsent: vec![Raw(Bytes::from_static(&[0x81, 0]))],
            carried: [[1, 2], [3, 4]],
            resume: Some(PassedReturn {
                token: "t".into(),
                subject: Some("ada".into()),
                said: 5,
                kept: vec![Raw(Bytes::from_static(&[0x81, 0]))],
            }),
            away: Some(6),
        };
        let group = PassedGroup {
            namespace: "n".into(),
            name: "g".into(),
            place: "0000000000000001-2".into(),
            messages: vec![PassedMessage { text: false, data: Raw(vec![7].into()), at: 1, age: 2 }],
        };
        let letter = Letter::write(vec![one.clone(); 2], vec![group.clone()]).unwrap();
        let (all, _) = read(letter.0.into()).unwrap();
        assert_eq!((&all.connections[..], &all.groups[..]), (&[one.clone(), one][..], &[group][..]));

        let mut letter = Letter::write(Vec::new(), Vec::new()).unwrap();
        letter.0.rewind().unwrap();
        letter.0.write_all(br#"{"version":1,"at":0,"connections":[]} "#).unwrap();
        letter.0.set_len(38).unwrap();
        assert!(read(letter.0.into()).unwrap().0.groups.is_empty(), "as an earlier version writes it");

        let mut letter = Letter::write(Vec::new(), Vec::new()).unwrap();
        letter.0.rewind().unwrap();
        letter.0.write_all(br#"{"version":2,"#).unwrap();
        assert!(read(letter.0.into()).is_err());
    }
}
