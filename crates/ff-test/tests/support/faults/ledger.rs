//! The submissions and the acknowledged ends.

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
pub(crate) struct Ledger {
    history: Mutex<History>,
    rollback_faults: AtomicU32,
    ended: AtomicU64,
}

impl Ledger {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a submission. Called before it is sent, because its reply may be lost.
    pub(crate) fn submitted(&self, executions: impl IntoIterator<Item = ExecutionId>, what: &Submitted) {
        self.history().submitted.extend(executions.into_iter().map(|id| (id, what.clone())));
    }

    /// The number of rollback faults so far. A call that begins now can be rolled back by later ones only.
    pub(crate) fn faults_so_far(&self) -> u32 {
        self.rollback_faults.load(Ordering::SeqCst)
    }

    /// Records acknowledged ends, of a call that began after this many rollback faults.
    pub(crate) fn acknowledged(&self, executions: impl IntoIterator<Item = ExecutionId>, faults: u32) {
        let mut history = self.history();
        let before = history.acknowledged.len();
        history.acknowledged.extend(executions.into_iter().map(|id| (id, faults)));
        self.ended.fetch_add((history.acknowledged.len() - before) as u64, Ordering::SeqCst);
    }

    /// Records a rollback fault: it may roll back everything committed until now, and no later call.
    pub(crate) fn rollback(&self) {
        self.rollback_faults.fetch_add(1, Ordering::SeqCst);
    }

    /// The number of acknowledged ends.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Records the state of the logs between two faults.
    pub(crate) fn snapshot(&self, logs: BTreeMap<LogId, LogTruth>) {
        self.history().earlier.push(logs);
    }

    /// The whole history, with the final logs and the records of the subscriptions.
    pub(crate) fn close(&self, logs: BTreeMap<LogId, LogTruth>, records: Vec<Record>) -> History {
        let mut history = std::mem::take(&mut *self.history());
        history.rollback_faults = self.faults_so_far();
        history.logs = logs;
        history.records = records;
        history
    }
}
