//! Handles the output of a command: the last part is kept in memory, the whole output in a file, and each line is sent
//! to the view.

use std::{
    io,
    path::{Path, PathBuf},
};

use ff_core::{ExecutionId, Failure};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::{RESULT_BYTES, tail::Tail};
use crate::{
    out,
    text::{for_terminal, without_error_numbers},
};

/// Longer lines are shown in pieces.
const LINE_BYTES: usize = 4096;

/// Lines that an execution printed, safe for a terminal.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) execution_id: ExecutionId,
    pub(crate) lines: Vec<String>,
}

/// Where lines are sent. A slow reader slows the command down, as a terminal does.
pub(crate) type LineSender = mpsc::Sender<Lines>;

pub(super) struct Output {
    pub(super) tail: Tail,
    file: Option<(PathBuf, File)>,
    live: Option<(ExecutionId, LineSender)>,
    /// The incomplete last line.
    line: Vec<u8>,
}

impl Output {
    pub(super) async fn open(path: Option<&Path>, live: Option<(ExecutionId, LineSender)>) -> Result<Self, Failure> {
        let file = match path {
            Some(path) => Some((
                path.to_owned(),
                File::create(path).await.map_err(|error| {
                    let error = without_error_numbers(&error.to_string());
                    Failure::permanent(format!("the output cannot be kept in {}: {error}", path.display()))
                })?,
            )),
            None => None,
        };
        Ok(Self { tail: Tail::new(RESULT_BYTES), file, live, line: Vec::new() })
    }

    pub(super) async fn read(&mut self, mut printed: impl AsyncRead + Unpin) {
        let mut buffer = [0; 8192];
        loop {
            // An error while reading is handled like the end of the pipe.
            let length = printed.read(&mut buffer).await.unwrap_or(0);
            if length == 0 {
                return;
            }
            self.tail.push(&buffer[..length]);
            if let Some((_, file)) = &mut self.file
                && let Err(error) = file.write_all(&buffer[..length]).await
            {
                self.not_kept(&error);
            }
            self.show(&buffer[..length]).await;
        }
    }

    async fn show(&mut self, more: &[u8]) {
        if self.live.is_none() {
            return;
        }
        let mut lines = Vec::new();
        for byte in more {
            if *byte == b'\n' || self.line.len() >= LINE_BYTES {
                lines.push(for_terminal(&String::from_utf8_lossy(&self.line)));
                self.line.clear();
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
        self.send(lines).await;
    }

    async fn send(&mut self, lines: Vec<String>) {
        if let Some((execution_id, printed)) = &self.live
            && !lines.is_empty()
            && printed.send(Lines { execution_id: *execution_id, lines }).await.is_err()
        {
            // The view is closed.
            self.live = None;
        }
    }

    pub(super) async fn finish(&mut self) {
        if !self.line.is_empty() {
            let last = for_terminal(&String::from_utf8_lossy(&std::mem::take(&mut self.line)));
            self.send(vec![last]).await;
        }
        if let Some((_, file)) = &mut self.file
            && let Err(error) = file.flush().await
        {
            self.not_kept(&error);
        }
    }

    /// The command goes on, and the program ends with this failure.
    fn not_kept(&mut self, error: &io::Error) {
        if let Some((path, _)) = self.file.take() {
            out::failed(&format!("output file `{}` cannot be written", path.display()), error);
        }
    }
}

#[cfg(test)]
mod tests {
    use ff_core::PartitionCount;

    use super::*;

    async fn shown(printed: &'static [u8]) -> Vec<String> {
        let (sender, mut receiver) = mpsc::channel(1);
        let id = ExecutionId::generate_solo(PartitionCount::DEFAULT);
        let mut output = Output::open(None, Some((id, sender))).await.unwrap();
        let reading = async move {
            output.read(printed).await;
            output.finish().await;
        };
        let collecting = async {
            let mut lines = Vec::new();
            while let Some(more) = receiver.recv().await {
                assert_eq!(more.execution_id, id);
                lines.extend(more.lines);
            }
            lines
        };
        tokio::join!(reading, collecting).1
    }

    #[tokio::test]
    async fn lines_are_sent_when_they_end_and_the_last_one_also_without_an_end() {
        assert_eq!(shown(b"one\n\ntwo\nthree").await, ["one", "", "two", "three"]);
    }

    #[tokio::test]
    async fn control_sequences_are_removed_from_the_lines() {
        assert_eq!(shown(b"\x1b[31mred\x1b[0m\x1b]0;title\x07 \x9b2J\n10%\r20%\r\n").await, ["red \u{fffd}2J", "20%"]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_shown_in_pieces() {
        static LONG: [u8; 10_000] = [b'x'; 10_000];
        let lengths: Vec<_> = shown(&LONG).await.iter().map(String::len).collect();
        assert_eq!(lengths, [4096, 4096, 1808]);
    }
}
