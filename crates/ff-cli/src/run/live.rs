//! A run on a terminal: a line per execution, or where they do not fit one per running execution, and a bar.

use std::time::Duration;

use console::{Term, style};
use ff_core::Outcome;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    tracker::{Member, MemberState, Tracker},
    view::details,
};
use crate::{log, text, watch::coloured};

/// Lines kept free: the bar, the prompt that was there before, and one to breathe.
const RESERVED_ROWS: usize = 4;
/// Longer names are cut in the lines.
const NAME_WIDTH: usize = 40;
/// The bar is no wider.
const BAR_WIDTH: usize = 40;
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// How wide the parts of a line are. State and bar stay visible, however narrow the terminal is.
#[derive(Debug, PartialEq, Eq)]
struct Widths {
    name: usize,
    bar: usize,
}

impl Widths {
    fn of(columns: usize, longest_name: usize, members: usize) -> Self {
        // Two spaces and the longest word for a state.
        let beside_name = 2 + 9;
        // How many of how many, two spaces, and the longest time.
        let beside_bar = 1 + 2 * members.to_string().len() + 1 + 2 + 6;
        Self {
            name: longest_name.min(NAME_WIDTH).min(columns.saturating_sub(beside_name).max(1)),
            bar: columns.saturating_sub(beside_bar).clamp(3, BAR_WIDTH),
        }
    }
}

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
        let (rows, columns) = Term::stdout().size();
        let rows = usize::from(rows).saturating_sub(RESERVED_ROWS).max(3);
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
        let longest = tracker.members.iter().map(|member| console::measure_text_width(&member.name)).max();
        let widths = Widths::of(columns.into(), longest.unwrap_or(0), tracker.members.len());
        let bar_style =
            ProgressStyle::with_template(&format!("{{bar:{}.green/dim}} {{pos}}/{{len}}  {{msg}}", widths.bar));
        bar.set_style(bar_style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        log::above(Some(screen.clone()));
        Self { screen, lines, bar, name_width: widths.name, all_fit: tracker.members.len() <= rows }
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
        log::above(None);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_bar_fit_into_a_narrow_terminal() {
        for columns in 24..=120 {
            for (longest, members) in [(4, 2), (60, 999)] {
                let Widths { name, bar } = Widths::of(columns, longest, members);
                let digits = members.to_string().len();
                assert!(name >= longest.min(13) && name + 2 + "cancelled".len() <= columns, "{columns}");
                assert!(bar >= 3 && bar + 1 + 2 * digits + 1 + 2 + "59m59s".len() <= columns, "{columns}");
            }
        }
        assert_eq!(Widths::of(200, 60, 2), Widths { name: NAME_WIDTH, bar: BAR_WIDTH });
    }
}
