//! Maps errors of the client and the server to the kinds that callers decide by.

use std::time::Duration;

use ff_core::EngineError;
use fred::error::{Error, ErrorKind};

use crate::{
    ValkeyConfig,
    net::wording::{sentence, wrong_certificate},
};

/// The commands that a server without functions lacks.
const FUNCTION_COMMANDS: [&str; 2] = ["FUNCTION", "FCALL"];
const SERVERS: &str = "Use Valkey 7.2 or later, or Redis 7.0 or later";

/// Temporary error codes: the same call may succeed later.
const BUSY: [&str; 9] =
    ["TRYAGAIN", "ASK", "MOVED", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN", "BUSY", "NOREPLICAS"];

/// The operation and the configuration: every error names both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpContext<'a> {
    op: &'a str,
    config: &'a ValkeyConfig,
    timeout: Duration,
}

impl<'a> OpContext<'a> {
    /// Running a command.
    pub(crate) const fn command(op: &'a str, config: &'a ValkeyConfig) -> Self {
        Self { op, config, timeout: config.command_timeout }
    }

    /// Making a connection.
    pub(crate) const fn connecting(op: &'a str, config: &'a ValkeyConfig) -> Self {
        Self { op, config, timeout: config.connect_timeout }
    }

    pub(crate) fn failed(self, error: Error) -> EngineError {
        let text = sentence(&error);
        let op = self.op.to_owned();
        if let Some(reason) = wrong_certificate(&error) {
            return EngineError::invalid(op, reason);
        }
        match error.kind() {
            ErrorKind::Config => return EngineError::invalid(op, text),
            ErrorKind::Timeout => return EngineError::Timeout { op, after: self.timeout },
            ErrorKind::Auth => return self.denied(&text),
            _ => {}
        }
        let code = text.split([' ', ':']).next().unwrap_or_default();
        if code == "NOPERM" || code == "WRONGPASS" || code == "NOAUTH" || text.contains("ACL failure in script") {
            return self.denied(&text);
        }
        if code == "OOM" {
            let reason = format!("{}. Raise maxmemory or free memory; {op} wrote nothing", text.trim_end_matches('.'));
            return EngineError::ResourceExhausted { resource: "memory of the server", reason };
        }
        if BUSY.contains(&code) || text.contains("non local key") {
            return EngineError::Contention { op, reason: text };
        }
        if text.starts_with("ERR unknown command") && FUNCTION_COMMANDS.iter().any(|name| text.contains(name)) {
            let what = format!("the server at {}", self.config.endpoint);
            let reason =
                format!("it has no functions ({text}). {SERVERS}, with FUNCTION, FCALL and FCALL_RO not renamed");
            return EngineError::invalid(what, reason);
        }
        let op = format!("{op} at {}", self.config.endpoint);
        // A key of another type, or data on which the function fails: the same call fails again.
        if code == "WRONGTYPE" || text.starts_with("ERR user_function:") {
            return EngineError::protocol(op, text);
        }
        EngineError::transport(op, text)
    }

    /// The server does not permit the operation for this user.
    pub(crate) fn denied(self, text: &str) -> EngineError {
        let user = self.config.username.as_deref().unwrap_or("default");
        EngineError::PermissionDenied {
            op: self.op.to_owned(),
            reason: format!("{}. {}", text.trim_end_matches('.'), remedy(self.op, text, user)),
        }
    }
}

/// Whether the server refused this command for its own reasons: its key, or a permission that the user lacks. Errors of
/// the connection or of the server's state concern all commands alike.
pub(crate) fn concerns_one_command(error: &Error) -> bool {
    let text = error.details();
    let code = text.split([' ', ':']).next().unwrap_or_default();
    matches!(code, "WRONGTYPE" | "NOPERM" | "ERR") && !text.contains("non local key")
}

/// Whether the server does not have the function.
pub(crate) fn is_missing_function(error: &Error) -> bool {
    error.details().contains("Function not found")
}

/// Whether the server refused because it is a replica. It has then executed nothing.
pub(crate) fn is_replica(error: &Error) -> bool {
    let code = error.details().split(' ').next();
    matches!(code, Some("READONLY" | "MASTERDOWN"))
}

/// Whether the key has another type than the command needs: an answer that does not change with time.
pub(crate) fn is_wrong_type(error: &Error) -> bool {
    error.details().starts_with("WRONGTYPE")
}

