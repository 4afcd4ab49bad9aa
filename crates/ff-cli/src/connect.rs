//! Which server, and as whom.

use std::{fs, path::PathBuf, sync::Arc};

use clap::Args;
use ff_core::{EngineBackend, PartitionCount};
use ff_valkey::{ValkeyBackend, ValkeyConfig};

use crate::failure::CliError;

#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectArgs {
    /// The server: redis://user:password@host:port, rediss://… with TLS, valkey://…, or unix:///path
    #[arg(long, env = "FF_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// The user, in place of the one in the URL
    #[arg(long, env = "FF_USERNAME", global = true, value_name = "NAME", requires = "password_file")]
    username: Option<String>,
    /// A file that holds the password, in place of the one in the URL
    #[arg(long, env = "FF_PASSWORD_FILE", global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The certificate authority to trust (PEM) [default: the system's]
    #[arg(long, env = "FF_CA", global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A client certificate (PEM)
    #[arg(long, env = "FF_CERT", global = true, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The client certificate's key (PEM)
    #[arg(long, env = "FF_KEY", global = true, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// How many partitions the deployment has; recorded on first use, checked later
    #[arg(long, env = "FF_PARTITIONS", global = true, value_name = "N", value_parser = parse_partitions)]
    partitions: Option<PartitionCount>,
}

fn parse_partitions(text: &str) -> Result<PartitionCount, String> {
    let expected = || format!("expected a number from 1 to {}", PartitionCount::MAX);
    let count: u16 = text.parse().map_err(|_| expected())?;
    PartitionCount::new(count).map_err(|_| expected())
}

impl ConnectArgs {
    /// What the arguments say, checked as far as it can be without a server.
    pub(crate) fn config(&self) -> Result<ValkeyConfig, CliError> {
        let url = self
            .url
            .as_deref()
            .filter(|url| !url.is_empty())
            .ok_or_else(|| CliError::usage("no server is named", "give --url redis://host:6379 or set FF_URL"))?;
        let mut config = ValkeyConfig::from_url(url)?;
        if let Some(path) = &self.password_file {
            let password = fs::read_to_string(path)
                .map_err(|error| CliError::usage(path.display(), format!("the password cannot be read: {error}")))?;
            let username = self.username.clone().or_else(|| config.username.clone());
            config = config.with_credentials(username, password.trim_end_matches(['\r', '\n']));
        }
        if let Some(ca) = &self.ca {
            config = config.with_ca_file(ca);
        }
        if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            config = config.with_client_certificate(certificate, key);
        }
        config.partition_count = self.partitions.or(config.partition_count);
        Ok(config)
    }

    /// Connects; the library is loaded and the deployment's record checked when this returns.
    pub(crate) async fn open(&self) -> Result<Arc<dyn EngineBackend>, CliError> {
        Ok(Arc::new(ValkeyBackend::connect_with(self.config()?).await?))
    }
}
