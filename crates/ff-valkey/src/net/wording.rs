//! Turns the client library's description of a failure into a sentence.
//!
//! The library keeps an error of the system or of TLS as its `Debug` text, so that text is parsed here. A server's
//! message about an unknown command repeats the command's arguments, which may contain a password: they are cut off.

use std::io;

use fred::error::{Error, ErrorKind};

/// The failure as a sentence, without the library's additions, and without arguments of commands.
pub(crate) fn sentence(error: &Error) -> String {
    let said = error.details();
    match error.kind() {
        ErrorKind::IO | ErrorKind::Tls => of_the_system(said),
        _ if is_lost(error) => CLOSED.to_owned(),
        _ => without_arguments(said).to_owned(),
    }
}

/// Whether the client library has no connection any more for the command.
pub(crate) fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Routing) && error.details() == "Failed to route command."
}

/// A server's message about a command, up to the arguments that it repeats.
fn without_arguments(said: &str) -> &str {
    said.split_once(", with args").map_or(said, |(said, _)| said)
}

fn of_the_system(said: &str) -> String {
    if let Some(code) = between(said, "Os { code: ", ",").and_then(|code| code.parse().ok()) {
        return of_code(code);
    }
    if said.contains("UnexpectedEof") || said.contains("peer closed connection") {
        return CLOSED.to_owned();
    }
    if let Some((_, problem)) = certificate(said) {
        return problem.to_owned();
    }
    match between(said, "error: \"", "\"").or_else(|| between(said, "message: \"", "\"")) {
        Some(quoted) => match quoted.split_once("failed to lookup address information: ") {
            Some((_, why)) => format!("no address was found for this host ({})", why.to_lowercase()),
            None => quoted.to_owned(),
        },
        None if said.contains(" { ") || said.contains('(') => {
            // Nothing that a server or the system is known to say.
            format!("the connection failed ({})", words(said))
        }
        None => said.to_owned(),
    }
}

const CLOSED: &str = "the server closed the connection";

fn of_code(code: i32) -> String {
    let error = io::Error::from_raw_os_error(code);
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there (connection refused)".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            CLOSED.to_owned()
        }
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::PermissionDenied => "the system does not permit it (permission denied)".to_owned(),
        _ => {
            // Without "(os error 111)".
            let text = error.to_string();
            text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text).to_lowercase()
        }
    }
}

/// The fault of a certificate, by the words of the TLS library: the side it belongs to, and a sentence.
fn certificate(said: &str) -> Option<(Side, &'static str)> {
    const PROBLEMS: [(&str, Side, &str); 11] = [
        ("NotValidForName", Side::Name, "the server's certificate is for another host"),
        ("UnknownIssuer", Side::Authority, "the server's certificate is signed by an authority that is not trusted"),
        ("CaUsedAsEndEntity", Side::Signer, "the server's certificate is that of an authority (CA:TRUE)"),
        ("Expired", Side::Server, "the server's certificate has expired"),
        ("NotValidYet", Side::Server, "the server's certificate is not valid yet"),
        ("Revoked", Side::Server, "the server's certificate is revoked"),
        ("InvalidCertificate", Side::Server, "the server's certificate is not valid"),
        ("AlertReceived(CertificateRequired)", Side::Client, "the server wants a client certificate"),
        ("AlertReceived(UnknownCA)", Side::Client, "the server does not trust the client certificate"),
        ("AlertReceived(BadCertificate)", Side::Client, "the server refuses the client certificate"),
        ("AlertReceived(CertificateExpired)", Side::Client, "the client certificate has expired"),
    ];
    PROBLEMS.iter().find(|(word, ..)| said.contains(word)).map(|(_, side, problem)| (*side, *problem))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The name in the server's certificate.
    Name,
    /// The authority that signed the server's certificate.
    Authority,
    /// The server presents the certificate of an authority.
    Signer,
    /// The server's certificate itself.
    Server,
    /// The certificate that this program presents, or should present.
    Client,
}

