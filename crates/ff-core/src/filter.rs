//! The filter of a subscription. Pure: the backend provides the values.

use crate::{CompletionPayload, Namespace};

/// A conjunction of conditions on a completion. [`ScannerFilter::NOOP`] passes all completions.
///
/// Filters select events; they do not restrict access: a process that may subscribe can read the events of all tenants.
///
/// ```
/// # use ff_core::{Namespace, ScannerFilter};
/// let filter = ScannerFilter::new()
///     .namespace(Namespace::new("tenant-a")?)
///     .instance_tag("instance", "blue");
/// assert!(!filter.is_noop());
/// # Ok::<(), ff_core::EngineError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ScannerFilter {
    /// The namespace that the execution must belong to.
    pub namespace: Option<Namespace>,
    /// A tag, key and value, that the execution must carry.
    pub instance_tag: Option<(String, String)>,
}

impl ScannerFilter {
    /// The filter that passes everything.
    pub const NOOP: Self = Self { namespace: None, instance_tag: None };

    /// The filter that passes everything, as a start to add conditions to.
    #[must_use]
    pub const fn new() -> Self {
        Self::NOOP
    }

    /// Passes only executions of this namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Passes only executions whose tag `key` is exactly `value`.
    #[must_use]
    pub fn instance_tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.instance_tag = Some((key.into(), value.into()));
        self
    }

    /// Whether everything passes.
    #[must_use]
    pub const fn is_noop(&self) -> bool {
        self.namespace.is_none() && self.instance_tag.is_none()
    }

    /// Whether the filter passes an execution with this namespace and, under the filter's tag key, this value.
    ///
    /// `None` means that the execution does not have the attribute. Do not pass `None` for an attribute that could not
    /// be read: keep the event and read the attribute again.
    #[must_use]
    pub fn matches(&self, namespace: Option<&str>, tag_value: Option<&str>) -> bool {
        let namespace_passes = self.namespace.as_ref().is_none_or(|wanted| namespace == Some(wanted.as_str()));
        let tag_passes = self.instance_tag.as_ref().is_none_or(|(_, wanted)| tag_value == Some(wanted.as_str()));
        namespace_passes && tag_passes
    }

    /// Whether the filter passes a completion that carries its own namespace and tags.
    #[must_use]
    pub fn matches_completion(&self, completion: &CompletionPayload) -> bool {
        let tag_value = self.instance_tag.as_ref().and_then(|(key, _)| completion.tags.get(key));
        self.matches(completion.namespace.as_ref().map(Namespace::as_str), tag_value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter() -> ScannerFilter {
        ScannerFilter::new().namespace(Namespace::new("a").unwrap()).instance_tag("k", "v")
    }

    #[test]
    fn everything_passes_the_noop_filter() {
        assert!(ScannerFilter::NOOP.is_noop() && ScannerFilter::new().is_noop());
        assert!(ScannerFilter::NOOP.matches(None, None));
        assert!(ScannerFilter::NOOP.matches(Some("a"), Some("v")));
    }

    #[test]
    fn both_conditions_must_hold() {
        assert!(filter().matches(Some("a"), Some("v")));
        assert!(!filter().matches(Some("b"), Some("v")));
        assert!(!filter().matches(Some("a"), Some("w")));
    }

    #[test]
    fn an_execution_without_the_value_does_not_pass() {
        assert!(!filter().matches(None, Some("v")));
        assert!(!filter().matches(Some("a"), None));
    }
}
