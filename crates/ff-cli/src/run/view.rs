//! How a run is shown: live on a terminal, as plain lines elsewhere, or as JSON.

use std::{
    io::{IsTerminal, stdout},
    time::Duration,
};

use ff_core::CompletionPayload;
use serde::Serialize;

use super::{
    live::Live,
    tracker::{Member, MemberState, Tracker},
};
use crate::{failure::one_line, out, text, watch::coloured};

/// Where the run is shown.
pub(super) enum View {
    Live(Live),
    Plain,
    Json,
}

/// One line of `--json`.
#[derive(Serialize)]
struct JsonCompletion<'a> {
    event: &'static str,
    name: &'a str,
    /// From the start of the run to the arrival.
    arrived_after_ms: u64,
    /// From the first attempt's begin to the last one's end; 0 if it never ran.
    took_ms: u64,
    #[serde(flatten)]
    completion: &'a CompletionPayload,
}

impl View {
    pub(super) fn new(json: bool, tracker: &Tracker) -> Self {
        if json {
            return Self::Json;
        }
        if stdout().is_terminal() { Self::Live(Live::new(tracker)) } else { Self::Plain }
    }

    /// Something to say before the first event.
    pub(super) fn announce(&self, line: &str) {
        match self {
            Self::Live(live) => live.say(line),
            Self::Plain => out::text(line),
            Self::Json => {}
        }
    }

    pub(super) fn attempt_began(&self, member: &Member, now: Duration) {
        if let Self::Plain = self {
            let attempt = if member.attempts > 1 { format!("  attempt {}", member.attempts) } else { String::new() };
            plain(now, "started", &member.name, &attempt);
        }
    }

    pub(super) fn attempt_failed(&self, member: &Member, reason: &str, now: Duration) {
        if let Self::Plain = self {
            plain(now, "attempt", &member.name, &format!("  failed: {}", one_line(reason)));
        }
    }

    /// A completion has arrived.
    pub(super) fn arrived(&self, member: &Member, completion: &CompletionPayload, now: Duration) {
        match self {
            Self::Live(live) => live.arrived(member),
            Self::Plain => {
                let word = coloured(completion.outcome);
                plain(now, word.trim_end(), &member.name, &details(member, now));
            }
            Self::Json => {
                let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                // A reader that has gone away does not end the run: its executions are under way.
                let _: out::Reader = out::json(&JsonCompletion {
                    event: "completion",
                    name: &member.name,
                    arrived_after_ms: millis(now),
                    took_ms: millis(member.took(now)),
                    completion,
                });
            }
        }
    }

    /// Time has passed.
    pub(super) fn tick(&self, tracker: &Tracker, now: Duration) {
        if let Self::Live(live) = self {
            live.render(tracker, now);
        }
    }

    /// Nothing more will come.
    pub(super) fn end(&self, tracker: &Tracker, now: Duration) {
        if let Self::Live(live) = self {
            live.end(tracker, now);
        }
    }
}

fn plain(now: Duration, word: &str, name: &str, details: &str) {
    let _: out::Reader = out::line(&format!("{:>8}  {word:<9}  {name}{details}", text::span(now)));
}

/// Time, attempts and reason of a member, as far as there are any.
pub(super) fn details(member: &Member, now: Duration) -> String {
    let mut details = String::new();
    if member.started.is_some() {
        details.push_str(&format!("  {}", text::span(member.took(now))));
    }
    if member.attempts > 1 {
        details.push_str(&format!("  {} attempts", member.attempts));
    }
    if let Some(reason) = &member.reason
        && member.state != MemberState::Ended(ff_core::Outcome::Success)
    {
        details.push_str(&format!("  {}", one_line(reason)));
    }
    details
}
