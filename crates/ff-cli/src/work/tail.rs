//! The last part of a command's output, in bounded memory.

use bytes::Bytes;

/// Keeps the last `limit` bytes of what is pushed.
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
        // Twice the limit before anything is moved, so that a byte is moved once on average.
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

    /// What is kept; a character that was cut in two at the front is left out.
    pub(super) fn into_bytes(mut self) -> Bytes {
        self.trim();
        if self.cut {
            let continuation = self.bytes.iter().take(3).take_while(|byte| (0x80..0xC0).contains(*byte)).count();
            self.bytes.drain(..continuation);
        }
        self.bytes.into()
    }

    /// The last line that is not blank, for a failure's reason.
    pub(super) fn last_line(&self) -> Option<String> {
        let start = self.bytes.len().saturating_sub(4096);
        let text = String::from_utf8_lossy(&self.bytes[start..]);
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(crate::failure::one_line)
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
    fn bytes_that_are_no_text_are_left_alone_when_nothing_was_cut() {
        let mut tail = Tail::new(8);
        tail.push(&[0x80, 0x81, b'a']);
        assert_eq!(&tail.into_bytes()[..], [0x80, 0x81, b'a']);
    }

    #[test]
    fn the_last_line_is_the_last_that_says_something() {
        let mut tail = Tail::new(100);
        assert_eq!(tail.last_line(), None);
        tail.push(b"one\ntwo  three \n\n  \n");
        assert_eq!(tail.last_line().as_deref(), Some("two three"));
    }
}
