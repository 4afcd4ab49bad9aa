//! One line of the doctor's report.

use console::style;
use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works with weaker guarantees, or it could not be determined.
    Warn,
    /// A guarantee of FlowFabric does not hold on this server.
    Bad,
}

/// One finding and its fix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) topic: &'static str,
    pub(super) says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(topic: &'static str, says: impl Into<String>) -> Self {
        Self { level: Level::Ok, topic, says: says.into(), fix: None }
    }

    pub(super) fn warn(topic: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warn, topic, says: says.into(), fix: Some(fix.into()) }
    }

    pub(super) fn bad(topic: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Bad, topic, says: says.into(), fix: Some(fix.into()) }
    }

    /// A finding for a fact that the server did not report.
    pub(super) fn unknown(topic: &'static str, why: &str, fix: impl Into<String>) -> Self {
        Self::warn(topic, format!("not known: {why}"), fix)
    }

    pub(super) fn to_text(&self) -> String {
        let level = match self.level {
            Level::Ok => style("ok  ").green(),
            Level::Warn => style("warn").yellow(),
            Level::Bad => style("bad ").red(),
        };
        let fix = self.fix.as_ref().map(|fix| format!("\n{:20}fix: {fix}", "")).unwrap_or_default();
        format!("{level}  {:<13} {}{fix}", self.topic, self.says)
    }
}
