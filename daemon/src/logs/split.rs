//! Cuts what a function prints into lines, and lines that are too long into parts.
//!
//! Owns the unfinished line of one stream, at most [`PART_LIMIT`] bytes. Does no I/O, knows no time.

use super::PART_LIMIT;
use super::record::Tag;

/// The unfinished line of one stream.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    unfinished: Vec<u8>,
}

impl Splitter {
    /// Takes the next bytes of the stream, and gives each line or part that they complete to `emit`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut emit: impl FnMut(Tag, &[u8])) {
        while !bytes.is_empty() {
            let room = PART_LIMIT - self.unfinished.len();
            // One byte more than there is room for: a newline there ends a line that just fits.
            let window = &bytes[..bytes.len().min(room + 1)];
            if let Some(newline) = window.iter().position(|byte| *byte == b'\n') {
                self.emit_with(&window[..newline], Tag::Full, &mut emit);
                bytes = &bytes[newline + 1..];
            } else if window.len() > room {
                self.emit_with(&window[..room], Tag::Partial, &mut emit);
                bytes = &bytes[room..];
            } else {
                self.unfinished.extend_from_slice(window);
                return;
            }
        }
    }

    /// The stream has ended: what is left is a line, even without a newline.
    pub(super) fn finish(&mut self, mut emit: impl FnMut(Tag, &[u8])) {
        if !self.unfinished.is_empty() {
            self.emit_with(&[], Tag::Full, &mut emit);
        }
    }

    fn emit_with(&mut self, rest: &[u8], tag: Tag, emit: &mut impl FnMut(Tag, &[u8])) {
        if self.unfinished.is_empty() {
            // The common case: a whole line in one read is not copied.
            emit(tag, rest);
            return;
        }
        self.unfinished.extend_from_slice(rest);
        emit(tag, &self.unfinished);
        self.unfinished.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<(Tag, Vec<u8>)> {
        let mut parts = Vec::new();
        let mut splitter = Splitter::default();
        for chunk in chunks {
            splitter.feed(chunk, |tag, text| parts.push((tag, text.to_vec())));
        }
        splitter.finish(|tag, text| parts.push((tag, text.to_vec())));
        parts
    }

    #[test]
    fn lines_come_out_whole_however_they_arrive() {
        let whole = |lines: &[&str]| -> Vec<_> {
            lines.iter().map(|line| (Tag::Full, line.as_bytes().to_vec())).collect()
        };
        for (chunks, lines) in [
            (vec!["a\nb\n"], vec!["a", "b"]),
            (vec!["a", "b", "\n", "c\n"], vec!["ab", "c"]),
            (vec!["\n\n"], vec!["", ""]),
            (vec!["a\r\nno newline at the end"], vec!["a\r", "no newline at the end"]),
            (vec![""], vec![]),
        ] {
            let chunks: Vec<_> = chunks.iter().map(|chunk| chunk.as_bytes()).collect();
            assert_eq!(split(&chunks), whole(&lines), "{chunks:?}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_cut_into_parts_and_only_the_last_is_full() {
        for (length, parts) in [
            (PART_LIMIT - 1, vec![PART_LIMIT - 1]),
            (PART_LIMIT, vec![PART_LIMIT]),
            (PART_LIMIT + 1, vec![PART_LIMIT, 1]),
            (2 * PART_LIMIT, vec![PART_LIMIT, PART_LIMIT]),
            (3 * PART_LIMIT + 7, vec![PART_LIMIT, PART_LIMIT, PART_LIMIT, 7]),
        ] {
            let mut line = vec![b'x'; length];
            line.push(b'\n');
            for chunk in [1000, 4096, line.len()] {
                let got = split(&line.chunks(chunk).collect::<Vec<_>>());
                assert_eq!(
                    got.iter().map(|(_, text)| text.len()).collect::<Vec<_>>(),
                    parts,
                    "{length} by {chunk}"
                );
                let (last, before) = got.split_last().unwrap();
                assert_eq!(last.0, Tag::Full);
                assert!(before.iter().all(|(tag, _)| *tag == Tag::Partial));
            }
        }
    }
}
