//! The tasks of a backend. None of them ends on its own: a task that does is an error, and is reported.
//!
//! A task ends by a panic: in this crate, in the client library, or in user code that it calls (a metrics recorder, a
//! tracing subscriber). The end is logged once and counted, the backend's health names the task, and everything that
//! depends on it ends or fails instead of waiting without result.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ff_core::EngineError;
use futures::FutureExt;

use crate::{net::connection::Task, telemetry};

/// The tasks of a backend that have ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks(Arc<Mutex<Vec<&'static str>>>);

impl Tasks {
    /// Runs a task until the returned value is dropped.
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> Task {
        self.spawn_or(name, task, || {})
    }

    /// Runs a task until the returned value is dropped, and `otherwise` if the task ends on its own.
    pub(crate) fn spawn_or(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        otherwise: impl FnOnce() + Send + 'static,
    ) -> Task {
        let tasks = self.clone();
        Task::spawn(async move {
            let outcome = AssertUnwindSafe(task).catch_unwind().await;
            tasks.note(name, outcome.as_ref().err().map_or("it returned", |panic| said(&**panic)));
            otherwise();
        })
    }

    /// Records that a task has ended.
    pub(crate) fn note(&self, name: &'static str, why: &str) {
        tracing::error!(task = name, why, "an internal task has ended; connect again");
        telemetry::count_task(name);
        let mut ended = self.lock();
        if !ended.contains(&name) {
            ended.push(name);
        }
    }

    /// The tasks that have ended.
    pub(crate) fn ended(&self) -> Vec<&'static str> {
        self.lock().clone()
    }

    /// # Errors
    /// If a task has ended.
    pub(crate) fn check(&self, op: &str) -> Result<(), EngineError> {
        match self.lock().first() {
            None => Ok(()),
            Some(name) => Err(EngineError::ended(format!("{op}: the internal task `{name}`"))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message of a panic.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named_and_its_dependents_are_notified() {
        let (tasks, (sender, receiver)) = (Tasks::default(), tokio::sync::oneshot::channel());
        assert!(tasks.check("subscribing").is_ok());
        let _task = tasks.spawn_or("pump", async { panic!("injected") }, move || {
            let _ = sender.send(());
        });
        receiver.await.unwrap();
        assert_eq!(tasks.ended(), ["pump"]);
        assert!(tasks.check("subscribing").unwrap_err().to_string().contains("`pump`"));
    }

    #[tokio::test]
    async fn a_task_that_is_dropped_has_not_ended() {
        let tasks = Tasks::default();
        drop(tasks.spawn("pump", std::future::pending()));
        tokio::task::yield_now().await;
        assert!(tasks.ended().is_empty());
    }
}
