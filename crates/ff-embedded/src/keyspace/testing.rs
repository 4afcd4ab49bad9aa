//! Commands written as one line, for the tests of this module.

use std::borrow::Cow;

use super::{Access, CommandError, Keyspace, Value};

pub(super) struct Bed {
    pub(super) keys: Keyspace,
}

impl Bed {
    pub(super) fn new() -> Self {
        Self::seeded(0)
    }

    pub(super) fn seeded(seed: u64) -> Self {
        Self { keys: Keyspace::new(seed) }
    }

    fn execute(&mut self, command: &str) -> Result<Value<'static>, CommandError> {
        let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.keys.execute(&args, Access::Full).map(Value::into_owned)
    }

    pub(super) fn run(&mut self, command: &str) -> Value<'static> {
        self.execute(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub(super) fn fail(&mut self, command: &str) -> String {
        match self.execute(command) {
            Ok(value) => panic!("{command} gave {value:?}"),
            Err(error) => error.text().to_owned(),
        }
    }
}

pub(super) fn int(number: i64) -> Value<'static> {
    Value::Integer(number)
}

pub(super) fn bulk(text: &str) -> Value<'static> {
    Value::Bulk(Cow::Owned(text.as_bytes().to_vec()))
}

pub(super) fn array<const N: usize>(items: [Value<'static>; N]) -> Value<'static> {
    Value::Array(items.into())
}

/// Words as an array of strings.
pub(super) fn texts(words: &str) -> Value<'static> {
    Value::Array(words.split_whitespace().map(bulk).collect())
}
