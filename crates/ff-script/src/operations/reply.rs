//! Reading a flat reply from front to back.

use std::str::FromStr;

use bytes::Bytes;
use ff_core::EngineError;

pub(super) struct ReplyReader<'a> {
    op: &'static str,
    rest: &'a [Bytes],
}

impl<'a> ReplyReader<'a> {
    pub(super) fn new(op: &'static str, reply: &'a [Bytes]) -> Self {
        Self { op, rest: reply }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, EngineError> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| self.malformed("it is too short"))?;
        self.rest = rest;
        Ok(first.clone())
    }

    pub(super) fn text(&mut self) -> Result<&'a str, EngineError> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| self.malformed("it is too short"))?;
        self.rest = rest;
        std::str::from_utf8(first).map_err(|_| self.malformed("it holds text that is not UTF-8"))
    }

    /// A text; the empty text means absent.
    pub(super) fn optional_text(&mut self) -> Result<Option<&'a str>, EngineError> {
        self.text().map(|text| Some(text).filter(|text| !text.is_empty()))
    }

    pub(super) fn parse<T: FromStr>(&mut self) -> Result<T, EngineError> {
        let text = self.text()?;
        text.parse().map_err(|_| self.malformed(&format!("`{}` is not a valid value here", text.escape_debug())))
    }

    pub(super) fn number<T: FromStr>(&mut self) -> Result<T, EngineError> {
        self.parse()
    }

    /// A value; the empty text means absent.
    pub(super) fn optional<T: FromStr>(&mut self) -> Result<Option<T>, EngineError> {
        if self.rest.first().is_some_and(Bytes::is_empty) {
            self.rest = &self.rest[1..];
            return Ok(None);
        }
        self.parse().map(Some)
    }

    pub(super) fn flag(&mut self) -> Result<bool, EngineError> {
        self.text().map(|text| text == "1")
    }

    pub(super) fn malformed(&self, detail: &str) -> EngineError {
        EngineError::protocol(self.op, format!("the library's reply cannot be read: {detail}"))
    }
}

#[cfg(test)]
mod tests {
    use ff_core::{FlowId, Namespace};

    use super::*;

    #[test]
    fn a_reply_that_is_too_short_or_of_another_shape_is_an_error_and_not_a_panic() {
        let reply = [Bytes::from_static(b"x")];
        assert!(ReplyReader::new("test", &reply).number::<u64>().unwrap_err().to_string().contains("`x`"));
        let mut reader = ReplyReader::new("test", &[]);
        assert!(reader.text().is_err() && reader.optional::<u8>().is_err());
        assert!(ReplyReader::new("test", &[Bytes::from_static(b"\xff")]).text().is_err());
    }

    #[test]
    fn a_malformed_name_of_the_server_is_a_protocol_error_and_not_a_refusal_of_the_input() {
        let reply = [Bytes::from_static(b"a name with spaces"), Bytes::from_static(b"x")];
        let mut reader = ReplyReader::new("test", &reply);
        let (name, id) = (reader.parse::<Namespace>().unwrap_err(), reader.optional::<FlowId>().unwrap_err());
        for error in [name, id] {
            assert!(matches!(error, EngineError::Protocol { .. }), "{error:?}");
        }
    }
}
