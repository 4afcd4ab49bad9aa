//! Options of a server, and its start.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::options::Options;
use crate::provider::{self, Choice};
use crate::server::TestServer;
use crate::shared::SharedServer;

/// How often a start is retried when another process took the port between its choice and the server's bind.
const PORT_TRIES: usize = 5;

/// Options of a server; from [`TestServer::builder`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Builder {
    options: Options,
    choice: Option<Choice>,
}

impl Builder {
    /// Appends an argument to the server's command line, after those of this crate.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.options.args.push(arg.into());
        self
    }

    /// Gives the default user this password.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.options.password = Some(password.into());
        self
    }

    /// Serves TLS at [`TestServer::url`] with certificates generated for this server; see [`TestServer::tls`].
    pub fn tls(mut self) -> Self {
        self.options.tls = true;
        self
    }

    /// Serves TLS, and only to clients that present a certificate.
    pub fn tls_client_auth(mut self) -> Self {
        self.options.tls = true;
        self.options.tls_client_auth = true;
        self
    }

    /// Also listens at a Unix socket; see [`TestServer::unix_socket`].
    pub fn unix_socket(mut self) -> Self {
        self.options.unix_socket = true;
        self
    }

    /// Keeps data across [`TestServer::kill`] and [`TestServer::restart`] in an append-only file. Without it a
    /// restarted server is empty.
    pub fn persistent(mut self) -> Self {
        self.options.persistent = true;
        self
    }

    /// Follows another server as its replica, over plain TCP. Both must come from the same provider.
    pub fn replica_of(mut self, primary: &TestServer) -> Self {
        self.options.replica_of = Some(primary.as_primary());
        self
    }

    /// Stops the server's wall clock at this time, in milliseconds since 1970-01-01 UTC, until
    /// [`TestServer::set_clock`] moves it. Such a server is a process of this machine, even if Docker provides the
    /// others, and needs a C compiler.
    pub fn clock_at(mut self, millis: u64) -> Self {
        self.options.clock = Some(millis);
        self
    }

    /// Lets the test set how far the server's wall clock is ahead of the machine's, see
    /// [`TestServer::set_clock_ahead`]. Such a server is a process of this machine, even if Docker provides the others,
    /// and needs a C compiler.
    pub fn clock_ahead(mut self) -> Self {
        self.options.clock_ahead = true;
        self
    }

    /// Lets the test set how long the server's syncs of its append-only file take, see [`TestServer::delay_syncs`].
    /// Such a server is a process of this machine, even if Docker provides the others, and needs a C compiler.
    pub fn slow_disk(mut self) -> Self {
        self.options.slow_disk = true;
        self
    }

    /// Uses a process of this machine, even if Docker provides the others: [`Sentinels`](crate::Sentinels) monitor only
    /// such servers.
    pub fn process(mut self) -> Self {
        self.options.process = true;
        self
    }

    /// Runs this program, whatever the environment variables name.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.choice = Some(Choice::Process { program: program.into() });
        self
    }

    /// Runs this image (`name:tag`) in Docker, whatever the environment variables name.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.choice = Some(Choice::Docker { image: image.into() });
        self
    }

    /// Starts the server. Returns once it has answered.
    ///
    /// # Errors
    /// If there is no provider, an option is not available, or the server ends or does not answer; the error contains
    /// the server's last lines.
    ///
    /// # Cancel safety
    /// A dropped future leaves no server behind.
    pub async fn build(self) -> Result<TestServer> {
        let options = self.options;
        let choice = match self.choice {
            Some(choice) => choice,
            None => provider::chosen().await?,
        };
        if let Choice::Shared { url } = choice {
            if let Some(what) = options.needs_private() {
                return Err(Error::NeedsPrivate { what });
            }
            return Ok(TestServer::shared(SharedServer::acquire(&url).await?));
        }
        let choice = match (options.needs_process(), choice) {
            (Some(what), Choice::Docker { .. }) => {
                let program = provider::program().ok_or(Error::NeedsProcess { what })?;
                Choice::Process { program }
            }
            (_, choice) => choice,
        };
        let mut tries = 1;
        loop {
            match TestServer::private(&choice, &options).await {
                Err(error) if tries < PORT_TRIES && is_port_taken(&error) => tries += 1,
                outcome => return outcome,
            }
        }
    }
}

fn is_port_taken(error: &Error) -> bool {
    let text = match error {
        Error::Died { output } => output,
        Error::Docker(text) => text,
        _ => return false,
    };
    ["Address already in use", "address already in use", "port is already allocated"]
        .iter()
        .any(|taken| text.contains(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shared_server_refuses_options_that_need_a_private_one() {
        let shared = Some(Choice::Shared { url: "redis://127.0.0.1:1".into() });
        let builder = Builder { choice: shared, ..Builder::default() }.password("pw");
        let error = builder.build().await.unwrap_err().to_string();
        assert!(error.contains("password()") && error.contains("FF_TEST_VALKEY_URL"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let error = TestServer::builder().program("/no/such/valkey").build().await.unwrap_err().to_string();
        assert!(error.contains("/no/such/valkey"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_a_server_is_reported_with_its_last_output() {
        let builder = TestServer::builder().program("/bin/echo");
        let error = builder.build().await.unwrap_err();
        assert!(matches!(&error, Error::Died { output } if output.contains("--port")), "{error:?}");
    }

    #[test]
    fn a_port_in_use_is_distinguished_from_other_failures() {
        let died = |output: &str| Error::Died { output: output.into() };
        assert!(is_port_taken(&died("Could not create server TCP listening socket: bind: Address already in use")));
        assert!(is_port_taken(&Error::Docker("Bind for 0.0.0.0:1 failed: port is already allocated".into())));
        assert!(!is_port_taken(&died("Bad directive or wrong number of arguments")));
    }
}
