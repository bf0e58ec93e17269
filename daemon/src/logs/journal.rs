//! Mirrors lines to the journal of systemd, where it runs, by its native datagram protocol.
//!
//! Owns the socket. Never waits: a line that the journal does not take at once is not mirrored, the file has it.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::record::Stream;

/// Where the journal takes messages.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a lost journal is left alone before it is looked for again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Who prints: the fields that every message has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) function: String,
    pub(super) namespace: String,
    pub(super) replica: String,
}

/// The way to the journal, if there is one.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    fields: Vec<u8>,
    socket: Option<UnixDatagram>,
    lost_at: Option<Instant>,
    message: Vec<u8>,
}

impl Journal {
    /// Looks for the journal at `path`. Without one, nothing is mirrored.
    pub(super) fn open(path: &Path, origin: &Origin) -> Option<Self> {
        let socket = connect(path).ok()?;
        let mut fields = Vec::new();
        push_field(&mut fields, "SYSLOG_IDENTIFIER", origin.function.as_bytes());
        push_field(&mut fields, "FUNCTION", origin.function.as_bytes());
        push_field(&mut fields, "NAMESPACE", origin.namespace.as_bytes());
        push_field(&mut fields, "REPLICA", origin.replica.as_bytes());
        Some(Self { path: path.to_owned(), fields, socket: Some(socket), lost_at: None, message: Vec::new() })
    }

    /// Sends one line, if the journal takes it at once.
    pub(super) fn mirror(&mut self, stream: Stream, text: &[u8]) {
        if !self.connected() {
            return;
        }
        let priority: &[u8] = match stream {
            Stream::Stdout => b"6",
            Stream::Stderr => b"3",
        };
        self.message.clear();
        push_field(&mut self.message, "MESSAGE", text);
        push_field(&mut self.message, "PRIORITY", priority);
        self.message.extend_from_slice(&self.fields);
        let sent = self.socket.as_ref().map(|socket| socket.send(&self.message));
        if let Some(Err(error)) = sent
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.socket = None;
            self.lost_at = Some(Instant::now());
        }
    }

    fn connected(&mut self) -> bool {
        if self.socket.is_none() && self.lost_at.is_none_or(|at| at.elapsed() >= RETRY_AFTER) {
            self.socket = connect(&self.path).ok();
            self.lost_at = Some(Instant::now());
        }
        self.socket.is_some()
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// A field in the binary form: name, newline, length as 64 bits little-endian, value, newline. It carries any byte,
/// where the short form ends at the first newline.
fn push_field(message: &mut Vec<u8>, name: &str, value: &[u8]) {
    message.extend_from_slice(name.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(&(value.len() as u64).to_le_bytes());
    message.extend_from_slice(value);
    message.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { function: "echo".into(), namespace: "openfaas-fn".into(), replica: "echo-1a2b3c4d".into() }
    }

    /// Reads a message back into its fields, as the journal does.
    fn fields(mut message: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut fields = Vec::new();
        while !message.is_empty() {
            let name = message.iter().position(|byte| *byte == b'\n').unwrap();
            let (head, value) = message[name + 1..].split_at(8);
            let length = usize::try_from(u64::from_le_bytes(head.try_into().unwrap())).unwrap();
            fields.push((String::from_utf8(message[..name].to_vec()).unwrap(), value[..length].to_vec()));
            assert_eq!(value[length], b'\n');
            message = &value[length + 1..];
        }
        fields
    }

    #[test]
    fn a_line_arrives_with_its_origin_whatever_bytes_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(&path, &origin()).unwrap();
        for (stream, text, priority) in
            [(Stream::Stdout, b"hello".as_slice(), "6"), (Stream::Stderr, b"PRIORITY=0\r\0\xff", "3")]
        {
            journal.mirror(stream, text);
            let mut buffer = [0; 4096];
            let received = receiver.recv(&mut buffer).unwrap();
            let expected = [
                ("MESSAGE", text),
                ("PRIORITY", priority.as_bytes()),
                ("SYSLOG_IDENTIFIER", b"echo"),
                ("FUNCTION", b"echo"),
                ("NAMESPACE", b"openfaas-fn"),
                ("REPLICA", b"echo-1a2b3c4d"),
            ];
            let expected: Vec<_> =
                expected.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
            assert_eq!(fields(&buffer[..received]), expected);
        }
    }

    #[test]
    fn a_journal_that_takes_nothing_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(&path, &origin()).unwrap();
        for _ in 0..10_000 {
            journal.mirror(Stream::Stdout, b"nobody reads this");
        }
        drop(receiver);
        journal.mirror(Stream::Stdout, b"nobody is there");
        assert!(journal.socket.is_none());
    }

    #[test]
    fn without_a_journal_there_is_no_mirror() {
        assert!(Journal::open(Path::new("/nonexistent/socket"), &origin()).is_none());
    }
}
