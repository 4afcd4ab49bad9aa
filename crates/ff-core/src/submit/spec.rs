//! One execution as it is submitted.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::{check_text, limits};
use crate::{EngineError, LaneId, Tags, error::shown};

/// The wait before a retry: `initial`, doubled with every further failure, at most `max`. Up to a fifth is subtracted,
/// derived from the execution's id and the number of its failures, so that executions that failed together do not all
/// retry at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct Backoff {
    /// The wait after the first failure.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    /// 1 s, doubling up to 5 min.
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(300) }
    }
}

/// The tag that names the kind of an execution; see [`ExecutionSpec::kind`].
pub const KIND_TAG: &str = "kind";

/// One execution: its payload, lane, start time, retries and limits.
///
/// Times are durations, because only the server's clock is used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecutionSpec {
    /// Its name, unique within its flow; 1 to 256 bytes without control characters.
    pub name: String,
    /// The names of the members that must succeed first.
    pub needs: Vec<String>,
    /// The lane whose workers may run it.
    pub lane: LaneId,
    /// 0 to 999; higher is claimed first within a lane and partition.
    pub priority: u16,
    /// The tags, which filters and dashboards use.
    pub tags: Tags,
    /// The payload for the worker; up to 1 MiB.
    pub payload: Bytes,
    /// The number of failed attempts that ends it, at least 1 (the default: no retry).
    pub max_attempts: u32,
    /// The wait before a retry.
    pub backoff: Backoff,
    /// The number of expired leases (a worker died or hung) after which it fails, at least 1. Default 3.
    pub max_lease_expiries: u32,
    /// The earliest start, counted from the time at which the whole submission was accepted.
    pub delay: Duration,
    /// When it expires in any state, counted from the time at which the whole submission was accepted.
    pub deadline: Option<Duration>,
    /// How long one attempt may take before it counts as failed.
    pub timeout: Option<Duration>,
}

impl ExecutionSpec {
    /// An execution with this name on the default lane, without needs, retries or time limits.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            needs: Vec::new(),
            lane: LaneId::default_lane(),
            priority: 0,
            tags: Tags::default(),
            payload: Bytes::new(),
            max_attempts: 1,
            backoff: Backoff::default(),
            max_lease_expiries: 3,
            delay: Duration::ZERO,
            deadline: None,
            timeout: None,
        }
    }

    /// Needs these members to succeed first.
    #[must_use]
    pub fn needs<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.needs.extend(names.into_iter().map(Into::into));
        self
    }

    /// Runs on this lane.
    #[must_use]
    pub fn lane(mut self, lane: LaneId) -> Self {
        self.lane = lane;
        self
    }

    /// Is claimed before those of lower priority.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// Carries these tags.
    #[must_use]
    pub fn tags(mut self, tags: Tags) -> Self {
        self.tags = tags;
        self
    }

    /// Gives the worker these bytes.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Gives the worker this value, as JSON.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a value that JSON cannot represent, such as a map whose keys are not strings.
    pub fn payload_json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, EngineError> {
        match serde_json::to_vec(value) {
            Ok(bytes) => Ok(self.payload(bytes)),
            Err(error) => {
                let what = format!("the payload of execution `{}`", shown(&self.name));
                Err(EngineError::invalid(what, format!("it is not JSON: {error}")))
            }
        }
    }

    /// Sets the kind of work, by which a worker selects the handler. It is stored as the tag [`KIND_TAG`]; without it
    /// the name of the execution is its kind.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a kind beyond the limits of [`Tags`].
    pub fn kind(mut self, kind: &str) -> Result<Self, EngineError> {
        let others = self.tags.iter().filter(|(key, _)| *key != KIND_TAG);
        self.tags = Tags::new(others.chain([(KIND_TAG, kind)]))?;
        Ok(self)
    }

    /// Runs up to `max_attempts` times, waiting in between.
    #[must_use]
    pub fn attempts(mut self, max_attempts: u32, backoff: Backoff) -> Self {
        self.max_attempts = max_attempts;
        self.backoff = backoff;
        self
    }

    /// Ends as failed when this many leases ran out.
    #[must_use]
    pub fn max_lease_expiries(mut self, expiries: u32) -> Self {
        self.max_lease_expiries = expiries;
        self
    }

    /// Starts no earlier than this after its submission.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Expires this long after its submission.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Fails an attempt that takes longer than this.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(super) fn validate(&self) -> Result<(), EngineError> {
        check_text("execution name", &self.name)?;
        let refuse = |reason: String| Err(EngineError::invalid(format!("execution `{}`", shown(&self.name)), reason));
        if self.payload.len() > limits::PAYLOAD_BYTES {
            return refuse(format!(
                "its payload has {} bytes, at most {} are allowed; store it elsewhere and pass a reference",
                self.payload.len(),
                limits::PAYLOAD_BYTES
            ));
        }
        if self.priority > limits::PRIORITY {
            return refuse(format!("its priority {} is above {}", self.priority, limits::PRIORITY));
        }
        if self.max_attempts == 0 || self.max_lease_expiries == 0 {
            return refuse("it must be allowed at least one attempt and one lease".to_owned());
        }
        for (what, duration) in [
            ("delay", Some(self.delay)),
            ("deadline", self.deadline),
            ("timeout", self.timeout),
            ("backoff", Some(self.backoff.initial)),
            ("longest backoff", Some(self.backoff.max)),
        ] {
            if duration.is_some_and(|duration| duration > limits::DURATION) {
                return refuse(format!("its {what} is longer than ten years"));
            }
        }
        for (what, duration) in [("deadline", self.deadline), ("timeout", self.timeout)] {
            if duration.is_some_and(|duration| duration < Duration::from_millis(1)) {
                return refuse(format!("its {what} is shorter than a millisecond"));
            }
        }
        Ok(())
    }
}
