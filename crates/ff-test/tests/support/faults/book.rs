//! What was asked of the servers, and what they answered.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use ff_core::{ExecutionId, LogId};
use ff_test::history::{History, LogTruth, Record, Submitted};

#[derive(Debug, Default)]
pub(crate) struct Book {
    history: Mutex<History>,
    undoing_faults: AtomicU32,
    ended: AtomicU64,
}

impl Book {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be noted before it is submitted: the answer may be lost.
    pub(crate) fn submitted(&self, executions: impl IntoIterator<Item = ExecutionId>, what: &Submitted) {
        self.history().submitted.extend(executions.into_iter().map(|id| (id, what.clone())));
    }

    /// What a call that begins now can be undone by is everything that comes after this many faults.
    pub(crate) fn faults_so_far(&self) -> u32 {
        self.undoing_faults.load(Ordering::SeqCst)
    }

    /// The end of these was answered, to a call that began after so many faults.
    pub(crate) fn acknowledged(&self, executions: impl IntoIterator<Item = ExecutionId>, faults: u32) {
        let mut history = self.history();
        let before = history.acknowledged.len();
        history.acknowledged.extend(executions.into_iter().map(|id| (id, faults)));
        self.ended.fetch_add((history.acknowledged.len() - before) as u64, Ordering::SeqCst);
    }

    /// What was committed until now may be undone; what is asked for from now on is not, by this fault.
    pub(crate) fn undone(&self) {
        self.undoing_faults.fetch_add(1, Ordering::SeqCst);
    }

    /// How many executions were ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// How the logs stand between two faults.
    pub(crate) fn stood(&self, logs: BTreeMap<LogId, LogTruth>) {
        self.history().earlier.push(logs);
    }

    /// All of it, with the logs as they stand and what the subscriptions saw.
    pub(crate) fn close(&self, logs: BTreeMap<LogId, LogTruth>, records: Vec<Record>) -> History {
        let mut history = std::mem::take(&mut *self.history());
        history.undoing_faults = self.faults_so_far();
        history.logs = logs;
        history.records = records;
        history
    }
}
