//! `ff describe`: shows an execution or a flow.

use std::process::ExitCode;

use bytes::Bytes;
use comfy_table::Table;
use ff_core::{ExecutionSnapshot, FlowSnapshot};
use serde::Serialize;

use crate::{
    cause,
    cli::DescribeArgs,
    connect::ConnectArgs,
    failure::{CliError, one_line},
    out,
    target::Target,
    text,
};

pub(crate) async fn describe(args: &DescribeArgs, connect: &ConnectArgs) -> Result<ExitCode, CliError> {
    let target = Target::parse(&args.id)?;
    let backend = connect.open_server().await?;
    match target {
        Target::Execution(id) => {
            let execution = backend.describe_execution(id).await?;
            if args.json {
                let _: out::Reader = out::json(&WithResult::of(&execution));
            } else {
                out::text(&execution_text(&execution));
            }
        }
        Target::Flow(id) => {
            let flow = backend.describe_flow(id).await?;
            if args.json {
                let _: out::Reader = out::json(&flow);
            } else {
                out::text(&flow_text(&flow));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A snapshot with its cause and its result, which it does not serialise itself: the text of a UTF-8 result, otherwise
/// only its length.
#[derive(Serialize)]
struct WithResult<'a> {
    #[serde(flatten)]
    execution: &'a ExecutionSnapshot,
    cause: Option<String>,
    result: Option<&'a str>,
    result_len: Option<usize>,
}

impl<'a> WithResult<'a> {
    fn of(execution: &'a ExecutionSnapshot) -> Self {
        let result = execution.result.as_deref();
        Self {
            execution,
            cause: cause(execution),
            result: result.and_then(|bytes| std::str::from_utf8(bytes).ok()),
            result_len: result.map(<[u8]>::len),
        }
    }
}

/// Why it did not succeed, in the words of `ff run`.
fn cause(execution: &ExecutionSnapshot) -> Option<String> {
    let (end, said) = (execution.reason.as_deref()?, execution.last_error.as_deref());
    Some(cause::in_words(end, said, execution.max_attempts, execution.attempt))
}

struct Fields(Table);

impl Fields {
    fn add(&mut self, name: &str, value: impl ToString) {
        self.0.add_row([name.to_owned(), text::escaped(&value.to_string())]);
    }

    fn add_some(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }
}

fn execution_text(execution: &ExecutionSnapshot) -> String {
    let mut fields = Fields(text::table());
    fields.add("execution", execution.execution_id);
    fields.add("name", &execution.name);
    fields.add("state", execution.state);
    fields.add_some("flow", execution.flow_id);
    fields.add("namespace", &execution.namespace);
    fields.add("lane", &execution.lane);
    fields.add("priority", execution.priority);
    if !execution.tags.is_empty() {
        let tags: Vec<_> = execution.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        fields.add("tags", tags.join(" "));
    }
    match cause(execution) {
        Some(cause) => fields.add("cause", one_line(&cause)),
        None => fields.add_some("last error", execution.last_error.as_deref().map(one_line)),
    }
    let failures =
        format!("{} ({} of at most {} failed)", execution.attempt, execution.failures, execution.max_attempts);
    fields.add("attempts", failures);
    if execution.unmet_needs > 0 {
        fields.add("waits for", text::count(execution.unmet_needs as usize, "execution"));
    }
    fields.add_some("worker", execution.worker.as_ref());
    fields.add("created", text::timestamp(execution.created_at_ms));
    fields.add_some("started", execution.started_at_ms.map(text::timestamp));
    fields.add_some("ended", execution.completed_at_ms.map(text::timestamp));
    let mut shown = fields.0.trim_fmt();
    if let Some(result) = &execution.result {
        shown.push_str(&format!("\n\nresult, {}:\n{}", text::bytes(result.len() as u64), printable(result)));
    }
    shown
}

/// A result for a terminal: active characters other than line breaks and tabs are left out.
fn printable(result: &Bytes) -> String {
    let result = String::from_utf8_lossy(result);
    result.chars().filter(|c| !text::is_active(*c) || matches!(c, '\n' | '\t')).collect()
}

fn flow_text(flow: &FlowSnapshot) -> String {
    let mut fields = Fields(text::table());
    fields.add("flow", flow.flow_id);
    fields.add_some("name", flow.name.as_ref());
    fields.add("namespace", &flow.namespace);
    let requested = if flow.cancel_requested { " (cancellation requested)" } else { "" };
    fields.add("state", format!("{}{requested}", flow.state));
    fields.add("created", text::timestamp(flow.created_at_ms));
    fields.add_some("ended", flow.completed_at_ms.map(text::timestamp));
    let mut members = text::table_of(["name", "state", "execution"]);
    for member in &flow.members {
        members.add_row([text::escaped(&member.name), member.state.to_string(), member.execution_id.to_string()]);
    }
    format!("{}\n\n{}", fields.0.trim_fmt(), members.trim_fmt())
}

#[cfg(test)]
mod tests {
    use ff_core::{ExecutionId, LaneId, LifecyclePhase, Namespace, PartitionCount, PublicState};

    use super::*;

    fn execution() -> ExecutionSnapshot {
        let id = ExecutionId::generate_solo(PartitionCount::DEFAULT);
        let (namespace, lane) = (Namespace::default_namespace(), LaneId::default_lane());
        ExecutionSnapshot::new(id, "fetch".into(), namespace, lane, LifecyclePhase::Terminal, PublicState::Success)
    }

    #[test]
    fn the_cause_reads_as_in_a_run_and_counts_attempts_only_if_there_could_be_more() {
        let mut execution = execution();
        (execution.reason, execution.last_error) = (Some("attempts_exhausted".into()), Some("exit status 3".into()));
        (execution.attempt, execution.max_attempts) = (1, 1);
        let shown = execution_text(&execution);
        assert!(shown.contains("exit status 3") && !shown.contains("attempts_exhausted"), "{shown}");
        assert_eq!(serde_json::to_value(WithResult::of(&execution)).unwrap()["cause"], "exit status 3");
        (execution.attempt, execution.max_attempts) = (3, 3);
        assert!(execution_text(&execution).contains("exit status 3 (after 3 attempts)"));
    }

    #[test]
    fn a_text_result_is_shown_as_text_and_others_by_their_length() {
        let mut execution = execution();
        execution.result = Some(Bytes::from_static(b"done\x1b[2J\n"));
        assert!(execution_text(&execution).contains("result, 9 B:\ndone[2J"));
        let json = serde_json::to_value(WithResult::of(&execution)).unwrap();
        assert_eq!((&json["result"], &json["name"]), (&"done\u{1b}[2J\n".into(), &"fetch".into()));
        execution.result = Some(Bytes::from_static(&[0xff, 0xfe]));
        let json = serde_json::to_value(WithResult::of(&execution)).unwrap();
        assert_eq!((&json["result"], &json["result_len"]), (&serde_json::Value::Null, &2.into()));
    }
}
