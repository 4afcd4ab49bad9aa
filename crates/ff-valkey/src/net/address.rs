//! Addresses of servers, as URLs and messages spell them. Pure; a password is never shown.

use std::{fmt, path::PathBuf};

use ff_core::EngineError;
use url::{ParseError, Url};

/// The port of a server if the URL does not name one.
pub(crate) const SERVER_PORT: u16 = 6379;
/// The port of a sentinel if the URL does not name one.
const SENTINEL_PORT: u16 = 26379;
const SCHEMES: &str = "expected redis://, rediss://, valkey://, valkeys:// or unix:// \
                       (such as redis://user:password@host:6379 or unix:///run/valkey.sock), or \
                       redis-sentinel://host:26379,host:26379/service";
const ENCODING: &str = "In user and password write %2F for `/`, %3F for `?`, %23 for `#`, %40 for `@` and %25 for `%`";
const ONE_DATABASE: &str = "only database 0 can be used, because channels are shared by all databases";
const SENTINEL_SHAPE: &str = "write redis-sentinel://user:password@host:26379,host:26379/service";

/// The address of a server, or of the sentinels that know it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// Host and port.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// Whether the connection is encrypted.
        tls: bool,
    },
    /// A socket on this machine.
    Unix {
        /// Its path.
        path: PathBuf,
    },
    /// The server that the sentinels name as the primary of a service.
    Sentinel {
        /// The sentinels, in no particular order.
        sentinels: Vec<Address>,
        /// The name under which they monitor the primary.
        service: String,
        /// Whether connections are encrypted, both to sentinels and to servers.
        tls: bool,
    },
}

impl Endpoint {
    pub(crate) const fn is_encrypted(&self) -> bool {
        match self {
            Self::Tcp { tls, .. } | Self::Sentinel { tls, .. } => *tls,
            Self::Unix { .. } => false,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write_host(f, host, *port),
            Self::Unix { path } => write!(f, "{}", path.display()),
            Self::Sentinel { sentinels, service, .. } => {
                write!(f, "the primary of `{service}` (sentinels {})", list(sentinels))
            }
        }
    }
}

/// Host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// Parses `host`, `host:port`, `[::1]` or `[::1]:port`.
    fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if rest.is_empty() => default_port,
            None => return None,
        };
        let spoilt = host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/@[]".contains(c));
        (!spoilt).then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host(f, &self.host, self.port)
    }
}

fn write_host(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

/// Formats addresses for messages.
pub(crate) fn list(addresses: &[Address]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The contents of a URL.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) endpoint: Endpoint,
    pub(crate) server: Credentials,
    pub(crate) sentinel: Credentials,
}

/// The credentials of a connection.
#[derive(Default)]
pub(crate) struct Credentials {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Parses a URL.
///
/// # Errors
/// [`EngineError::InvalidInput`]; the message shows only the scheme of the URL, and the expected form.
pub(crate) fn parse(url: &str) -> Result<Parsed, EngineError> {
    let url = url.trim();
    let parsed = match sentinel_scheme(url) {
        // URL parsers silently drop the characters that this refuses, and so change passwords.
        _ if url.contains(char::is_control) => {
            Err("it contains a control character; write it encoded, a line break as %0A".to_owned())
        }
        Some((tls, rest)) => sentinel(rest, tls),
        None => single(url),
    };
    parsed.map_err(|reason| EngineError::invalid(format!("URL `{}`", masked(url)), reason))
}

fn sentinel_scheme(url: &str) -> Option<(bool, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "redis-sentinel" | "valkey-sentinel" => Some((false, rest)),
        "rediss-sentinel" | "valkeys-sentinel" => Some((true, rest)),
        _ => None,
    }
}

