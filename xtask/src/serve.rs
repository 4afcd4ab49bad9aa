//! Commands that run a private server while they last.

use anyhow::{Context, Result};
use ff_testserver::{Builder, TestServer};
use tokio::signal;

use crate::provision::{self, Chosen};
use crate::run::Cargo;

/// Runs `ff demo` on a private server.
pub(crate) fn demo(args: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let server = runtime.block_on(builder()?.build())?;
    let outcome = Cargo::new("run")
        .args(["--quiet", "-p", "ff-cli", "--bin", "ff", "--", "demo", "--url", server.url()])
        .args(args)
        .run();
    drop(server);
    outcome
}

/// Runs a private server until Ctrl-C.
pub(crate) fn server(args: Vec<String>) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let builder = args.into_iter().fold(builder()?, Builder::arg);
    runtime.block_on(async {
        let server = builder.build().await?;
        println!("{}", server.url());
        eprintln!("Ctrl-C stops it");
        signal::ctrl_c().await.context("waiting for Ctrl-C")?;
        drop(server);
        Ok(())
    })
}

fn builder() -> Result<Builder> {
    Ok(match provision::provide()? {
        Chosen::Shared => TestServer::builder(),
        Chosen::Docker { image, .. } => TestServer::builder().image(image),
        Chosen::Process { program } => TestServer::builder().program(program),
    })
}
