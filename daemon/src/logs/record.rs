//! One line of a function, in the two forms it has: a line of a log file, and a record of the API.
//!
//! Owns both forms. Does no I/O. The form on disk is the one that Kubernetes' runtimes write, so that common log
//! shippers read it: `2026-01-02T03:04:05.000000006Z stdout F text`, with `P` for a part that is not the last of its line.

use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;

use super::PART_LIMIT;

/// The longest line of a file that is read, in bytes: the text and what stands before it. Longer is damage.
pub(super) const LINE_LIMIT: usize = PART_LIMIT + 64;

/// Where a function printed a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Does the line go on behind this entry?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// A part; the rest follows in later entries of the same stream.
    Partial,
    /// A whole line, or the last part of one.
    Full,
}

/// A line of a log file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) timestamp: Timestamp,
    pub(super) stream: Stream,
    pub(super) tag: Tag,
    pub(super) text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads a line without its newline. Nothing when it is damaged: what a power cut leaves is no line.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        // A power cut can leave a run of zeros where a block was never written, with good lines behind it.
        let line = &line[line.iter().position(|byte| *byte != 0)?..];
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let timestamp = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let stream = match fields.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let tag = match fields.next()? {
            b"F" => Tag::Full,
            b"P" => Tag::Partial,
            _ => return None,
        };
        Some(Self { timestamp, stream, tag, text: fields.next()? })
    }

    /// Appends the line and its newline to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let tag = match self.tag {
            Tag::Full => 'F',
            Tag::Partial => 'P',
        };
        // All nine digits: lines of one file sort as text, too.
        write!(out, "{:.9} {} {tag} ", self.timestamp, self.stream.as_str())
            .expect("a write to memory does not fail");
        out.extend_from_slice(self.text);
        out.push(b'\n');
    }
}

/// A line of a function, as the API answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The function.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The replica that printed the line.
    pub instance: String,
    /// When the line was complete.
    pub timestamp: Timestamp,
    /// The line without its newline. Bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Where it was printed. Not part of the wire format that clients know.
    #[serde(skip)]
    pub stream: Stream,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let timestamp = "2026-01-02T03:04:05.6Z".parse().unwrap();
        for (stream, tag, text, line) in [
            (
                Stream::Stdout,
                Tag::Full,
                "hello world",
                "2026-01-02T03:04:05.600000000Z stdout F hello world\n",
            ),
            (Stream::Stderr, Tag::Partial, "a  b ", "2026-01-02T03:04:05.600000000Z stderr P a  b \n"),
            (Stream::Stdout, Tag::Full, "", "2026-01-02T03:04:05.600000000Z stdout F \n"),
        ] {
            let entry = Entry { timestamp, stream, tag, text: text.as_bytes() };
            let mut out = Vec::new();
            entry.write(&mut out);
            assert_eq!(out, line.as_bytes());
            assert_eq!(Entry::parse(&out[..out.len() - 1]), Some(entry));
        }
    }

    #[test]
    fn damage_is_no_line_but_a_good_line_behind_zeros_is() {
        for damaged in [
            "",
            "\0\0\0",
            "x",
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05Z stdout",
            "2026-01-02T03:04:05Z stdout F",
            "2026-01-02T03:04:05Z stdin F x",
            "2026-01-02T03:04:05Z stdout X x",
            "yesterday stdout F x",
            "\u{e4} stdout F x",
        ] {
            assert_eq!(Entry::parse(damaged.as_bytes()), None, "{damaged:?}");
        }
        let entry = Entry::parse(b"\0\0\x002026-01-02T03:04:05Z stdout F \xff\0").unwrap();
        assert_eq!(entry.text, b"\xff\0");
    }

    #[test]
    fn a_record_has_the_five_fields_of_the_contract() {
        let record = Record {
            name: "echo".into(),
            namespace: "openfaas-fn".into(),
            instance: "echo-1a2b3c4d".into(),
            timestamp: "2026-01-02T03:04:05.000000006Z".parse().unwrap(),
            text: "a \"quote\"".into(),
            stream: Stream::Stdout,
        };
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"name":"echo","namespace":"openfaas-fn","instance":"echo-1a2b3c4d","timestamp":"2026-01-02T03:04:05.000000006Z","text":"a \"quote\""}"#
        );
    }
}
