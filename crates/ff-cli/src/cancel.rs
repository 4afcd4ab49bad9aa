//! `ff cancel`: ends an execution or a flow.

use std::process::ExitCode;

use ff_core::{CancelOutcome, FlowState};

use crate::{cli::CancelArgs, connect::ConnectArgs, failure::CliError, out, target::Target, text};

pub(crate) async fn cancel(args: &CancelArgs, connect: &ConnectArgs) -> Result<ExitCode, CliError> {
    let target = Target::parse(&args.id)?;
    let backend = connect.open_server().await?;
    match target {
        Target::Execution(id) => match backend.cancel_execution(id, &args.reason).await? {
            CancelOutcome::Cancelled => out::text(&format!("execution {id} is cancelled")),
            CancelOutcome::AlreadyEnded(outcome) => {
                let why = format!("it has ended already: {outcome}; nothing was changed");
                return Err(CliError::failed(format!("execution {id}"), why));
            }
            other => return Err(CliError::failed(format!("execution {id}"), format!("unknown outcome: {other:?}"))),
        },
        Target::Flow(id) => {
            let cancellation = backend.cancel_flow(id, &args.reason).await?;
            let state = backend.describe_flow(id).await?.state;
            if cancellation.cancelled == 0 && state != FlowState::Cancelled {
                let why = format!("it has ended already: {state}; nothing was changed");
                return Err(CliError::failed(format!("flow {id}"), why));
            }
            let cancelled = text::count(cancellation.cancelled as usize, "execution");
            let before = cancellation.already_ended;
            out::text(&format!("flow {id} is cancelled: {cancelled} ended now, {before} had ended before"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
