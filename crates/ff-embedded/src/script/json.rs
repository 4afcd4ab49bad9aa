//! `cjson.encode` for what the library encodes: texts, numbers and flat tables, byte for byte as the server's.

use mlua::{Lua, Table, Value};

pub(super) fn encode(lua: &Lua, value: Value) -> mlua::Result<mlua::String> {
    let mut out = Vec::new();
    append(&mut out, &value)?;
    lua.create_string(out)
}

fn append(out: &mut Vec<u8>, value: &Value) -> mlua::Result<()> {
    match value {
        Value::Nil => out.extend_from_slice(b"null"),
        Value::Boolean(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Integer(number) => append_number(out, *number as f64)?,
        Value::Number(number) => append_number(out, *number)?,
        Value::String(text) => append_text(out, &text.as_bytes()),
        Value::Table(table) => append_table(out, table)?,
        other => return refuse(format!("Cannot serialise {}: type not supported", other.type_name())),
    }
    Ok(())
}

fn refuse<T>(reason: String) -> mlua::Result<T> {
    Err(mlua::Error::runtime(reason))
}

/// Fourteen significant digits, as C's `%.14g`.
fn append_number(out: &mut Vec<u8>, number: f64) -> mlua::Result<()> {
    if !number.is_finite() {
        return refuse("Cannot serialise number: must not be NaN or Infinity".to_owned());
    }
    out.extend_from_slice(general(number).as_bytes());
    Ok(())
}

const DIGITS: i32 = 14;

fn general(number: f64) -> String {
    if number == 0.0 {
        return if number.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{number:.13e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let without_zeros = |text: &str| {
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
        text.to_owned()
    };
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
        return without_zeros(&format!("{number:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_zeros(mantissa), exponent.abs())
}

fn append_text(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'/' => out.extend_from_slice(b"\\/"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0..0x20 | 0x7f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
}

/// A table with keys 1, 2, … is an array, any other an object. Nested tables are not supported.
fn append_table(out: &mut Vec<u8>, table: &Table) -> mlua::Result<()> {
    let length = table.raw_len();
    let pairs: Vec<(Value, Value)> = table.pairs().collect::<mlua::Result<_>>()?;
    let is_array = length > 0 && pairs.len() == length;
    let (open, close) = if is_array { (b'[', b']') } else { (b'{', b'}') };
    out.push(open);
    for (place, (name, value)) in pairs.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        if !is_array {
            append_name(out, name)?;
            out.push(b':');
        }
        if value.is_table() {
            return refuse("this host encodes flat tables only".to_owned());
        }
        append(out, value)?;
    }
    out.push(close);
    Ok(())
}

fn append_name(out: &mut Vec<u8>, name: &Value) -> mlua::Result<()> {
    match name {
        Value::String(text) => append_text(out, &text.as_bytes()),
        Value::Integer(_) | Value::Number(_) => {
            out.push(b'"');
            append(out, name)?;
            out.push(b'"');
        }
        _ => return refuse("Cannot serialise table: table key must be a number or string".to_owned()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::general;

    #[test]
    fn numbers_have_at_most_fourteen_digits() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (1.0 / 3.0, "0.33333333333333"),
            (1_700_000_000_000.0, "1700000000000"),
            (1e14, "1e+14"),
            (123_456_789_012_345.0, "1.2345678901234e+14"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
        ] {
            assert_eq!(general(number), text);
        }
    }
}
