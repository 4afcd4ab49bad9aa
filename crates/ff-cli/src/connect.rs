//! Which server, and as whom; or none, and then this process.

use std::{fs, path::PathBuf, sync::Arc};

use clap::Args;
use ff_core::{EngineBackend, PartitionCount};
use ff_embedded::EmbeddedBackend;
use ff_valkey::{ValkeyBackend, ValkeyConfig};

use crate::{failure::CliError, out, text};

/// In place of a URL: in this process, also where the environment names a server.
const EMBEDDED: &str = "embedded:";
const NAME_A_SERVER: &str = "give --url redis://host:6379 or set FF_URL";

#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ConnectArgs {
    /// The server: redis://user:password@host:port, rediss://… with TLS, valkey://…, unix:///path, or
    /// redis-sentinel://host:port,host:port/service; without one, or with `embedded:`, flows run in this process
    #[arg(long, env = "FF_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// The user, in place of the one in the URL
    #[arg(
        long,
        env = "FF_USERNAME",
        global = true,
        hide_short_help = true,
        value_name = "NAME",
        requires = "password_file"
    )]
    username: Option<String>,
    /// A file that holds the password, in place of the one in the URL
    #[arg(long, env = "FF_PASSWORD_FILE", global = true, hide_short_help = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The certificate authority to trust (PEM) [default: the system's]
    #[arg(long, env = "FF_CA", global = true, hide_short_help = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name that the server's certificate must be for [default: the host of the URL]
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

/// Where the flows live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    /// In this process, since no server is named.
    Unnamed,
    /// In this process, as asked for.
    Embedded,
    Server(&'a str),
}

impl ConnectArgs {
    fn place(&self) -> Place<'_> {
        match self.url.as_deref() {
            None | Some("") => Place::Unnamed,
            Some(EMBEDDED) => Place::Embedded,
            Some(url) => Place::Server(url),
        }
    }

    /// Whether flows live in this process and end with it.
    pub(crate) fn is_embedded(&self) -> bool {
        !matches!(self.place(), Place::Server(_))
    }

    /// What the arguments say about a server, checked as far as it can be without it.
    ///
    /// # Errors
    /// When no server is named, or what is said of it is wrong.
    pub(crate) fn config(&self) -> Result<ValkeyConfig, CliError> {
        let url = match self.place() {
            Place::Server(url) => url,
            Place::Unnamed => return Err(needs_a_server("no server is named")),
            Place::Embedded => return Err(needs_a_server(format!("`{EMBEDDED}` is no server"))),
        };
        let mut config = ValkeyConfig::from_url(url)?;
        if let Some(path) = &self.password_file {
            let refuse = |why: String| CliError::usage(path.display(), format!("the password cannot be read: {why}"));
            let bytes = fs::read(path).map_err(|error| refuse(error.to_string()))?;
            let password = text::decoded(bytes).map_err(|why| refuse(why.to_owned()))?;
            let username = self.username.clone().or_else(|| config.username.clone());
            config = config.with_credentials(username, password.trim_end_matches(['\r', '\n']));
        }
        if let Some(ca) = &self.ca {
            config = config.with_ca_file(ca);
        }
        if let Some(name) = &self.tls_server_name {
            config = config.with_tls_server_name(name);
        }
        if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            config = config.with_client_certificate(certificate, key);
        }
        config.partition_count = self.partitions.or(config.partition_count);
        Ok(config)
    }

    /// Connects to the server that is named; the library is loaded and the deployment's record checked when this
    /// returns.
    pub(crate) async fn open_server(&self) -> Result<Arc<dyn EngineBackend>, CliError> {
        Ok(Arc::new(ValkeyBackend::connect_with(self.config()?).await?))
    }

    /// Connects to the server that is named, or starts without one in this process and says so.
    pub(crate) async fn open(&self) -> Result<Arc<dyn EngineBackend>, CliError> {
        match self.embedded()? {
            Some(backend) => Ok(Arc::new(backend)),
            None => self.open_server().await,
        }
    }

    /// The backend in this process, told on stderr, unless a server is named.
    ///
    /// # Errors
    /// When something is said that only a server could make use of.
    pub(crate) fn embedded(&self) -> Result<Option<EmbeddedBackend>, CliError> {
        let why = match self.place() {
            Place::Server(_) => return Ok(None),
            Place::Unnamed => "no --url and no FF_URL",
            Place::Embedded => "--url embedded",
        };
        if let Some(option) = self.option_for_a_server() {
            return Err(CliError::usage(option, format!("it is for a server, and none is named; {NAME_A_SERVER}")));
        }
        let mut builder = EmbeddedBackend::builder();
        if let Some(partitions) = self.partitions {
            builder = builder.partitions(partitions);
        }
        let backend = builder.build()?;
        out::note(&format!("ff: {why}: running in this process, nothing outlives it"));
        Ok(Some(backend))
    }

    /// The first option that says how to reach a server, with the variable that may have set it.
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
