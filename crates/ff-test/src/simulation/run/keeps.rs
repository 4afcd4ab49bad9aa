//! The bytes that the logs keep, and what a reader of them gets.

use super::*;
use crate::simulation::stage;

/// The pieces of a limit, and how often the count is saved per piece.
const PIECES: u64 = 16;
const SAVES: u64 = 4;

/// The policies that were used.
#[derive(Debug, Default)]
pub(super) struct Keeps {
    /// Whether a program with small logs was used.
    little: bool,
    /// Whether a program with large logs was used, and something was appended.
    much: bool,
    /// Whether another program has trimmed them.
    pub(super) cut: bool,
    /// How often the library lost its unsaved count.
    pub(super) tenures: u64,
}

impl<S: Stage> Run<'_, S> {
    pub(super) fn keep(&mut self, little: bool) {
        self.world.stage.keep_little(little);
        self.keeps.little |= little;
        self.keeps.much |= !little || !self.ids.is_empty();
        // Whether it was trimmed is checked by its bytes.
        self.trimmed |= little;
    }

    /// Lets the reader resume.
    pub(super) fn read(&mut self) -> Result<(), Disagreement> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        reader.read(&self.world).map_err(|what| format!("a reader resumed: {what}"))
    }

    /// A log was trimmed only beyond its limit, and holds not much more than its limit.
    pub(super) fn bytes_agree(&self) -> Result<(), Disagreement> {
        let Keeps { little: true, much, cut, tenures } = self.keeps else { return Ok(()) };
        for (scope, limit) in [(Scope::Flows, stage::little().flow_bytes), (Scope::Solo, stage::little().solo_bytes)] {
            let log = self.world.log(scope);
            let bytes: u64 = log.iter().map(|entry| entry.bytes).sum();
            let is_whole = log.first().is_none_or(Entry::begins);
            ensure!(cut || is_whole || bytes >= limit, "the log of {scope:?} was trimmed to {bytes} bytes");
            let longest = log.iter().map(|entry| entry.bytes).max().unwrap_or(0);
            let uncounted = tenures * (limit / PIECES / SAVES + longest);
            let most = limit + limit / PIECES + 2 * longest + uncounted;
            ensure!(much || bytes <= most, "the log of {scope:?} holds {bytes} bytes, expected at most {most}");
        }
        Ok(())
    }
}
