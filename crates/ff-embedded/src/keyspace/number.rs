//! Numbers as the server reads and writes them.

use super::CommandError;

/// Parses an integer as strictly as the server: no sign but `-`, no leading zero, no space.
pub(crate) fn integer(text: &[u8]) -> Result<i64, CommandError> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let parsed = plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten();
    parsed.ok_or(CommandError::NOT_INTEGER)
}

/// Parses a score.
pub(crate) fn float(text: &[u8]) -> Option<f64> {
    let number: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (!number.is_nan()).then_some(number)
}

/// Writes a float: integers plainly, everything else as the shortest text that reads back as the same number.
pub(crate) fn write_float(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number.is_nan() {
        return "nan".to_owned();
    }
    // Above this the server no longer treats it as an integer.
    const LARGEST: f64 = (1_u64 << 62) as f64;
    if number.fract() == 0.0 && number.abs() <= LARGEST {
        #[allow(clippy::cast_possible_truncation, reason = "it is an integer within the range")]
        return (number as i64).to_string();
    }
    shortest(number)
}

/// The shortest digits, with an exponent where the server writes one.
fn shortest(number: f64) -> String {
    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // The place of the last digit, as a power of ten.
    let last = exponent - (length - 1);
    let sign = if number < 0.0 { "-" } else { "" };
    if last >= 0 && exponent.abs() < length + 7 {
        return format!("{sign}{digits}{}", "0".repeat(last.unsigned_abs() as usize));
    }
    if last < 0 && (last > -7 || exponent.abs() < 4) {
        let offset = length + last;
        if offset <= 0 {
            return format!("{sign}0.{}{digits}", "0".repeat(offset.unsigned_abs() as usize));
        }
        let (whole, fraction) = digits.split_at(offset.unsigned_abs() as usize);
        return format!("{sign}{whole}.{fraction}");
    }
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let direction = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{first}{point}{rest}e{direction}{}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_strictly() {
        for (text, number) in [("0", 0), ("-7", -7), ("9223372036854775807", i64::MAX)] {
            assert_eq!(integer(text.as_bytes()), Ok(number));
        }
        for bad in ["", "-", "-0", "+1", "01", " 1", "1.0", "9223372036854775808", "x"] {
            assert_eq!(integer(bad.as_bytes()), Err(CommandError::NOT_INTEGER), "{bad}");
        }
    }

    #[test]
    fn floats_are_written_as_the_server_writes_them() {
        for (number, text) in [
            (0.0, "0"),
            (1_700_000_000_000.0, "1700000000000"),
            (-3.0, "-3"),
            (0.1, "0.1"),
            (1.5e-7, "1.5e-7"),
            (3.25, "3.25"),
            (1e21, "1e+21"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(write_float(number), text);
        }
    }
}
