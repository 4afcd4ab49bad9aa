//! Shows a run on a terminal: a progress bar, and above it one line per execution. If the executions do not all fit,
//! the lines show running executions only.

use std::time::Duration;

use console::{Term, style};
use ff_core::Outcome;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    details::details,
    tracker::{Member, MemberState, Tracker},
};
use crate::{log, text, watch::coloured};

/// Lines kept free: the bar, the prompt above, and an empty one.
const RESERVED_ROWS: usize = 4;
/// The maximum width of a name; longer names are cut.
const NAME_WIDTH: usize = 40;
/// The maximum width of the bar.
const BAR_WIDTH: usize = 40;
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// The widths of the name of an execution and of the bar. They are chosen so that state and bar stay visible in a
/// narrow terminal.
#[derive(Debug, PartialEq, Eq)]
struct Widths {
    name: usize,
    bar: usize,
}

impl Widths {
    fn of(columns: usize, longest_name: usize, members: usize) -> Self {
        // Beside the name: two spaces and the longest word for a state.
        let beside_name = 2 + 9;
        // Beside the bar: a space, the count (`12/34`), two spaces and the longest time.
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
    longest_name: usize,
    name_width: usize,
    /// The size of the terminal, rows and columns, at the last call of `fit`.
    size: (u16, u16),
}

impl Live {
    /// A display on stdout, if that is a terminal that can redraw lines.
    pub(super) fn new(tracker: &Tracker) -> Option<Self> {
        let target = ProgressDrawTarget::stdout_with_hz(12);
        if target.is_hidden() {
            return None;
        }
        let longest =
            tracker.members.iter().map(|member| console::measure_text_width(&without_joiners(&member.name))).max();
        let mut live = Self::on(target, tracker.members.len(), longest.unwrap_or(0));
        live.fit(Term::stdout().size(), tracker.members.len());
        log::above(Some(live.screen.clone()));
        Some(live)
    }

    fn on(target: ProgressDrawTarget, members: usize, longest_name: usize) -> Self {
        let screen = MultiProgress::with_draw_target(target);
        let bar = screen.add(ProgressBar::new(members as u64));
        Self { screen, lines: Vec::new(), bar, longest_name, name_width: 0, size: (0, 0) }
    }

    /// Adapts to the size of the terminal, rows and columns.
    fn fit(&mut self, size: (u16, u16), members: usize) {
        if self.size == size {
            return;
        }
        self.size = size;
        let (rows, columns) = (usize::from(size.0), usize::from(size.1));
        let count = members.min(rows.saturating_sub(RESERVED_ROWS).max(1));
        for line in self.lines.drain(count.min(self.lines.len())..) {
            self.screen.remove(&line);
        }
        while self.lines.len() < count {
            let line = self.screen.insert_before(&self.bar, ProgressBar::new_spinner());
            line.set_style(
                ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            self.lines.push(line);
        }
        let widths = Widths::of(columns, self.longest_name, members);
        self.name_width = widths.name;
        let style = ProgressStyle::with_template(&format!("{{bar:{}.green/dim}} {{pos}}/{{len}}  {{msg}}", widths.bar));
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    }

    /// Whether every execution has its line.
    fn all_fit(&self) -> bool {
        self.bar.length() == Some(self.lines.len() as u64)
    }

    /// Prints a line above the live display.
    pub(super) fn say(&self, line: &str) {
        // The terminal may be closed; the run continues.
        let _ = self.screen.println(line);
    }

    pub(super) fn arrived(&self, member: &Member) {
        if !self.all_fit() && member.state != MemberState::Ended(Outcome::Success) {
            self.say(&self.line(member, member.stopped.unwrap_or_default()));
        }
    }

    pub(super) fn render(&mut self, tracker: &Tracker, now: Duration) {
        self.fit(Term::stdout().size(), tracker.members.len());
        self.show(tracker, now);
    }

    fn show(&self, tracker: &Tracker, now: Duration) {
        if self.all_fit() {
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
        self.show(tracker, now);
        if self.all_fit() {
            for line in &self.lines {
                line.abandon();
            }
            self.bar.finish_and_clear();
        } else {
            // The lines show running executions, and none is left.
            let _ = self.screen.clear();
        }
    }

    fn line(&self, member: &Member, now: Duration) -> String {
        let name = without_joiners(&member.name);
        let name = console::truncate_str(&name, self.name_width, "…");
        let name = console::pad_str(&name, self.name_width, console::Alignment::Left, None);
        let state = match member.state {
            MemberState::Ended(outcome) => coloured(outcome),
            MemberState::Running => {
                let frame = SPINNER[(now.as_millis() / 100) as usize % SPINNER.len()];
                style(format!("{frame} running")).cyan().to_string()
            }
            MemberState::Waiting => style(format!("{:<9}", member.state.word())).dim().to_string(),
        };
        without_joiners(&format!("{name}  {state}{}", details(member, now)))
    }
}

/// The text without characters that change how the character before them is shown, such as joiners and skin tones.
/// Terminals disagree on the width of the combined character, and a line that is wider than expected breaks the
/// display.
fn without_joiners(text: &str) -> String {
    let joins = |c: &char| matches!(c, '\u{200d}' | '\u{fe0e}' | '\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}');
    text.chars().filter(|c| !joins(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_their_parts_follow_the_size_of_the_terminal() {
        let mut live = Live::on(ProgressDrawTarget::hidden(), 10, 23);
        let mut seen = Vec::new();
        for size in [(40, 120), (10, 120), (10, 24), (3, 24), (40, 120)] {
            live.fit(size, 10);
            seen.push((live.lines.len(), live.name_width, live.all_fit()));
        }
        assert_eq!(seen, [(10, 23, true), (6, 23, false), (6, 13, false), (1, 13, false), (10, 23, true)]);
    }

    #[test]
    fn a_name_of_joined_signs_is_as_wide_as_its_parts() {
        assert_eq!(without_joiners("a 👩\u{200d}👧 👍🏽 ❤\u{fe0f} é"), "a 👩👧 👍 ❤ é");
    }

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