/// The fault of a certificate and its remedy, if that is the failure: retrying does not help.
pub(crate) fn wrong_certificate(error: &Error) -> Option<String> {
    let (side, problem) = certificate(error.details())?;
    let fix = match side {
        Side::Name => {
            "write the host of the certificate into the URL, or name it with --tls-server-name (ValkeyConfig::tls_server_name)"
        }
        Side::Authority => "name the file of the authority that signed it with --ca (ValkeyConfig::ca_file)",
        Side::Signer => "give the server a certificate that the authority has signed, not the authority's own",
        Side::Server => "give the server a valid certificate, or set this machine's clock",
        Side::Client => {
            "name a certificate that the server trusts, and its key, with --cert and --key (ValkeyConfig::client_certificate)"
        }
    };
    let presented = between(error.details(), "presented: [", "]").filter(|_| side == Side::Name);
    let hosts = presented.map(|names| format!(" ({})", names_in(names))).unwrap_or_default();
    Some(format!("{problem}{hosts}; {fix}"))
}

/// `"DnsName(\"a\")", "IpAddress(10.0.0.1)"` as `a, 10.0.0.1`.
fn names_in(debug: &str) -> String {
    let name = |part: &str| {
        let part = part.trim().trim_matches('"');
        let inner = part.split_once('(').map_or(part, |(_, inner)| inner.trim_end_matches(')'));
        inner.replace(['"', '\\'], "")
    };
    debug.split(", ").map(name).collect::<Vec<_>>().join(", ")
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// `Custom { kind: InvalidData, error: AlertReceived(InternalError) }` as `invalid data, alert received, internal
/// error`.
fn words(debug: &str) -> String {
    let names = debug.split(|c: char| !c.is_alphanumeric()).filter(|word| word.starts_with(char::is_uppercase));
    let spaced = names.filter(|name| !matches!(*name, "Custom" | "Kind" | "Error")).map(|name| {
        name.char_indices().fold(String::new(), |mut text, (at, c)| {
            if at > 0 && c.is_uppercase() {
                text.push(' ');
            }
            text.extend(c.to_lowercase());
            text
        })
    });
    spaced.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence_of(kind: ErrorKind, said: &str) -> String {
        sentence(&Error::new(kind, said.to_owned()))
    }

    #[test]
    fn an_error_of_the_system_is_a_sentence() {
        let from = |error: io::Error| sentence(&Error::from(error));
        assert_eq!(from(io::Error::from_raw_os_error(111)), "nothing listens there (connection refused)");
        assert_eq!(from(io::Error::from_raw_os_error(104)), "the server closed the connection");
        assert_eq!(from(io::Error::from_raw_os_error(113)), "no route to host");
        assert_eq!(from(io::ErrorKind::UnexpectedEof.into()), "the server closed the connection");
        assert_eq!(sentence_of(ErrorKind::Unknown, "Failed to route command."), "the server closed the connection");
        let lookup = io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(from(lookup), "no address was found for this host (name or service not known)");
        let alert = sentence_of(ErrorKind::IO, "Custom { kind: InvalidData, error: AlertReceived(InternalError) }");
        assert_eq!(alert, "the connection failed (invalid data, alert received, internal error)");
    }

    #[test]
    fn arguments_that_a_server_echoes_are_cut_off() {
        for quote in ['`', '\''] {
            let said = format!(
                "ERR unknown command {quote}AUTH{quote}, with args beginning with: {quote}ann{quote} {quote}pw"
            );
            assert_eq!(sentence_of(ErrorKind::Unknown, &said), format!("ERR unknown command {quote}AUTH{quote}"));
        }
    }

    #[test]
    fn a_wrong_certificate_comes_with_the_fix() {
        let said = |error: &str| {
            let text = format!("Custom {{ kind: InvalidData, error: {error} }}");
            wrong_certificate(&Error::new(ErrorKind::IO, text)).unwrap_or_default()
        };
        assert!(said("InvalidCertificate(UnknownIssuer)").contains("--ca"));
        let context = "NotValidForNameContext { expected: DnsName(\"db\"), presented: [\"DnsName(\\\"other\\\")\"] }";
        let host = said(&format!("InvalidCertificate({context})"));
        assert!(host.contains("--tls-server-name") && host.contains("another host (other);"), "{host}");
        let two = context.replace("]", ", \"IpAddress(10.0.0.1)\"]");
        assert!(said(&format!("InvalidCertificate({two})")).contains("(other, 10.0.0.1)"));
        let own = said("InvalidCertificate(Other(OtherError(CaUsedAsEndEntity)))");
        assert!(own.contains("CA:TRUE") && !own.contains("--ca"), "{own}");
        assert!(said("AlertReceived(CertificateRequired)").contains("--cert and --key"));
        assert_eq!(said("AlertReceived(InternalError)"), "");
    }
}
