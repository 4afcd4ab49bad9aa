//! How many bytes the logs keep, and what a reader of them sees.

use super::*;
use crate::simulation::stage;

/// Pieces of a limit, and how often what was counted is saved per piece.
const PIECES: u64 = 16;
const SAVES: u64 = 4;

/// By which policies the logs were kept.
#[derive(Debug, Default)]
pub(super) struct Keeps {
    /// Whether some program's logs have kept little.
    little: bool,
    /// Whether a program's logs have kept much, and something was appended.
    much: bool,
    /// Whether they were cut by another program.
    pub(super) cut: bool,
    /// How often the library lost what it counted since it was saved.
    pub(super) tenures: u64,
}

impl<S: Stage> Run<'_, S> {
    pub(super) fn keep(&mut self, little: bool) {
        self.world.stage.keep_little(little);
        self.keeps.little |= little;
        self.keeps.much |= !little || !self.ids.is_empty();
        // Whether it did is checked by its bytes.
        self.trimmed |= little;
    }

    /// The reader comes back.
    pub(super) fn read(&mut self) -> Result<(), Disagreement> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        reader.read(&self.world).map_err(|what| format!("a reader came back: {what}"))
    }

    /// What a log has lost is more than the policy keeps, and what it holds is not much more than that.
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