/// Parses a URL of one server. The error describes the fault and quotes nothing of the URL.
fn single(url: &str) -> Result<Parsed, String> {
    let Some((scheme, _)) = url.split_once("://").filter(|(scheme, _)| !scheme.is_empty()) else {
        return Err(format!("it has no scheme; write redis:// in front of host and port. {SCHEMES}"));
    };
    if let Some(index) = wrong_in_scheme(scheme) {
        return Err(format!("character {} cannot be in a scheme, the part before `://`. {SCHEMES}", index + 1));
    }
    let url = Url::parse(url).map_err(|error| format!("{}. {ENCODING}", malformed(error)))?;
    let endpoint = match url.scheme() {
        "redis" | "valkey" => tcp(&url, false)?,
        "rediss" | "valkeys" => tcp(&url, true)?,
        "unix" | "redis+unix" | "valkey+unix" => {
            let path = percent_decoded(url.path()).filter(|path| path.len() > 1);
            Endpoint::Unix { path: path.ok_or("it names no path; write unix:///path/to/socket")?.into() }
        }
        _ => return Err(format!("its scheme is not known. {SCHEMES}")),
    };
    if url.fragment().is_some() {
        return Err(format!("it has a `#`. {ENCODING}"));
    }
    let mut parsed =
        Parsed { endpoint, server: credentials(url.username(), url.password())?, sentinel: Credentials::default() };
    parsed.take_query(url.query().unwrap_or_default())?;
    Ok(parsed)
}

/// The position of the first character that no scheme has there.
fn wrong_in_scheme(scheme: &str) -> Option<usize> {
    let fits = |index, c: char| c.is_ascii_alphabetic() || index > 0 && (c.is_ascii_digit() || "+-.".contains(c));
    scheme.chars().enumerate().position(|(index, c)| !fits(index, c))
}

/// The fault that the URL parser found.
fn malformed(error: ParseError) -> &'static str {
    match error {
        ParseError::EmptyHost => "it names no host",
        ParseError::InvalidPort => "its port is not a number from 0 to 65535",
        ParseError::InvalidIpv4Address | ParseError::InvalidIpv6Address => "its host is not a valid IP address",
        ParseError::IdnaError | ParseError::InvalidDomainCharacter => {
            "its host has a character that cannot be in a host name"
        }
        _ => "it is malformed; write redis://user:password@host:6379",
    }
}

fn tcp(url: &Url, tls: bool) -> Result<Endpoint, String> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| format!("it names no host. {ENCODING}"))?;
    if !matches!(url.path(), "" | "/" | "/0") {
        return Err(format!("{ONE_DATABASE}. {ENCODING}"));
    }
    if host.contains(',') {
        return Err(format!("several hosts are sentinels; {SENTINEL_SHAPE}"));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Endpoint::Tcp { host, port: url.port().unwrap_or(SERVER_PORT), tls })
}

