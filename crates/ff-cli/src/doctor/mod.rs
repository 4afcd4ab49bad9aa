//! `ff doctor`: finds settings of a server that endanger the guarantees of FlowFabric, each with a fix. Changes
//! nothing.

mod checks;
mod facts;
mod finding;
mod refusals;

use std::process::ExitCode;

use ff_valkey::ValkeyHost;

use self::{
    facts::ServerFacts,
    finding::{Finding, Level},
};
use crate::{
    cli::DoctorArgs,
    connect::ConnectArgs,
    failure::{CliError, code},
    out, text,
};

pub(crate) async fn doctor(args: &DoctorArgs, connect: &ConnectArgs) -> Result<ExitCode, CliError> {
    // The host alone: connecting as a backend would load the library.
    let host = ValkeyHost::connect(connect.config()?).await?;
    let findings = checks::all(&ServerFacts::gather(&host, args.sample).await);
    for finding in &findings {
        let _: out::Reader = if args.json { out::json(finding) } else { out::line(&finding.to_text()) };
    }
    let of_level = |level| findings.iter().filter(|finding: &&Finding| finding.level == level).count();
    let (bad, warnings) = (of_level(Level::Bad), of_level(Level::Warn));
    if !args.json {
        out::text(&format!("\n{}, {}", text::count(bad, "error"), text::count(warnings, "warning")));
    }
    Ok(if bad > 0 { ExitCode::from(code::FAILED) } else { ExitCode::SUCCESS })
}
