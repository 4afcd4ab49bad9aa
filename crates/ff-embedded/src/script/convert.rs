//! Conversion of values between Lua and the keyspace.

use std::borrow::Cow;

use mlua::{Either, Lua, Table};

use crate::keyspace::{CommandError, Value};

/// An item of a Lua array: text, the cheapest for Lua, or another value.
pub(super) type Item<'a> = Either<&'a str, Either<bool, mlua::BString>>;

/// Bytes as an item.
pub(super) struct LuaText<'a>(pub(super) &'a [u8]);

impl<'a> LuaText<'a> {
    pub(super) fn item(&self) -> Item<'a> {
        match std::str::from_utf8(self.0) {
            Ok(text) => Either::Left(text),
            Err(_) => Either::Right(Either::Right(self.0.into())),
        }
    }
}

/// Converts a command's reply to Lua.
pub(super) fn to_lua(lua: &Lua, reply: &Value<'_>) -> mlua::Result<mlua::Value> {
    Ok(match reply {
        Value::Nil => mlua::Value::Boolean(false),
        // As on the server, large integers lose their last digits: Lua's numbers are floats.
        Value::Integer(number) => mlua::Value::Integer(*number),
        Value::Bulk(bytes) => mlua::Value::String(lua.create_string(bytes)?),
        Value::Status(text) => {
            let table = lua.create_table_with_capacity(0, 1)?;
            table.raw_set("ok", lua.create_string(text)?)?;
            mlua::Value::Table(table)
        }
        Value::Array(items) => mlua::Value::Table(array_to_lua(lua, items)?),
    })
}

fn array_to_lua(lua: &Lua, items: &[Value<'_>]) -> mlua::Result<Table> {
    let flat = items.iter().all(|item| matches!(item, Value::Nil | Value::Bulk(_)));
    if !flat {
        let items: Vec<_> = items.iter().map(|item| to_lua(lua, item)).collect::<mlua::Result<_>>()?;
        return lua.create_sequence_from(items);
    }
    lua.create_sequence_from(items.iter().map(|item| match item {
        Value::Bulk(bytes) => LuaText(bytes).item(),
        _ => Either::Right(Either::Left(false)),
    }))
}

/// Converts the return value of a function to a reply; a table with `err` is an error.
pub(super) fn reply(value: &mlua::Value) -> Result<Value<'static>, CommandError> {
    Ok(match value {
        mlua::Value::String(text) => Value::Bulk(Cow::Owned(text.as_bytes().to_vec())),
        mlua::Value::Integer(number) => Value::Integer(*number),
        #[allow(clippy::cast_possible_truncation, reason = "the server cuts as well")]
        mlua::Value::Number(number) => Value::Integer(*number as i64),
        mlua::Value::Boolean(true) => Value::Integer(1),
        mlua::Value::Table(table) => return table_reply(table),
        _ => Value::Nil,
    })
}

fn table_reply(table: &Table) -> Result<Value<'static>, CommandError> {
    if let Some(text) = text_field(table, "err") {
        return Err(CommandError::new(text));
    }
    if let Some(text) = text_field(table, "ok") {
        return Ok(Value::Status(Cow::Owned(text.replace(['\r', '\n'], " ").into_bytes())));
    }
    let mut items = Vec::with_capacity(table.raw_len());
    for index in 1.. {
        match table.raw_get(index).unwrap_or(mlua::Value::Nil) {
            mlua::Value::Nil => break,
            // An error within an array gets a separate error type on the server, which no reply here needs.
            value => items.push(reply(&value)?),
        }
    }
    Ok(Value::Array(items))
}

fn text_field(table: &Table, name: &str) -> Option<String> {
    match table.raw_get(name) {
        Ok(mlua::Value::String(text)) => Some(text.to_string_lossy()),
        _ => None,
    }
}

/// Converts a raised error; `function` is named if the place in the library is known.
pub(super) fn raised(value: &mlua::Value, function: Option<&str>) -> CommandError {
    let mlua::Value::Table(table) = value else {
        return CommandError::new(format!("ERR {value:?}"));
    };
    let text = text_field(table, "err").unwrap_or_else(|| "ERR unknown error".to_owned());
    let place = (text_field(table, "source"), table.raw_get::<Option<u64>>("line").ok().flatten());
    match (place, function) {
        ((Some(source), Some(line)), Some(function)) => {
            CommandError::new(format!("{text} script: {function}, on {source}:{line}."))
        }
        _ => CommandError::new(text),
    }
}
