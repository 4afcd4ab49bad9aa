//! The reply of a command.

use std::borrow::Cow;

use bytes::Bytes;

/// A reply of RESP2. Strings are borrowed from the keyspace where possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nil.
    Nil,
    /// A number.
    Integer(i64),
    /// A status such as `OK`.
    Status(Cow<'a, [u8]>),
    /// A string of bytes.
    Bulk(Cow<'a, [u8]>),
    /// Several replies.
    Array(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    pub(crate) const fn status(text: &'static str) -> Self {
        Self::Status(Cow::Borrowed(text.as_bytes()))
    }

    pub(crate) const fn bulk(bytes: &'a [u8]) -> Self {
        Self::Bulk(Cow::Borrowed(bytes))
    }

    pub(crate) fn text(text: impl ToString) -> Self {
        Self::Bulk(Cow::Owned(text.to_string().into_bytes()))
    }

    pub(crate) fn count(number: usize) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }

    pub(crate) fn or_nil(bytes: Option<&'a [u8]>) -> Self {
        bytes.map_or(Self::Nil, Self::bulk)
    }

    /// The same reply, without borrowed data.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Nil => Value::Nil,
            Value::Integer(number) => Value::Integer(number),
            Value::Status(text) => Value::Status(Cow::Owned(text.into_owned())),
            Value::Bulk(bytes) => Value::Bulk(Cow::Owned(bytes.into_owned())),
            Value::Array(items) => Value::Array(items.into_iter().map(Value::into_owned).collect()),
        }
    }

    /// The reply as one string, if it is one; a number counts as its text.
    pub(crate) fn into_bytes(self) -> Option<Bytes> {
        match self {
            Value::Bulk(bytes) | Value::Status(bytes) => Some(Bytes::from(bytes.into_owned())),
            Value::Integer(number) => Some(Bytes::from(number.to_string())),
            Value::Nil | Value::Array(_) => None,
        }
    }
}

/// The reason why a command was refused, with the server's text; its first word is the error code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommandError(Cow<'static, str>);

impl CommandError {
    pub(crate) const WRONG_TYPE: Self =
        Self::fixed("WRONGTYPE Operation against a key holding the wrong kind of value");
    pub(crate) const SYNTAX: Self = Self::fixed("ERR syntax error");
    pub(crate) const NOT_INTEGER: Self = Self::fixed("ERR value is not an integer or out of range");
    pub(crate) const NOT_FLOAT: Self = Self::fixed("ERR value is not a valid float");
    pub(crate) const STREAM_ID: Self = Self::fixed("ERR Invalid stream ID specified as stream command argument");

    pub(crate) const fn fixed(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Cow::Owned(text.into()))
    }

    /// The number of arguments does not match the command.
    pub(crate) fn arity(command: &str) -> Self {
        Self::new(format!("ERR wrong number of arguments for '{command}' command"))
    }

    /// A function tried to create a key that its caller had not declared.
    pub(crate) fn undeclared(key: &[u8]) -> Self {
        let key = String::from_utf8_lossy(key);
        Self::new(format!("ERR the function creates the key '{key}', which is not among its KEYS"))
    }

    /// The error in the server's format.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}
