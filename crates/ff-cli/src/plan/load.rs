//! Reads a flow file, whatever its format.

use std::{fs, io::Read, path::Path};

use super::Plan;
use crate::{
    failure::{CliError, one_line},
    flow_file, out, text, wfformat,
};

/// Larger files are refused.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Reads and checks a flow file; `-` is stdin. `time_scale` is for recorded workflows, which take 1 without it.
///
/// # Errors
/// One line with the file, the mistake and, if the format provides it, the place.
pub(crate) fn from_path(path: &Path, time_scale: Option<f64>) -> Result<Plan, CliError> {
    let plan = from_bytes(path, read(path)?, time_scale)?;
    for hint in &plan.hints {
        out::note(&format!("ff: {}: {}", path.display(), one_line(hint)));
    }
    Ok(plan)
}

/// Like [`from_path`], for content that was already read.
///
/// # Errors
/// As [`from_path`].
pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>, time_scale: Option<f64>) -> Result<Plan, CliError> {
    let about_it = |error: CliError| error.about(path.display());
    let text = text::decoded(bytes).map_err(|why| CliError::usage(path.display(), why))?;
    let plan = if is_wfformat(path, &text) {
        let scale = time_scale.unwrap_or(1.0);
        if !(scale.is_finite() && scale >= 0.0) {
            return Err(CliError::usage(format!("--time-scale {scale}"), "expected a number from 0 up, such as 0.01"));
        }
        wfformat::parse(&text, scale).map_err(about_it)?
    } else if time_scale.is_some() {
        return Err(CliError::usage(
            "--time-scale",
            format!(
                "{} is not a recorded workflow (WfFormat); commands cannot be sped up, leave it out",
                path.display()
            ),
        ));
    } else {
        flow_file::parse(&text).map_err(about_it)?
    };
    plan.check().map_err(about_it)?;
    Ok(plan)
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let shown = path.display().to_string();
    let shown = if shown.contains("://") { text::argument(&shown) } else { shown };
    let refuse = |why: String| CliError::usage(&shown, why);
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(fs::File::open(path).map_err(|error| refuse(format!("cannot be read: {error}")))?)
    };
    let read = source.take(FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(refuse(format!("it is larger than {} MiB; a flow has at most 1000 executions", FILE_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Decides by a known extension, otherwise by content: JSON that contains a workflow.
fn is_wfformat(path: &Path, text: &str) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("yaml" | "yml") => false,
        _ => text.trim_start().starts_with('{') && text.contains("\"workflow\""),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
