//! A reader that resumes from its saved cursor from time to time: it gets every entry once and in order, and lost
//! entries are in a gap with exactly their positions.

use std::collections::BTreeMap;

use ff_core::{
    Cursor, EntryId, Frame, Gap, GapCause, Scope, Start, SubscribeBackend, SubscribeOptions, Subscription,
    SubscriptionScope,
};
use futures::{FutureExt, StreamExt};

use super::{
    stage::Stage,
    world::{Entry, World},
};

pub(super) struct Reader {
    cursor: Cursor,
    /// The last delivered entry of each log.
    has: BTreeMap<Scope, EntryId>,
}

impl Reader {
    /// A reader of empty logs. Only in process it is known when everything was read.
    pub(super) fn start(world: &World<'_, impl Stage>) -> Option<Self> {
        world.stage.host()?;
        let now = subscribe(world, Start::Now)?;
        Some(Self { cursor: now.cursor(), has: BTreeMap::new() })
    }

    /// Resumes, reads to the end, and closes.
    pub(super) fn read(&mut self, world: &World<'_, impl Stage>) -> Result<(), String> {
        let mut reading = subscribe(world, Start::After(self.cursor.clone())).ok_or("it cannot subscribe")?;
        let logs: BTreeMap<Scope, Vec<Entry>> =
            [Scope::Flows, Scope::Solo].into_iter().map(|scope| (scope, world.log(scope))).collect();
        while let Some(frame) = reading.next().now_or_never() {
            match frame {
                Some(Frame::Completion(ended)) => {
                    let position = ended.position.ok_or("a completion without a position")?;
                    let (scope, id) = (position.log.scope, position.entry);
                    let entry = logs[&scope].iter().find(|entry| entry.id == id);
                    let entry = entry.ok_or_else(|| format!("it was given {id}, which is not in the log"))?;
                    let last = self.has.insert(scope, id);
                    if !entry.follows(last) || entry.uuid != ended.execution_id.uuid().to_string() {
                        return Err(format!("it was given {entry:?} after {last:?}"));
                    }
                }
                Some(Frame::Gap(gap)) => self.take(&gap, &logs[&gap.log.scope])?,
                Some(_) => {}
                None => return Err("the subscription ended".to_owned()),
            }
        }
        self.cursor = reading.cursor();
        for (scope, log) in logs {
            let (last, has) = (log.last().map(|entry| entry.id), self.has.get(&scope).copied());
            if last.is_some() && last != has {
                return Err(format!("it has read the log of {scope:?} to {has:?}, which ends with {last:?}"));
            }
        }
        Ok(())
    }

    fn take(&mut self, gap: &Gap, log: &[Entry]) -> Result<(), String> {
        let has = self.has.get(&gap.log.scope).copied();
        let begins_here = if gap.cause.is_undone() { Some(gap.through) == has } else { gap.after == has };
        let is_within = |entry: &&Entry| entry.id <= gap.through && gap.after.is_none_or(|after| entry.id > after);
        let held = log.iter().find(is_within).filter(|_| gap.cause == GapCause::Trimmed);
        let is_known = gap.cause == GapCause::Trimmed || gap.cause.is_undone();
        if !begins_here || held.is_some() || !is_known {
            return Err(format!("it has {has:?} and was given the gap {gap}; the log holds of it {held:?}"));
        }
        match if gap.cause.is_undone() { gap.after } else { Some(gap.through) } {
            Some(last) => self.has.insert(gap.log.scope, last),
            None => self.has.remove(&gap.log.scope),
        };
        Ok(())
    }
}

fn subscribe(world: &World<'_, impl Stage>, start: Start) -> Option<Subscription> {
    let options = SubscribeOptions::new().scope(SubscriptionScope::FlowsAndSolo).start(start);
    world.stage.wait(world.stage.backend().subscribe(&options)).ok()
}
