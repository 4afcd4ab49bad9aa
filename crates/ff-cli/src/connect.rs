//! The options for the server and its user; without a server, flows run in this process.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use ff_core::{EngineBackend, PartitionCount};
use ff_embedded::EmbeddedBackend;
use ff_valkey::{ValkeyBackend, ValkeyConfig};

use crate::{failure::CliError, out, text};

/// Instead of a URL: run in this process, even if the environment names a server.
const EMBEDDED: &str = "embedded:";
const NAME_A_SERVER: &str = "give --url redis://host:6379 or set FF_URL";

#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectArgs {
    /// The server: redis://user:password@host:port, rediss://… with TLS, valkey://…, unix:///path, or
    /// redis-sentinel://host:port,host:port/service; without one, or with `embedded:`, flows run in this process
    #[arg(long, env = "FF_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// The user, instead of the one in the URL
    #[arg(
        long,
        env = "FF_USERNAME",
        global = true,
        hide_short_help = true,
        value_name = "NAME",
        requires = "password_file"
    )]
    username: Option<String>,
    /// A file that contains the password, instead of the one in the URL
    #[arg(long, env = "FF_PASSWORD_FILE", global = true, hide_short_help = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The certificate authority to trust (PEM) [default: the system's]
    #[arg(long, env = "FF_CA", global = true, hide_short_help = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The host name that the server's certificate must match [default: the host of the URL]
    #[arg(long, env = "FF_TLS_SERVER_NAME", global = true, hide_short_help = true, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// A client certificate (PEM)
    #[arg(long, env = "FF_CERT", global = true, hide_short_help = true, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The client certificate's key (PEM)
    #[arg(long, env = "FF_KEY", global = true, hide_short_help = true, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// How many partitions the deployment has; recorded on first use, checked later
    #[arg(long, env = "FF_PARTITIONS", global = true, hide_short_help = true, value_name = "N", value_parser = parse_partitions)]
    partitions: Option<PartitionCount>,
}

fn parse_partitions(text: &str) -> Result<PartitionCount, String> {
    let expected = || format!("expected a number from 1 to {}", PartitionCount::MAX);
    let count: u16 = text.parse().map_err(|_| expected())?;
    PartitionCount::new(count).map_err(|_| expected())
}

/// Where the flows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Location<'a> {
    /// In this process, because no server is named.
    Unnamed,
    /// In this process, as requested.
    Embedded,
    Server(&'a str),
}

impl ConnectArgs {
    fn location(&self) -> Location<'_> {
        match self.url.as_deref() {
            None | Some("") => Location::Unnamed,
            Some(EMBEDDED) => Location::Embedded,
            Some(url) => Location::Server(url),
        }
    }

    /// Whether flows are stored in this process and end with it.
    pub(crate) fn is_embedded(&self) -> bool {
        !matches!(self.location(), Location::Server(_))
    }

    /// The configuration for the server, checked as far as possible without a connection.
    ///
    /// # Errors
    /// If no server is named, or an option is wrong.
    pub(crate) fn config(&self) -> Result<ValkeyConfig, CliError> {
        let url = match self.location() {
            Location::Server(url) => url,
            Location::Unnamed => return Err(needs_a_server("no server is named")),
            Location::Embedded => return Err(needs_a_server(format!("`{EMBEDDED}` is not a server"))),
        };
        let mut config = ValkeyConfig::from_url(url)?;
        if let Some(path) = &self.password_file {
            let refuse = |why: String| CliError::usage(path.display(), format!("the password cannot be read: {why}"));
            let bytes = text::small_file(path).map_err(|error| refuse(error.to_string()))?;
            let password = text::decoded(bytes).map_err(|why| refuse(why.to_owned()))?;
            let username = self.username.clone().or_else(|| config.username.clone());
            config = config.credentials(username, password.trim_end_matches(['\r', '\n']));
        }
        if let Some(ca) = &self.ca {
            config = config.ca_file(ca);
        }
        if let Some(name) = &self.tls_server_name {
            config = config.tls_server_name(name);
        }
        if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            config = config.client_certificate(certificate, key);
        }
        config.partition_count = self.partitions.or(config.partition_count);
        Ok(config)
    }

    /// Connects to the named server. When this returns, the library is loaded and the deployment record is checked.
    pub(crate) async fn open_server(&self) -> Result<Arc<dyn EngineBackend>, CliError> {
        Ok(Arc::new(ValkeyBackend::connect_with(self.config()?).await?))
    }

    /// Connects to the named server, or starts the backend in this process and prints a note.
    pub(crate) async fn open(&self) -> Result<Arc<dyn EngineBackend>, CliError> {
        match self.embedded()? {
            Some(backend) => Ok(Arc::new(backend)),
            None => self.open_server().await,
        }
    }

    /// The backend in this process, with a note on stderr, unless a server is named.
    ///
    /// # Errors
    /// If an option is given that applies only to a server.
    pub(crate) fn embedded(&self) -> Result<Option<EmbeddedBackend>, CliError> {
        let why = match self.location() {
            Location::Server(_) => return Ok(None),
            Location::Unnamed => "no --url and no FF_URL",
            Location::Embedded => "--url embedded",
        };
        if let Some(option) = self.option_for_a_server() {
            return Err(CliError::usage(option, format!("it applies to a server, but none is named; {NAME_A_SERVER}")));
        }
        let mut builder = EmbeddedBackend::builder();
        if let Some(partitions) = self.partitions {
            builder = builder.partition_count(partitions);
        }
        let backend = builder.build()?;
        out::note(&format!("ff: {why}: running in this process, nothing outlives it"));
        Ok(Some(backend))
    }

    /// The first option that applies only to a server, with the variable that may have set it.
    fn option_for_a_server(&self) -> Option<&'static str> {
        let given = [
            (self.username.is_some(), "--username (FF_USERNAME)"),
            (self.password_file.is_some(), "--password-file (FF_PASSWORD_FILE)"),
            (self.ca.is_some(), "--ca (FF_CA)"),
            (self.tls_server_name.is_some(), "--tls-server-name (FF_TLS_SERVER_NAME)"),
            (self.cert.is_some(), "--cert (FF_CERT)"),
            (self.key.is_some(), "--key (FF_KEY)"),
        ];
        given.into_iter().find_map(|(given, option)| given.then_some(option))
    }
}

fn needs_a_server(what: impl std::fmt::Display) -> CliError {
    CliError::usage(what, format!("this command needs one; {NAME_A_SERVER}"))
}