/// Parses several hosts, which general URL parsers reject: `[user[:password]@]host[:port][,…]/service[?…]`.
fn sentinel(rest: &str, tls: bool) -> Result<Parsed, String> {
    if rest.contains('#') {
        return Err(format!("it has a `#`. {ENCODING}"));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (who, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (username, password) = who.split_once(':').map_or((who, None), |(user, password)| (user, Some(password)));
    let address = |(index, text): (usize, &str)| {
        let wrong = || format!("address {} is not host or host:port. {SENTINEL_SHAPE}. {ENCODING}", index + 1);
        Address::parse(text, SENTINEL_PORT).ok_or_else(wrong)
    };
    let sentinels = hosts.split(',').enumerate().map(address).collect::<Result<Vec<_>, _>>()?;
    let service = match path.split_once('/') {
        None | Some((_, "" | "0")) => path.split('/').next().and_then(percent_decoded).filter(|name| !name.is_empty()),
        Some(_) => return Err(format!("{ONE_DATABASE}. {ENCODING}")),
    };
    let service = service.ok_or_else(|| format!("it names no service; {SENTINEL_SHAPE}"))?;
    let mut parsed = Parsed {
        endpoint: Endpoint::Sentinel { sentinels, service, tls },
        server: credentials(username, password)?,
        sentinel: Credentials::default(),
    };
    parsed.take_query(query)?;
    Ok(parsed)
}

fn credentials(username: &str, password: Option<&str>) -> Result<Credentials, String> {
    let decoded = |text: &str| {
        percent_decoded(text).ok_or_else(|| "user or password is not UTF-8, which a server needs".to_owned())
    };
    let username = Some(username).filter(|name| !name.is_empty()).map(decoded).transpose()?;
    Ok(Credentials { username, password: password.map(decoded).transpose()? })
}

impl Parsed {
    fn take_query(&mut self, query: &str) -> Result<(), String> {
        let of_sentinels = matches!(self.endpoint, Endpoint::Sentinel { .. });
        for (index, (name, value)) in url::form_urlencoded::parse(query.as_bytes()).enumerate() {
            // The parser replaces invalid UTF-8 with this character, which would change the password.
            if value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(format!("parameter {} is not UTF-8", index + 1));
            }
            let value = value.into_owned();
            match &*name {
                "user" | "username" => self.server.username = Some(value),
                "pass" | "password" => self.server.password = Some(value),
                "sentinelUser" | "sentinelUsername" if of_sentinels => self.sentinel.username = Some(value),
                "sentinelPass" | "sentinelPassword" if of_sentinels => self.sentinel.password = Some(value),
                "db" if value == "0" => {}
                _ => {
                    let also = if of_sentinels { ", sentinelUser, sentinelPass" } else { "" };
                    let known = format!("user, pass{also}, and db with the value 0");
                    return Err(format!("parameter {} is not one of {known}. {ENCODING}", index + 1));
                }
            }
        }
        Ok(())
    }
}

/// The part of a URL that may be shown: a known scheme. In the rest of a malformed URL no part can be distinguished
/// from a password, or from a part of a password that was not encoded.
fn masked(url: &str) -> String {
    const KNOWN: [&str; 19] = [
        "redis",
        "rediss",
        "valkey",
        "valkeys",
        "unix",
        "redis+unix",
        "valkey+unix",
        "redis-sentinel",
        "rediss-sentinel",
        "valkey-sentinel",
        "valkeys-sentinel",
        "redis+tls",
        "redis+ssl",
        "redis-cluster",
        "redis+cluster",
        "redis+sentinel",
        "http",
        "https",
        "tcp",
    ];
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let known = |scheme: &String| KNOWN.contains(&scheme.as_str());
    scheme.filter(known).map_or_else(|| "…".to_owned(), |scheme| format!("{scheme}://…"))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.filter(|_| first == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        parse(url).unwrap().endpoint
    }

    fn at(host: &str, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    #[test]
    fn every_scheme_leads_to_its_endpoint() {
        let tcp = |host: &str, port, tls| Endpoint::Tcp { host: host.into(), port, tls };
        assert_eq!(endpoint("redis://db"), tcp("db", 6379, false));
        assert_eq!(endpoint("valkey://db:7000/0"), tcp("db", 7000, false));
        assert_eq!(endpoint("rediss://db:7000/"), tcp("db", 7000, true));
        assert_eq!(endpoint("valkeys://[::1]:7000"), tcp("::1", 7000, true));
        for scheme in ["unix", "redis+unix", "valkey+unix"] {
            assert_eq!(
                endpoint(&format!("{scheme}:///run/a%20b.sock")),
                Endpoint::Unix { path: "/run/a b.sock".into() }
            );
        }
    }

    #[test]
    fn a_sentinel_url_names_sentinels_service_and_encryption() {
        for (scheme, tls) in [
            ("redis-sentinel", false),
            ("valkey-sentinel", false),
            ("rediss-sentinel", true),
            ("valkeys-sentinel", true),
        ] {
            let sentinels = vec![at("a", 26379), at("::1", 7000), at("10.0.0.3", 1)];
            let expected = Endpoint::Sentinel { sentinels, service: "my orders".into(), tls };
            assert_eq!(endpoint(&format!("{scheme}://a,[::1]:7000,10.0.0.3:1/my%20orders")), expected);
            assert_eq!(expected.is_encrypted(), tls);
        }
        let shown = endpoint("redis-sentinel://a,[::1]:7/orders/0?db=0").to_string();
        assert_eq!(shown, "the primary of `orders` (sentinels a:26379, [::1]:7)");
    }

    #[test]
    fn servers_and_sentinels_have_separate_credentials() {
        let url = "redis-sentinel://ann%40x:s%3Acret@a,b/orders?sentinelUser=bob&sentinelPass=hu%26sh";
        let Parsed { server, sentinel, .. } = parse(url).unwrap();
        assert_eq!((server.username.as_deref(), server.password.as_deref()), (Some("ann@x"), Some("s:cret")));
        assert_eq!((sentinel.username.as_deref(), sentinel.password.as_deref()), (Some("bob"), Some("hu&sh")));
        let Parsed { server, sentinel, .. } = parse("redis-sentinel://:pw@a/orders").unwrap();
        assert_eq!((server.username, server.password.as_deref()), (None, Some("pw")));
        assert_eq!((sentinel.username, sentinel.password), (None, None));
    }

    #[test]
    fn a_bad_url_is_refused_without_the_password() {
        for bad in [
            "redis://ann:secret",
            "redis://ann:secret/x@db",
            "redis://ann:secret#x@db",
            "redis://:x@secret?secret@db",
            "redis://db?secret@x",
            "redis://db?pass=%ffsecret",
            "redis://ann:secret\nsecret@db",
            "redis-sentinel://ann:secret/secret,b@a/orders",
            "redis-sentinel://ann:secret#secret@a/orders",
            "secret@db://x",
            "http://ann:secret@db",
            "db:6379:secret@",
            "redis://ann:secret@db/3",
            "redis://:secret@",
            "redis://ann:secret@db:99999",
            "redis://ann:secret@db?protocol=3",
            "redis://ann:secret?secret@db/3",
            "redis://db?sentinelPass=secret",
            "unix://",
            "ann:secret@db",
            "",
            "redis-sentinel://ann:secret@a,b",
            "redis-sentinel://ann:secret@a,b/",
            "redis-sentinel://ann:secret@a,,b/orders",
            "redis-sentinel://ann:secret@a:port/orders",
            "redis-sentinel://ann:secret@a/orders/1",
            "redis-sentinel://a/orders?sentinelPass=secret&x=1",
            "redis-sentinel:///orders",
            "redis://ann:secret@a:1,b:2/orders",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(matches!(error, EngineError::InvalidInput { .. }), "{bad}");
            assert!(!error.to_string().contains("secret") && error.to_string().contains("URL `"), "{error}");
        }
    }

    #[test]
    fn a_malformed_url_is_refused_with_the_fault_and_the_right_form() {
        for (bad, fault) in [
            ("1redis://h", "character 1 cannot be in a scheme"),
            ("\"redis://h\"", "character 1 cannot be in a scheme"),
            ("redis ://h", "character 6 cannot be in a scheme"),
            ("redíš://h", "character 4 cannot be in a scheme"),
            ("://h", "it has no scheme"),
            ("redis+tls://h", "URL `redis+tls://…`: its scheme is not known"),
            ("redis://h:99999", "its port is not a number from 0 to 65535"),
            ("redis:// h", "its host has a character that cannot be in a host name"),
            ("redis://[::g]", "its host is not a valid IP address"),
            ("redis:///h", "it names no host"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(fault), "{bad}: {error}");
            assert!(error.contains("redis://user:password@host:6379") || error.contains("%2F for `/`"), "{error}");
        }
    }

    #[test]
    fn a_bad_sentinel_url_is_refused_with_the_right_form() {
        for bad in ["redis-sentinel://a,b", "redis-sentinel://a:x/orders", "redis-sentinel://a b/orders"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("redis-sentinel://user:password@host:26379,host:26379/service"), "{error}");
        }
        assert!(parse("http://a").unwrap_err().to_string().contains("redis-sentinel://"));
    }
}
