//! A run on a terminal: a line per execution, or where they do not fit one per running execution, and a bar.

use std::time::Duration;

use console::{Term, style};
use ff_core::Outcome;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    tracker::{Member, MemberState, Tracker},
    view::details,
};
use crate::{text, watch::coloured};

/// Lines kept free: the bar, the prompt that was there before, and one to breathe.
const RESERVED_ROWS: usize = 4;
/// Longer names are cut in the lines.
const NAME_WIDTH: usize = 40;
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

pub(super) struct Live {
    screen: MultiProgress,
    lines: Vec<ProgressBar>,
    bar: ProgressBar,
    name_width: usize,
    /// Whether every execution has its line.
    all_fit: bool,
}

impl Live {
    pub(super) fn new(tracker: &Tracker) -> Self {
        let rows = usize::from(Term::stdout().size().0).saturating_sub(RESERVED_ROWS).max(3);
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(12));
        let line_style =
            ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let new_line = || {
            let line = screen.add(ProgressBar::new_spinner());
            line.set_style(line_style.clone());
            line
        };
        let lines = (0..tracker.members.len().min(rows)).map(|_| new_line()).collect();
        let bar = screen.add(ProgressBar::new(tracker.members.len() as u64));
        let bar_style = ProgressStyle::with_template("{bar:40.green/dim} {pos}/{len}  {msg}");
        bar.set_style(bar_style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let longest = tracker.members.iter().map(|member| console::measure_text_width(&member.name)).max();
        Self {
            screen,
            lines,
            bar,
            name_width: longest.unwrap_or(0).min(NAME_WIDTH),
            all_fit: tracker.members.len() <= rows,
        }
    }

    /// A line above what moves.
    pub(super) fn say(&self, line: &str) {
        // The terminal may have gone away; the run goes on.
        let _ = self.screen.println(line);
    }

    pub(super) fn arrived(&self, member: &Member) {
        if !self.all_fit && member.state != MemberState::Ended(Outcome::Success) {
            self.say(&self.line(member, member.stopped.unwrap_or_default()));
        }
    }

    pub(super) fn render(&self, tracker: &Tracker, now: Duration) {
        if self.all_fit {
            for (line, member) in self.lines.iter().zip(&tracker.members) {
                line.set_message(self.line(member, now));
            }
        } else {
            let mut running: Vec<_> =
                tracker.members.iter().filter(|member| member.state == MemberState::Running).collect();
            running.sort_by_key(|member| member.started);
            for (index, line) in self.lines.iter().enumerate() {
                line.set_message(running.get(index).map(|member| self.line(member, now)).unwrap_or_default());
            }
        }
        self.bar.set_position(tracker.arrived() as u64);
        self.bar.set_message(text::span(now));
    }

    pub(super) fn end(&self, tracker: &Tracker, now: Duration) {
        self.render(tracker, now);
        if self.all_fit {
            for line in &self.lines {
                line.abandon();
            }
            self.bar.finish_and_clear();
        } else {
            // The lines show what runs, and nothing runs any more.
            let _ = self.screen.clear();
        }
    }

    fn line(&self, member: &Member, now: Duration) -> String {
        let name = console::truncate_str(&member.name, self.name_width, "…");
        let name = console::pad_str(&name, self.name_width, console::Alignment::Left, None);
        let state = match member.state {
            MemberState::Ended(outcome) => coloured(outcome),
            MemberState::Running => {
                let frame = SPINNER[(now.as_millis() / 100) as usize % SPINNER.len()];
                style(format!("{frame} running")).cyan().to_string()
            }
            MemberState::Waiting => style(format!("{:<9}", member.state.word())).dim().to_string(),
        };
        format!("{name}  {state}{}", details(member, now))
    }
}
