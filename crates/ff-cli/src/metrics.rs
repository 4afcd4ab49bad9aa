//! Prometheus metrics of long-running commands.

use std::net::SocketAddr;

use metrics_exporter_prometheus::PrometheusBuilder;

use crate::failure::CliError;

/// Serves this process's metrics over HTTP at `address`, if one is given.
pub(crate) fn serve(address: Option<SocketAddr>) -> Result<(), CliError> {
    let Some(address) = address else { return Ok(()) };
    let served = PrometheusBuilder::new().with_http_listener(address).install();
    served.map_err(|error| {
        // The library's words about the listener are left out.
        let error = error.to_string();
        let why = error.rsplit_once(": ").map_or(error.as_str(), |(_, why)| why);
        CliError::usage(format!("--metrics {address}"), format!("it cannot listen there: {why}"))
    })
}
