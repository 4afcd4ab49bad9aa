//! The stop signal and the grace of a command.

use std::{fmt, str::FromStr, time::Duration};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// How long a command may take to end after the stop signal, before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// The longest grace, since a lease must last longer.
pub(crate) const LONGEST_GRACE: Duration = Duration::from_secs(3600);

/// A signal by its name, such as `INT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct StopSignal(Signal);

const NAMES: [(&str, Signal); 7] = [
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("HUP", Signal::HUP),
    ("QUIT", Signal::QUIT),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("KILL", Signal::KILL),
];

impl StopSignal {
    pub(crate) const fn signal(self) -> Signal {
        self.0
    }
}

impl Default for StopSignal {
    fn default() -> Self {
        Self(Signal::TERM)
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, signal)| *signal == self.0).map_or("TERM", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for StopSignal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, signal)| Self(*signal)).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| name).join(", ");
            format!("`{}` is not a signal that stops a command; expected one of {names}", text.escape_debug())
        })
    }
}

impl TryFrom<String> for StopSignal {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<StopSignal> for String {
    fn from(signal: StopSignal) -> Self {
        signal.to_string()
    }
}

/// Checks a grace.
///
/// # Errors
/// If it is out of range.
pub(crate) fn checked_grace(grace: Duration) -> Result<Duration, String> {
    if grace <= LONGEST_GRACE { Ok(grace) } else { Err(format!("expected 0s to {}s", LONGEST_GRACE.as_secs())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_name_is_accepted_with_and_without_the_prefix_sig() {
        for (name, signal) in NAMES {
            assert_eq!(name.parse::<StopSignal>().unwrap(), StopSignal(signal));
            assert_eq!(format!("SIG{name}").parse::<StopSignal>().unwrap().to_string(), name);
        }
        let error = "STOP".parse::<StopSignal>().unwrap_err();
        assert!(error.contains("`STOP`") && error.contains("TERM, INT"), "{error}");
    }
}
