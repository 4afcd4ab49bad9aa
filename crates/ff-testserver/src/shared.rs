//! The one server that `FF_TEST_VALKEY_URL` names: one test at a time uses it, and finds it empty.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

use url::Url;

use crate::error::{Doing, Error, Result};
use crate::raw::{RawClient, Reply};

/// How long a test waits for its turn. A test that starts two servers waits for itself, and fails here.
const TURN: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct SharedServer {
    url: Url,
    text: String,
    _turn: File,
}

impl SharedServer {
    /// Waits for the turn and wipes the server.
    pub(crate) async fn acquire(text: &str) -> Result<Self> {
        let url = parse(text)?;
        let turn = turn(&url).await?;
        let server = Self { url, text: text.to_owned(), _turn: turn };
        server.wipe().await.map_err(|error| server.failed(error.to_string()))?;
        Ok(server)
    }

    pub(crate) fn url(&self) -> &str {
        &self.text
    }

    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or("127.0.0.1")
    }

    pub(crate) fn port(&self) -> u16 {
        self.url.port().unwrap_or(6379)
    }

    pub(crate) fn user(&self) -> Option<String> {
        Some(decode(self.url.username())).filter(|user| !user.is_empty())
    }

    pub(crate) fn password(&self) -> Option<String> {
        self.url.password().map(decode)
    }

    fn failed(&self, reason: String) -> Error {
        Error::Shared { url: without_password(&self.url), reason }
    }

    async fn wipe(&self) -> Result<()> {
        let mut client = RawClient::connect_to(self.host(), self.port()).await?;
        if let Some(password) = self.password() {
            let user = self.user().unwrap_or_else(|| "default".into());
            ok(client.command(&["AUTH", &user, &password]).await?)?;
        }
        ok(client.command(&["FLUSHALL", "SYNC"]).await?)?;
        ok(client.command(&["FUNCTION", "FLUSH", "SYNC"]).await?)?;
        ok(client.command(&["SCRIPT", "FLUSH", "SYNC"]).await?)?;
        let users = ok(client.command(&["ACL", "USERS"]).await?)?;
        let own = self.user();
        for user in users.items().iter().map(Reply::text) {
            if user != "default" && Some(&user) != own.as_ref() {
                ok(client.command(&["ACL", "DELUSER", &user]).await?)?;
            }
        }
        Ok(())
    }
}

fn ok(reply: Reply) -> Result<Reply> {
    match reply {
        Reply::Error(text) => Err(Error::Protocol(text)),
        reply => Ok(reply),
    }
}

fn parse(text: &str) -> Result<Url> {
    let bad = |reason: &str| Error::Shared { url: text.to_owned(), reason: reason.to_owned() };
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if url.scheme() != "redis" || url.host_str().is_none_or(str::is_empty) {
        return Err(Error::Shared {
            url: without_password(&url),
            reason: "only redis://[[user]:password@]host[:port] is understood".into(),
        });
    }
    Ok(url)
}

fn without_password(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only for URLs that cannot have a password.
    let _ = url.set_password(None);
    url.to_string()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A lock that works between threads and programs, and ends with its holder.
async fn turn(url: &Url) -> Result<File> {
    let name = format!("ff-testserver-{}-{}.lock", url.host_str().unwrap_or_default(), url.port().unwrap_or(6379));
    let file = File::create(std::env::temp_dir().join(name)).doing("opening the shared server's lock")?;
    let deadline = Instant::now() + TURN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Shared {
                    url: without_password(url),
                    reason: format!("no turn within {TURN:?}; a test that starts two servers needs private ones"),
                });
            }
            Err(TryLockError::Error(source)) => return Err(source).doing("locking the shared server"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TestServer;

    #[tokio::test]
    async fn a_shared_server_is_wiped_at_the_start() {
        let server = TestServer::builder().password("pw").build().await.unwrap();
        server.command(&["SET", "key", "value"]).await.unwrap();
        server.command(&["ACL", "SETUSER", "someone", "on"]).await.unwrap();
        let library = "#!lua name=mine\nserver.register_function('f', function() return 1 end)";
        assert_eq!(server.command(&["FUNCTION", "LOAD", library]).await.unwrap().text(), "mine");

        let shared = SharedServer::acquire(server.url()).await.unwrap();
        assert_eq!(shared.url(), server.url());
        assert_eq!(server.command(&["DBSIZE"]).await.unwrap().int(), Some(0));
        assert_eq!(server.command(&["ACL", "USERS"]).await.unwrap().text(), "default");
        assert_eq!(server.command(&["FUNCTION", "LIST"]).await.unwrap().items(), []);
    }

    #[tokio::test]
    async fn the_second_test_waits_until_the_first_is_done() {
        let server = TestServer::start().await.unwrap();
        let first = SharedServer::acquire(server.url()).await.unwrap();
        let mut second = Box::pin(SharedServer::acquire(server.url()));
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut second).await.is_err());
        drop(first);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn a_shared_server_that_is_not_there_is_named() {
        let error = SharedServer::acquire("redis://:s3cret@127.0.0.1:1").await.unwrap_err().to_string();
        assert!(error.contains("redis://127.0.0.1:1") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn only_plain_urls_are_understood() {
        assert!(parse("redis://localhost:7000").is_ok());
        for bad in ["rediss://localhost", "localhost:7000", "redis://", "unix:///tmp/x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_never_shows_the_password() {
        let error = parse("rediss://:s3cret@localhost").unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn escapes_in_a_password_are_decoded() {
        assert_eq!(decode("a%40b%2Fc%"), "a@b/c%");
    }
}
