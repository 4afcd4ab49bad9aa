//! Errors in the Lua code: raised by the host, seen by the library as tables with `err`, and reported with their place.

use mlua::{Lua, Table, Value};

/// An error that the host raises.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

pub(super) fn raise(text: &str) -> mlua::Error {
    mlua::Error::external(Raised(text.to_owned()))
}

/// An error as the library sees it.
pub(super) fn table(lua: &Lua, text: &str) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(0, 3)?;
    table.raw_set("err", text)?;
    Ok(Value::Table(table))
}

/// Turns an error of the host into a table, and leaves everything else unchanged.
pub(super) fn as_table(lua: &Lua, raised: Value) -> mlua::Result<Value> {
    match &raised {
        Value::Error(error) => table(lua, &text_of(error)),
        _ => Ok(raised),
    }
}

/// Turns any raised error into a table that names the place: the innermost function of the library on the stack.
pub(super) fn describe(lua: &Lua, raised: Value, chunk: &'static str) -> mlua::Result<Table> {
    let table = match as_table(lua, raised)? {
        Value::Table(table) => table,
        other => {
            let table = lua.create_table()?;
            let text = lua.coerce_string(other.clone())?.map(|text| text.to_string_lossy());
            let text = text.unwrap_or_else(|| other.type_name().to_owned());
            table.raw_set("err", format!("ERR {text}"))?;
            table
        }
    };
    if let Some(line) = line_in(lua, chunk) {
        table.raw_set("source", chunk)?;
        table.raw_set("line", line)?;
    }
    Ok(table)
}

fn text_of(error: &mlua::Error) -> String {
    match error {
        mlua::Error::CallbackError { cause, .. } => text_of(cause),
        error => match error.downcast_ref::<Raised>() {
            Some(Raised(text)) => text.clone(),
            None => format!("ERR {error}"),
        },
    }
}

fn line_in(lua: &Lua, chunk: &str) -> Option<usize> {
    let mut level = 1;
    loop {
        let line = lua.inspect_stack(level, |frame| {
            (frame.source().source.as_deref() == Some(chunk)).then(|| frame.current_line())
        })?;
        if let Some(line) = line {
            return line;
        }
        level += 1;
    }
}
