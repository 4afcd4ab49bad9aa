//! What the views show of a member beside its name and its state.

use std::time::Duration;

use ff_core::Outcome;

use super::tracker::{Member, MemberState};
use crate::{failure::one_line, text};

/// The time, attempts and reason of a member, if it has any.
pub(super) fn details(member: &Member, now: Duration) -> String {
    let mut details = String::new();
    if member.started.is_some() {
        details.push_str(&format!("  {}", text::span(member.took(now))));
    }
    if member.attempts > 1 {
        details.push_str(&format!("  {} attempts", member.attempts));
    }
    if let Some(reason) = &member.reason
        && member.state != MemberState::Ended(Outcome::Success)
    {
        details.push_str(&format!("  {}", one_line(reason)));
    }
    details
}
