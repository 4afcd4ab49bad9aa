//! The requested options, and the server arguments built from them. Pure: no process, no socket.

/// The options of a server, as the builder collects them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) args: Vec<String>,
    pub(crate) password: Option<String>,
    pub(crate) tls: bool,
    pub(crate) tls_client_auth: bool,
    pub(crate) unix_socket: bool,
    pub(crate) persistent: bool,
    pub(crate) replica_of: Option<Primary>,
    /// Whether its syncs can be delayed.
    pub(crate) slow_disk: bool,
    /// The time at which the server's wall clock stays until it is set (ms).
    pub(crate) clock: Option<u64>,
    /// Whether its wall clock can be put ahead of the machine's.
    pub(crate) clock_ahead: bool,
    /// Uses a process of this machine, whatever provides the others.
    pub(crate) process: bool,
}

/// The server that a replica follows.
#[derive(Debug, Clone)]
pub(crate) struct Primary {
    /// The plain port on this machine.
    pub(crate) port: u16,
    /// The address at which another container reaches it.
    pub(crate) container_address: Option<String>,
    pub(crate) password: Option<String>,
}

impl Options {
    /// The first option that a shared server cannot provide.
    pub(crate) fn needs_private(&self) -> Option<&'static str> {
        [
            (!self.args.is_empty(), "arg()"),
            (self.password.is_some(), "password()"),
            (self.tls, "tls()"),
            (self.unix_socket, "unix_socket()"),
            (self.persistent, "persistent()"),
            (self.replica_of.is_some(), "replica_of()"),
            (self.clock.is_some(), "clock_at()"),
            (self.clock_ahead, "clock_ahead()"),
            (self.slow_disk, "slow_disk()"),
            (self.process, "process()"),
        ]
        .into_iter()
        .find_map(|(asked, what)| asked.then_some(what))
    }

    /// The first option that only a process of this machine can provide.
    pub(crate) fn needs_process(&self) -> Option<&'static str> {
        [
            (self.clock.is_some(), "clock_at()"),
            (self.clock_ahead, "clock_ahead()"),
            (self.slow_disk, "slow_disk()"),
            (self.process, "process()"),
        ]
        .into_iter()
        .find_map(|(asked, what)| asked.then_some(what))
    }
}

/// Ports and paths, as the server sees them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The plain port; beside a TLS port it serves this crate's own commands.
    pub(crate) plain_port: u16,
    pub(crate) tls_port: Option<u16>,
    pub(crate) bind: &'static str,
    pub(crate) data_dir: String,
    pub(crate) tls_dir: String,
    pub(crate) socket: String,
    /// Host and port of the primary.
    pub(crate) primary: Option<(String, u16)>,
}

/// The server's arguments. Arguments of the caller come last, so they take precedence.
pub(crate) fn server_args(options: &Options, layout: &Layout) -> Vec<String> {
    let mut args = Args(Vec::new());
    args.add("--port", &layout.plain_port.to_string());
    args.add("--bind", layout.bind);
    args.add("--protected-mode", "no");
    args.add("--daemonize", "no");
    args.add("--save", "");
    args.add("--dir", &layout.data_dir);
    // A replica started during a test should follow immediately, not after the default delay of five seconds.
    args.add("--repl-diskless-sync-delay", "0");
    args.add("--appendonly", if options.persistent { "yes" } else { "no" });
    if let Some(tls_port) = layout.tls_port {
        args.add("--tls-port", &tls_port.to_string());
        args.add("--tls-cert-file", &format!("{}/server.crt", layout.tls_dir));
        args.add("--tls-key-file", &format!("{}/server.key", layout.tls_dir));
        args.add("--tls-ca-cert-file", &format!("{}/ca.crt", layout.tls_dir));
        args.add("--tls-auth-clients", if options.tls_client_auth { "yes" } else { "no" });
    }
    if options.unix_socket {
        args.add("--unixsocket", &layout.socket);
        args.add("--unixsocketperm", "777");
    }
    if let Some(password) = &options.password {
        args.add("--requirepass", password);
    }
    if let Some((host, port)) = &layout.primary {
        args.0.extend(["--replicaof".into(), host.clone(), port.to_string()]);
    }
    if let Some(password) = options.replica_of.as_ref().and_then(|primary| primary.password.as_ref()) {
        args.add("--masterauth", password);
    }
    args.0.extend(options.args.iter().cloned());
    args.0
}

struct Args(Vec<String>);

impl Args {
    fn add(&mut self, name: &str, value: &str) {
        self.0.extend([name.to_owned(), value.to_owned()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout {
            plain_port: 20_001,
            tls_port: None,
            bind: "127.0.0.1",
            data_dir: "/d".into(),
            tls_dir: "/t".into(),
            socket: "/d/s.sock".into(),
            primary: None,
        }
    }

    #[test]
    fn a_plain_server_keeps_nothing_on_disk() {
        let args = server_args(&Options::default(), &layout()).join(" ");
        assert!(args.contains("--save  --dir /d") && args.contains("--appendonly no"), "{args}");
        assert!(!args.contains("tls") && !args.contains("unixsocket") && !args.contains("requirepass"), "{args}");
    }

    #[test]
    fn arguments_of_the_caller_come_last() {
        let options = Options {
            args: vec!["--appendonly".into(), "yes".into()],
            password: Some("pw".into()),
            ..Options::default()
        };
        let args = server_args(&options, &layout());
        assert_eq!(args[args.len() - 4..], ["--requirepass", "pw", "--appendonly", "yes"]);
    }

    #[test]
    fn client_certificates_are_required_only_when_asked() {
        let with_tls = Layout { tls_port: Some(20_002), ..layout() };
        let tls = Options { tls: true, ..Options::default() };
        assert!(server_args(&tls, &with_tls).join(" ").contains("--tls-auth-clients no"));
        let both = Options { tls_client_auth: true, ..tls };
        assert!(server_args(&both, &with_tls).join(" ").contains("--tls-auth-clients yes"));
    }

    #[test]
    fn an_option_that_needs_a_private_server_is_named() {
        assert_eq!(Options::default().needs_private(), None);
        assert_eq!(Options { tls: true, ..Options::default() }.needs_private(), Some("tls()"));
    }
}