/// The missing ACL rule or setting, derived from the server's message.
fn remedy(op: &str, text: &str, user: &str) -> String {
    if text.starts_with("WRONGPASS") || text.contains("invalid username-password") {
        return "Check user and password".into();
    }
    if text.starts_with("NOAUTH") || text.contains("Authentication required") {
        return "The server wants a password: write it into the URL, redis://user:password@host".into();
    }
    let command = text.split('\'').nth(1).unwrap_or("<command>");
    if command.starts_with("function") || (op == "ff1_deployment" && command == "fcall") {
        return "The deployment is not prepared: let an administrator run `ff script load --partitions 256` (or as many \
                as it is to have)"
            .into();
    }
    if text.contains("channel") {
        return format!("Grant the channels: ACL SETUSER {user} &ff:*");
    }
    if text.contains(" key") {
        return format!("Grant the keys: ACL SETUSER {user} ~ff:*");
    }
    // A function is granted by its name.
    let function = if command.starts_with("fcall") && op.starts_with("ff") { format!("|{op}") } else { String::new() };
    format!("Grant the command: ACL SETUSER {user} +{command}{function}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(kind: ErrorKind, text: &'static str) -> EngineError {
        let config = ValkeyConfig::from_url("redis://ann@db:6379").unwrap();
        OpContext::command("claim", &config).failed(Error::new(kind, text))
    }

    #[test]
    fn a_refusal_names_the_missing_rule() {
        for (text, fix) in [
            ("WRONGPASS invalid username-password pair or user is disabled.", "user and password"),
            ("NOAUTH Authentication required.", "redis://user:password@host"),
            ("NOPERM User ann has no permissions to access one of the channels used as arguments", "ann &ff:*"),
            ("NOPERM No permissions to access a channel", "ann &ff:*"),
            ("NOPERM User ann has no permissions to access one of the keys used as arguments", "ann ~ff:*"),
            ("NOPERM User ann has no permissions to run the 'fcall' command", "ann +fcall"),
        ] {
            let error = mapped(ErrorKind::Unknown, text);
            assert!(
                matches!(error, EngineError::PermissionDenied { .. }) && error.to_string().contains(fix),
                "{error}"
            );
        }
    }

    #[test]
    fn a_refused_function_is_granted_by_name_or_prepared_by_an_administrator() {
        let config = ValkeyConfig::from_url("redis://ann@db:6379").unwrap();
        let refused = |op: &str, command: &str| {
            let text = format!("NOPERM User ann has no permissions to run the '{command}' command");
            OpContext::command(op, &config).failed(Error::new(ErrorKind::Unknown, text)).to_string()
        };
        assert!(refused("ff1_claim", "fcall").contains("ann +fcall|ff1_claim"));
        for (op, command) in [("ff1_deployment", "fcall"), ("loading the library", "function|load")] {
            assert!(refused(op, command).contains("ff script load"), "{op}");
        }
    }

    #[test]
    fn temporary_errors_are_retryable() {
        for text in [
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "ASK 1 127.0.0.1:7001",
            "CLUSTERDOWN The cluster is down",
            "LOADING Valkey is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "BUSY Valkey is busy running a script.",
            "ERR Script attempted to access a non local key in a cluster node script: f, on @user_function:1.",
        ] {
            assert!(matches!(mapped(ErrorKind::Unknown, text), EngineError::Contention { .. }), "{text}");
        }
        assert!(matches!(mapped(ErrorKind::Timeout, "Request timed out."), EngineError::Timeout { .. }));
        let lost = mapped(ErrorKind::IO, "Connection refused");
        assert!(lost.is_retryable() && lost.to_string().contains("db:6379"), "{lost}");
    }

    #[test]
    fn stored_data_that_the_server_or_the_library_cannot_use_is_a_protocol_error() {
        for text in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR user_function:12: attempt to compare nil with number script: ff1_claim, on @user_function:12.",
        ] {
            let error = mapped(ErrorKind::Unknown, text);
            assert!(matches!(error, EngineError::Protocol { .. }) && error.to_string().contains("db:6379"), "{error}");
        }
    }

    #[test]
    fn a_full_server_is_not_a_transport_error() {
        let error = mapped(ErrorKind::Unknown, "OOM command not allowed when used memory > 'maxmemory'.");
        assert!(matches!(error, EngineError::ResourceExhausted { .. }) && !error.is_retryable());
    }
}
