//! A minimal client, for readiness checks and for tests that act as another client of the server. RESP2, one
//! connection, one reply at a time; it does not reconnect.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use crate::error::{Doing, Error, Result};

/// One reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status such as `OK`.
    Status(String),
    /// An error, with its code as the first word.
    Error(String),
    /// A number.
    Int(i64),
    /// A string of bytes.
    Bulk(Vec<u8>),
    /// Nil.
    Nil,
    /// Several replies.
    Array(Vec<Reply>),
}

impl Reply {
    /// The reply as text: a status, an error, a number or a string unchanged, nil as "", several replies one per line.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Int(number) => number.to_string(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Nil => String::new(),
            Self::Array(items) => items.iter().map(Self::text).collect::<Vec<_>>().join("\n"),
        }
    }

    /// The number, if the reply is one.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The items of an array; empty for any other reply.
    #[must_use]
    pub fn items(&self) -> &[Reply] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// Whether the server refused.
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// A plain connection.
#[derive(Debug)]
pub struct RawClient {
    stream: BufStream<TcpStream>,
}

impl RawClient {
    /// Connects to a plain port of this machine.
    ///
    /// # Errors
    /// If no server listens there.
    pub async fn connect(port: u16) -> Result<Self> {
        Self::connect_to("127.0.0.1", port).await
    }

    /// Connects to a plain port of a host.
    pub(crate) async fn connect_to(host: &str, port: u16) -> Result<Self> {
        let stream = TcpStream::connect((host, port)).await.doing("connecting")?;
        stream.set_nodelay(true).doing("connecting")?;
        Ok(Self { stream: BufStream::new(stream) })
    }

    /// Sends one command and reads its reply. A refusal is a [`Reply::Error`], not an `Err`.
    ///
    /// # Errors
    /// If the connection ends or the answer is not RESP2.
    ///
    /// # Cancel safety
    /// Not cancel safe: after a dropped future the next reply may belong to the previous command.
    pub async fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply> {
        self.stream.write_all(&encode(args)).await.doing("sending a command")?;
        self.stream.flush().await.doing("sending a command")?;
        self.receive().await
    }

    /// Reads the next reply, for subscribers.
    ///
    /// # Errors
    /// As for [`command`](Self::command).
    ///
    /// # Cancel safety
    /// Not cancel safe.
    pub async fn receive(&mut self) -> Result<Reply> {
        read_reply(&mut self.stream).await
    }
}

fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

fn read_reply<R>(input: &mut R) -> BoxFuture<'_, Result<Reply>>
where
    R: AsyncBufReadExt + Unpin + Send,
{
    Box::pin(async move {
        let line = read_line(input).await?;
        let bad = || Error::Protocol(line.clone());
        let Some((kind, rest)) = line.split_at_checked(1) else { return Err(bad()) };
        match kind {
            "+" => Ok(Reply::Status(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => rest.parse().map(Reply::Int).map_err(|_| bad()),
            "$" => match rest.parse::<i64>().map_err(|_| bad())? {
                length if length < 0 => Ok(Reply::Nil),
                length => {
                    let mut bytes = vec![0; usize::try_from(length).map_err(|_| bad())? + 2];
                    input.read_exact(&mut bytes).await.doing("reading a reply")?;
                    bytes.truncate(bytes.len() - 2);
                    Ok(Reply::Bulk(bytes))
                }
            },
            "*" => match rest.parse::<i64>().map_err(|_| bad())? {
                length if length < 0 => Ok(Reply::Nil),
                length => {
                    let mut items = Vec::new();
                    for _ in 0..length {
                        items.push(read_reply(input).await?);
                    }
                    Ok(Reply::Array(items))
                }
            },
            _ => Err(bad()),
        }
    })
}

async fn read_line<R: AsyncBufReadExt + Unpin>(input: &mut R) -> Result<String> {
    let mut line = String::new();
    let read = input.read_line(&mut line).await.doing("reading a reply")?;
    if read == 0 {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)).doing("reading a reply");
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parse(mut text: &[u8]) -> Result<Reply> {
        read_reply(&mut text).await
    }

    #[tokio::test]
    async fn every_kind_of_reply_is_read() {
        assert_eq!(parse(b"+OK\r\n").await.unwrap(), Reply::Status("OK".into()));
        assert_eq!(parse(b"-ERR no\r\n").await.unwrap(), Reply::Error("ERR no".into()));
        assert_eq!(parse(b":-7\r\n").await.unwrap().int(), Some(-7));
        assert_eq!(parse(b"$-1\r\n").await.unwrap(), Reply::Nil);
        assert_eq!(parse(b"$4\r\na\r\nb\r\n").await.unwrap().text(), "a\r\nb");
        let nested = parse(b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n").await.unwrap();
        assert_eq!(nested, Reply::Array(vec![Reply::Array(vec![Reply::Int(1)]), Reply::Bulk(vec![])]));
    }

    #[tokio::test]
    async fn a_malformed_reply_is_an_error() {
        assert!(matches!(parse(b"HTTP/1.1 400\r\n").await, Err(Error::Protocol(_))));
        assert!(matches!(parse(b"").await, Err(Error::Io { .. })));
        assert!(matches!(parse(b"$5\r\nabc").await, Err(Error::Io { .. })));
    }

    #[test]
    fn a_command_is_an_array_of_strings() {
        assert_eq!(encode(&["GET", "a b"]), b"*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
    }
}
