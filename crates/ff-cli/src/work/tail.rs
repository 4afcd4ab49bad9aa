//! The last part of a command's output, in bounded memory.

use bytes::Bytes;

use crate::{failure::one_line, text::for_terminal};

/// The most lines of a failed attempt's output that are shown, and the most bytes of these lines together.
const LINES: usize = 20;
const LINES_BYTES: usize = 4096;

/// Keeps the last `limit` pushed bytes.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    limit: usize,
    cut: bool,
}

impl Tail {
    pub(super) const fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, cut: false }
    }

    pub(super) fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        // Trimming moves the kept bytes to the front. It waits until there are twice as many as the limit, so that each
        // byte is moved once on average.
        if self.bytes.len() > 2 * self.limit {
            self.trim();
        }
    }

    fn trim(&mut self) {
        if let Some(excess) = self.bytes.len().checked_sub(self.limit).filter(|excess| *excess > 0) {
            self.bytes.drain(..excess);
            self.cut = true;
        }
    }

    /// The kept bytes. If trimming cut the first character in two, the rest of this character is left out.
    pub(super) fn into_bytes(mut self) -> Bytes {
        self.trim();
        if self.cut {
            let continuation = self.bytes.iter().take(3).take_while(|byte| (0x80..0xC0).contains(*byte)).count();
            self.bytes.drain(..continuation);
        }
        self.bytes.into()
    }

    /// The last line that is not blank. It is used as the reason of a failure.
    pub(super) fn last_line(&self) -> Option<String> {
        let lines = self.last_lines();
        lines.iter().rev().map(|line| one_line(line)).find(|line| !line.is_empty())
    }

    /// The last lines, safe for a terminal.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let start = self.bytes.len().saturating_sub(LINES_BYTES);
        let text = String::from_utf8_lossy(&self.bytes[start..]);
        let mut lines: Vec<_> = text.lines().map(for_terminal).collect();
        lines.drain(..lines.len().saturating_sub(LINES));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_bytes_are_kept() {
        let mut tail = Tail::new(4);
        for _ in 0..100 {
            tail.push(b"abc");
        }
        tail.push(b"xyz");
        assert_eq!(&tail.into_bytes()[..], b"cxyz");
    }

    #[test]
    fn a_character_that_was_cut_in_two_is_left_out() {
        let mut tail = Tail::new(4);
        tail.push("aä-ü".as_bytes());
        tail.push("!".as_bytes());
        assert_eq!(&tail.into_bytes()[..], "-ü!".as_bytes());
    }

    #[test]
    fn binary_output_is_kept_unchanged_if_nothing_was_cut() {
        let mut tail = Tail::new(8);
        tail.push(&[0x80, 0x81, b'a']);
        assert_eq!(&tail.into_bytes()[..], [0x80, 0x81, b'a']);
    }

    #[test]
    fn the_last_lines_are_bounded_in_number_and_length() {
        let mut tail = Tail::new(100_000);
        for number in 0..1000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        let lines = tail.last_lines();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (20, "line 980", "line 999"));
        tail.push(&[b'x'; 50_000]);
        assert_eq!(tail.last_lines().iter().map(String::len).sum::<usize>(), LINES_BYTES);
    }

    #[test]
    fn the_last_line_is_the_last_one_that_is_not_blank() {
        let mut tail = Tail::new(100);
        assert_eq!(tail.last_line(), None);
        tail.push(b"one\ntwo  three \n\n  \n");
        assert_eq!(tail.last_line().as_deref(), Some("two three"));
    }
}
