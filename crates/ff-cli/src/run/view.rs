//! Shows a run: live on a terminal, as plain lines elsewhere, or as JSON.

use std::time::Duration;

use clap::ValueEnum;
use ff_core::{CompletionPayload, FlowId, Namespace, Outcome};
use serde::Serialize;
use uuid::Uuid;

use super::{
    details::details,
    job::Job,
    live::Live,
    resume_hint,
    tracker::{Member, Tracker},
};
use crate::{failure::one_line, out, text, watch::coloured, work::Exit};

/// Which output of commands is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShowOutput {
    /// Every line, as it is printed
    All,
    /// The last lines of each attempt that fails
    Failed,
    /// Nothing
    None,
}

/// The display of a run.
pub(super) struct View {
    screen: Screen,
    output: ShowOutput,
}

enum Screen {
    Live(Live),
    Plain,
    Json,
}

/// The first line of `--json`, before the first event.
#[derive(Serialize)]
struct JsonStarted<'a> {
    event: &'static str,
    run: Uuid,
    flow_id: FlowId,
    name: Option<&'a str>,
    namespace: &'a Namespace,
    executions: usize,
    /// How many of them had already ended.
    ended_before: usize,
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
    /// Why it did not succeed, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    /// How the process of its last attempt ended, if it ran here: `exit_status` or `signal`.
    #[serde(flatten)]
    exit: Option<Exit>,
    /// The last lines that its last attempt printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(flatten)]
    completion: &'a CompletionPayload,
}

impl View {
    pub(super) fn new(json: bool, output: ShowOutput, tracker: &Tracker) -> Self {
        let screen = if json { Screen::Json } else { Live::new(tracker).map_or(Screen::Plain, Screen::Live) };
        Self { screen, output }
    }

    /// Whether lines are shown as they are printed.
    pub(super) fn wants_lines(&self) -> bool {
        self.output == ShowOutput::All && !matches!(self.screen, Screen::Json)
    }

    /// Shows the flow before the first event.
    pub(super) fn announce(&self, job: &Job, outlives: bool) {
        let Job { run, flow_id, name, namespace, tracker, .. } = job;
        if let Screen::Json = self.screen {
            let _: out::Reader = out::json(&JsonStarted {
                event: "started",
                run: *run,
                flow_id: *flow_id,
                name: name.as_deref(),
                namespace,
                executions: tracker.members.len(),
                ended_before: tracker.arrived(),
            });
            return;
        }
        let name = one_line(name.as_deref().unwrap_or("flow"));
        self.say(&format!("{name}: {} in namespace {namespace}, flow {flow_id}", counted(tracker)));
        if outlives {
            self.say(&format!("if this program is killed, {}", resume_hint(*flow_id)));
        }
    }

    /// A line for people.
    pub(super) fn say(&self, line: &str) {
        match &self.screen {
            Screen::Live(live) => live.say(line),
            Screen::Plain => out::text(line),
            Screen::Json => {}
        }
    }

    pub(super) fn attempt_began(&self, member: &Member, now: Duration) {
        if let Screen::Plain = self.screen {
            let attempt = if member.attempts > 1 { format!("  attempt {}", member.attempts) } else { String::new() };
            plain(now, "started", &member.name, &attempt);
        }
    }

    /// Lines of a running attempt.
    pub(super) fn printed(&self, member: &Member, lines: &[String]) {
        for line in lines {
            self.say(&format!("{} | {line}", member.name));
        }
    }

    pub(super) fn attempt_ended(&self, member: &Member, now: Duration) {
        let Some(end) = &member.last else { return };
        let Some(reason) = &end.failure else { return };
        if let Screen::Plain = self.screen {
            plain(now, "attempt", &member.name, &format!("  failed: {}", one_line(reason)));
        }
        if self.output == ShowOutput::Failed {
            self.printed(member, &end.last_lines);
        }
    }

    /// A completion has arrived.
    pub(super) fn arrived(&self, member: &Member, completion: &CompletionPayload, now: Duration) {
        match &self.screen {
            Screen::Live(live) => live.arrived(member),
            Screen::Plain => {
                let word = coloured(completion.outcome);
                plain(now, word.trim_end(), &member.name, &details(member, now));
            }
            Screen::Json => {
                let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                let is_success = completion.outcome == Outcome::Success;
                // A closed reader does not end the run, since its executions are running.
                let _: out::Reader = out::json(&JsonCompletion {
                    event: "completion",
                    name: &member.name,
                    arrived_after_ms: millis(now),
                    took_ms: millis(member.took(now)),
                    cause: member.reason.as_deref().filter(|_| !is_success),
                    exit: member.last.as_ref().and_then(|last| last.exit),
                    output: self.json_output(member, is_success),
                    completion,
                });
            }
        }
    }

    fn json_output(&self, member: &Member, is_success: bool) -> Option<String> {
        let is_shown = self.output == ShowOutput::All || (self.output == ShowOutput::Failed && !is_success);
        member.last.as_ref().filter(|_| is_shown).map(|last| last.last_lines.join("\n"))
    }

    /// Redraws the live display.
    pub(super) fn tick(&mut self, tracker: &Tracker, now: Duration) {
        if let Screen::Live(live) = &mut self.screen {
            live.render(tracker, now);
        }
    }

    /// Ends the display.
    pub(super) fn end(&self, tracker: &Tracker, now: Duration) {
        if let Screen::Live(live) = &self.screen {
            live.end(tracker, now);
        }
    }
}

fn plain(now: Duration, word: &str, name: &str, details: &str) {
    let _: out::Reader = out::line(&format!("{:>8}  {word:<9}  {name}{details}", text::span(now)));
}

/// `3 executions`, and how many of them have already ended.
fn counted(tracker: &Tracker) -> String {
    let all = text::count(tracker.members.len(), "execution");
    match tracker.arrived() {
        0 => all,
        before => format!("{all}, {before} of them already ended"),
    }
}
