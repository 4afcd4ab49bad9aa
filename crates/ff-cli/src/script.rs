//! `ff script`: this program's Lua library, and the one on the server.

use std::process::ExitCode;

use ff_script::{
    SOURCE,
    assemble::{ABI_MAJOR, LIBRARY, VERSION},
    host::ScriptHost,
    loader::{self, LibraryState},
    operations::Operations,
    permissions::{self, Role},
};
use ff_valkey::ValkeyHost;

use crate::{
    cli::ScriptCommand,
    connect::ConnectArgs,
    failure::{CliError, code},
    out, text,
};

pub(crate) async fn script(command: &ScriptCommand, connect: &ConnectArgs) -> Result<ExitCode, CliError> {
    match command {
        ScriptCommand::Print { digest: false } => out::text(SOURCE),
        ScriptCommand::Print { digest: true } => {
            let digest = loader::digest_of_source();
            out::text(&format!("{LIBRARY} version {VERSION} ABI {ABI_MAJOR} digest {digest}"));
        }
        ScriptCommand::Load { replace } => {
            let host = ValkeyHost::connect(connect.config()?).await?;
            load(&host, *replace).await?;
            if let Some(wanted) = host.config().partition_count {
                let count = Operations::join_deployment(&host, Some(wanted)).await?;
                out::text(&format!("the deployment has {}", text::count(count.get().into(), "partition")));
            }
        }
        ScriptCommand::Acl { roles } if roles.is_empty() => {
            let mut table = text::table_of(["role", "permissions"]);
            for role in Role::ALL {
                table.add_row([role.name(), purpose(role)]);
            }
            out::text(&format!(
                "{}\n\n`ff script acl ROLE` prints the rules of a role, or of several",
                table.trim_fmt()
            ));
        }
        ScriptCommand::Acl { roles } => out::text(&permissions::acl_rules(roles).join(" ")),
        ScriptCommand::Check => {
            return match connect.embedded()? {
                Some(embedded) => check(&**embedded.host(), "in this process").await,
                None => check(&ValkeyHost::connect(connect.config()?).await?, "on the server").await,
            };
        }
    }
    Ok(ExitCode::SUCCESS)
}

const fn purpose(role: Role) -> &'static str {
    match role {
        Role::Subscriber => "receives completions, and measures its lag",
        Role::Submitter => "submits, describes and cancels",
        Role::Worker => "runs executions and the engine, and receives completions",
        Role::Administrator => "loads the library, records the partition count, runs ff doctor",
    }
}

async fn load(host: &ValkeyHost, replace: bool) -> Result<(), CliError> {
    let before = loader::inspect(host).await;
    if replace && matches!(before, Ok(LibraryState::Different { .. })) {
        host.load_library(SOURCE).await?;
        out::text(&format!("{LIBRARY} version {VERSION} is loaded; it replaced one with a different text"));
        return Ok(());
    }
    match loader::ensure_loaded(host).await? {
        LibraryState::Absent => out::text(&format!("{LIBRARY} version {VERSION} is loaded; there was none")),
        LibraryState::Older { version } => {
            out::text(&format!("{LIBRARY} version {VERSION} is loaded; it replaced version {version}"));
        }
        LibraryState::Newer { version } => {
            out::text(&format!("{LIBRARY} stays at the server's version {version}; this program's {VERSION} is older"));
        }
        _ => out::text(&format!("{LIBRARY} version {VERSION} was there already")),
    }
    Ok(())
}

/// Whether this program can use the library on the server.
async fn check(host: &dyn ScriptHost, place: &str) -> Result<ExitCode, CliError> {
    let state = loader::inspect(host).await?;
    out::text(&format!("{LIBRARY} {place}: {state}"));
    Ok(match state {
        LibraryState::Same | LibraryState::Newer { .. } => ExitCode::SUCCESS,
        _ => ExitCode::from(code::FAILED),
    })
}
