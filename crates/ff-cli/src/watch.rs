//! `ff watch`: prints completions as they are committed, until it is stopped.

use std::{future, process::ExitCode, time::Duration};

use console::style;
use ff_core::{
    CompletionPayload, Cursor, Frame, Gap, Outcome, ScannerFilter, Start, SubscribeOptions, SubscriptionScope,
};
use futures::StreamExt;
use serde::Serialize;

use crate::{
    cli::WatchArgs,
    connect::ConnectArgs,
    cursor_file::CursorFile,
    failure::{CliError, one_line},
    metrics,
    out::{self, Reader},
    plan::{NAME_TAG, RESERVED_TAGS},
    signals::Interrupts,
    text,
};

pub(crate) async fn watch(args: WatchArgs, connect: &ConnectArgs) -> Result<ExitCode, CliError> {
    let mut interrupts = Interrupts::listen()?;
    metrics::serve(args.metrics)?;
    let mut filter = ScannerFilter::new();
    filter.namespace = args.namespace;
    filter.instance_tag = args.tag;
    let file = args.cursor_file.map(CursorFile::new);
    let saved = file.as_ref().map(CursorFile::read).transpose()?.flatten();
    let scope = if args.solo { SubscriptionScope::FlowsAndSolo } else { SubscriptionScope::Flows };
    let start = saved.map_or(args.from, Start::After);
    let options = SubscribeOptions::new().filter(filter.clone()).scope(scope).start(start).name("watch");
    let subscribing = async { Ok(connect.open_server().await?.subscribe(&options).await?) };
    let mut frames = interrupts.or(subscribing).await?;
    // From the start, so that what could not be written is shown again even if no cursor follows this one.
    if let Some(file) = &file {
        file.write(&frames.cursor())?;
    }
    out::note(&format!("ff: watching {}; Ctrl-C ends it", described(&filter)));
    let reader_gone = out::reader_gone();
    tokio::pin!(reader_gone);
    let end = time_is_up(args.duration);
    tokio::pin!(end);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            _ = interrupts.next() => None,
            () = &mut end => None,
            // Detects a closed reader even while there is nothing to write.
            () = &mut reader_gone => return Ok(ExitCode::SUCCESS),
        };
        let reader = match frame {
            None => break,
            Some(Frame::Completion(completion)) => {
                left -= 1;
                if args.json { out::json(&completion) } else { out::line(&line(&completion)) }
            }
            Some(Frame::Gap(gap)) if args.json => out::json(&Missing { gap }),
            Some(Frame::Gap(gap)) => out::line(&format!("{}  {gap}", style("missing").red())),
            Some(Frame::Checkpoint(cursor)) => save(file.as_ref(), &cursor)?,
            Some(_) => Reader::Listening,
        };
        if reader == Reader::Gone {
            // The saved cursor is not moved: completions that were not written or not read are shown again.
            return Ok(ExitCode::SUCCESS);
        }
    }
    let cursor = frames.close().await;
    let _: Reader = save(file.as_ref(), &cursor)?;
    Ok(ExitCode::SUCCESS)
}

/// Saves a cursor after the lines before it were printed and synced.
fn save(file: Option<&CursorFile>, cursor: &Cursor) -> Result<Reader, CliError> {
    let Some(file) = file else { return Ok(Reader::Listening) };
    let written = out::sync();
    if written == Reader::Listening {
        file.write(cursor)?;
    }
    Ok(written)
}

/// A gap as a line of JSON.
#[derive(Serialize)]
struct Missing {
    gap: Gap,
}

async fn time_is_up(after: Option<Duration>) {
    match after {
        Some(after) => tokio::time::sleep(after).await,
        None => future::pending().await,
    }
}

fn described(filter: &ScannerFilter) -> String {
    let namespace = filter.namespace.as_ref().map(|namespace| format!("namespace {namespace}"));
    let tag = filter.instance_tag.as_ref().map(|(key, value)| format!("tag {key}={value}"));
    match (namespace, tag) {
        (None, None) => "all completions".to_owned(),
        (Some(one), None) | (None, Some(one)) => format!("completions of {one}"),
        (Some(namespace), Some(tag)) => format!("completions of {namespace} with {tag}"),
    }
}

/// An outcome in the colour that people expect of it.
pub(crate) fn coloured(outcome: Outcome) -> String {
    let word = format!("{outcome:<9}");
    match outcome {
        Outcome::Success => style(word).green(),
        Outcome::Failed | Outcome::Expired => style(word).red(),
        Outcome::Cancelled | Outcome::Skipped => style(word).yellow(),
        _ => style(word),
    }
    .to_string()
}

fn line(completion: &CompletionPayload) -> String {
    let mut line = String::new();
    if let Some(at) = completion.produced_at_ms {
        line.push_str(&text::timestamp(at));
        line.push_str("  ");
    }
    line.push_str(&coloured(completion.outcome));
    let mut add = |part: &str| {
        line.push_str("  ");
        line.push_str(part);
    };
    if let Some(namespace) = &completion.namespace {
        add(namespace.as_str());
    }
    if let Some(name) = completion.tags.get(NAME_TAG) {
        add(&text::escaped(name));
    }
    add(&completion.execution_id.to_string());
    if completion.attempt > 1 {
        add(&format!("attempt {}", completion.attempt));
    }
    for (key, value) in completion.tags.iter().filter(|(key, _)| !key.starts_with(RESERVED_TAGS)) {
        add(&text::escaped(&format!("{key}={value}")));
    }
    if let Some(reason) = &completion.reason {
        add(&one_line(reason));
    }
    line
}

#[cfg(test)]
mod tests {
    use ff_core::{ExecutionId, Namespace, PartitionCount, Tags};

    use super::*;

    #[test]
    fn a_completion_is_one_line_with_its_main_attributes() {
        let id = ExecutionId::generate_solo(PartitionCount::DEFAULT);
        let mut completion = CompletionPayload::new(id, None, Outcome::Failed);
        completion.namespace = Some(Namespace::new("team-a").unwrap());
        completion.tags = Tags::new([(NAME_TAG, "fetch"), ("ff.run", "1"), ("step", "two")]).unwrap();
        completion.attempt = 2;
        completion.reason = Some("exit status 1:\nboom".into());
        let line = console::strip_ansi_codes(&line(&completion)).into_owned();
        assert_eq!(line, format!("failed     team-a  fetch  {id}  attempt 2  step=two  exit status 1: boom"));
    }
}
