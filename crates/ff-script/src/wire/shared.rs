//! Keeps values that many events have in common in memory once.

use std::sync::Arc;

use ff_core::{LaneId, Namespace, Tags};

use super::WireError;

/// How many different values of one kind are remembered: consecutive events mostly have few different ones.
const REMEMBERED: usize = 4;
/// Longer texts are not remembered.
const LONGEST: usize = 4096;

/// The values of the latest events.
#[derive(Debug, Default)]
pub(super) struct RecentValues {
    namespaces: Recent<Namespace>,
    lanes: Recent<LaneId>,
    reasons: Recent<Arc<str>>,
    tags: Recent<Tags>,
}

impl RecentValues {
    pub(super) fn namespace(&mut self, name: &str) -> Result<Namespace, WireError> {
        self.namespaces.of(name, || Ok(Namespace::new(name)?))
    }

    pub(super) fn lane(&mut self, name: &str) -> Result<LaneId, WireError> {
        self.lanes.of(name, || Ok(LaneId::new(name)?))
    }

    pub(super) fn reason(&mut self, reason: &str) -> Result<Arc<str>, WireError> {
        self.reasons.of(reason, || Ok(reason.into()))
    }

    /// The tags of this JSON object.
    pub(super) fn tags(&mut self, json: &str) -> Result<Tags, WireError> {
        self.tags.of(json, || Ok(Tags::recorded(serde_json::from_str(json)?)))
    }
}

/// A few values, found by the texts that they were parsed from.
#[derive(Debug)]
struct Recent<T> {
    known: Vec<(Box<str>, T)>,
    oldest: usize,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { known: Vec::new(), oldest: 0 }
    }
}

impl<T: Clone> Recent<T> {
    fn of(&mut self, text: &str, make: impl FnOnce() -> Result<T, WireError>) -> Result<T, WireError> {
        if let Some((_, value)) = self.known.iter().find(|(known, _)| **known == *text) {
            return Ok(value.clone());
        }
        let value = make()?;
        if text.len() <= LONGEST {
            self.remember(text, value.clone());
        }
        Ok(value)
    }

    fn remember(&mut self, text: &str, value: T) {
        if self.known.len() < REMEMBERED {
            self.known.push((text.into(), value));
        } else {
            self.known[self.oldest] = (text.into(), value);
            self.oldest = (self.oldest + 1) % REMEMBERED;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_name_shares_its_memory() {
        let mut shared = RecentValues::default();
        let (first, again) = (shared.namespace("a").unwrap(), shared.namespace("a").unwrap());
        assert!(std::ptr::eq(first.as_str(), again.as_str()));
        assert_eq!(shared.namespace("b").unwrap().as_str(), "b");
    }

    #[test]
    fn the_number_and_the_length_of_remembered_values_are_bounded() {
        let mut shared = RecentValues::default();
        for number in 0..100 {
            let json = format!("{{\"k\":\"{number}\"}}");
            assert_eq!(shared.tags(&json).unwrap().get("k"), Some(&*number.to_string()));
        }
        assert_eq!(shared.tags.known.len(), REMEMBERED);
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(&*shared.reason(&long).unwrap(), long);
        assert!(shared.reasons.known.is_empty());
    }

    #[test]
    fn an_invalid_value_is_refused_again() {
        let mut shared = RecentValues::default();
        for _ in 0..2 {
            assert!(shared.lane("a b").is_err() && shared.tags("{\"k\":7}").is_err());
        }
    }
}
