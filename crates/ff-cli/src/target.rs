//! Parses the id of an execution or of a flow from the command line.

use ff_core::{ExecutionId, FlowId};

use crate::{failure::CliError, text};

/// What an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Execution(ExecutionId),
    Flow(FlowId),
}

impl Target {
    pub(crate) fn parse(given: &str) -> Result<Self, CliError> {
        if given.starts_with("{fp:") {
            return Ok(Self::Execution(given.parse()?));
        }
        given.parse().map(Self::Flow).map_err(|_| {
            let shown = text::argument(given);
            let expected = "expected an execution id such as {fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b, or a flow id, \
                            which is the uuid alone";
            CliError::usage(format!("id `{shown}`"), expected)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_id_are_parsed_and_others_are_refused_with_the_text() {
        let uuid = "0192f0c1-2b3c-7d4e-8f50-617283940a1b";
        assert!(matches!(Target::parse(uuid).unwrap(), Target::Flow(_)));
        assert!(matches!(Target::parse(&format!("{{fp:7}}:{uuid}")).unwrap(), Target::Execution(_)));
        for bad in ["7", "", "{fp:7}", "{fp:x}:0192f0c1-2b3c-7d4e-8f50-617283940a1b"] {
            let error = Target::parse(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")) && error.contains("expected"), "{error}");
        }
    }
}
