//! Text for people: durations, times, sizes, counts and tables.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    time::{Duration, SystemTime},
};

use comfy_table::{ContentArrangement, Table, presets};

/// A cursor of the largest deployment, and any password, is smaller.
const SMALL_FILE_BYTES: u64 = 4 << 20;

/// A length of time with about three digits: `85ms`, `1.20s`, `42.0s`, `3m07s`, `2h05m`, `3d4h`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 0.9995 => format!("{:.0}ms", s * 1e3),
        s if s < 9.995 => format!("{s:.2}s"),
        s if s < 59.95 => format!("{s:.1}s"),
        s if s < 3599.5 => format!("{}m{:02}s", s.round() as u64 / 60, s.round() as u64 % 60),
        s if s < 86_400.0 => format!("{}h{:02}m", s as u64 / 3600, s as u64 % 3600 / 60),
        s => format!("{}d{}h", s as u64 / 86_400, s as u64 % 86_400 / 3600),
    }
}

/// A point in time, given in milliseconds since 1970, as RFC 3339 in UTC.
pub(crate) fn timestamp(ms: u64) -> String {
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)) {
        // The format has only four digits for the year.
        Some(time) if ms < 253_402_300_800_000 => humantime::format_rfc3339_millis(time).to_string(),
        _ => format!("{ms} ms"),
    }
}

/// Bytes with their unit: `512 B`, `3.4 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// The text of a file, without the byte order mark that some editors write.
///
/// # Errors
/// If it is not UTF-8, with the encoding that it seems to have.
pub(crate) fn decoded(bytes: Vec<u8>) -> Result<String, &'static str> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("it is UTF-16; save it as UTF-8");
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text")?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The text without the numbers that the standard library appends to errors of the system: ` (os error 2)`.
pub(crate) fn without_error_numbers(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (os error ") {
        kept.push_str(before);
        let digits = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
        rest = match digits.strip_prefix(')') {
            Some(after_it) => after_it,
            None => {
                kept.push_str(" (os error ");
                after
            }
        };
    }
    kept.push_str(rest);
    kept
}

/// The content of a file that is small by its nature. Devices that never end are refused too.
///
/// # Errors
/// If it cannot be read, is not text, or is larger.
pub(crate) fn small_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SMALL_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SMALL_FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {} MiB", SMALL_FILE_BYTES >> 20)));
    }
    Ok(bytes)
}

/// An argument for a message: one line of bounded length. A URL is replaced, because it may contain a password.
pub(crate) fn argument(text: &str) -> String {
    if text.contains("://") { "…".to_owned() } else { text.chars().take(80).flat_map(char::escape_debug).collect() }
}

/// `1 execution`, `2 executions`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Whether a terminal would not show the character but act on it, or read the line in another order.
pub(crate) fn is_active(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text of others, safe for a terminal and for programs that read lines: active characters are shown escaped.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_active(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// One line of a program's output, safe for a terminal: escape sequences are removed, other control characters are
/// shown escaped, and of text that overwrote itself the last version is kept.
pub(crate) fn for_terminal(line: &str) -> String {
    let text = console::strip_ansi_codes(line.trim_end_matches(['\r', '\n']));
    let last = text.rsplit('\r').next().unwrap_or_default();
    let mut shown = String::with_capacity(last.len());
    for c in last.chars() {
        match c {
            '\t' => shown.push_str("    "),
            c if is_active(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// A table without boxes, as wide as its content or the terminal.
pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// The same with column names.
pub(crate) fn table_of<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = table();
    table.set_header(columns.map(str::to_uppercase));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_about_three_digits() {
        let shown = |ms| span(Duration::from_millis(ms));
        assert_eq!(shown(85), "85ms");
        assert_eq!(shown(1_204), "1.20s");
        assert_eq!(shown(42_000), "42.0s");
        assert_eq!(shown(59_990), "1m00s");
        assert_eq!(shown(187_000), "3m07s");
        assert_eq!(shown(7_530_000), "2h05m");
        assert_eq!(shown(3 * 86_400_000 + 4 * 3_600_000), "3d4h");
    }

    #[test]
    fn a_line_for_a_terminal_contains_no_control_characters() {
        assert_eq!(for_terminal("\x1b[2J\x1b[31mred\x1b[0m"), "red");
        assert_eq!(for_terminal("10%\r20%\r"), "20%");
        assert_eq!(for_terminal("a\tb\u{8}\u{202e}c"), "a    b\\u{8}\\u{202e}c");
        assert!(!for_terminal("\x1b\u{9b}2J\x1b]8;;x\x07").chars().any(char::is_control));
    }

    #[test]
    fn numbers_of_system_errors_are_left_out_and_nothing_else() {
        let left = |text| without_error_numbers(text);
        assert_eq!(left("a: No such file (os error 2), and so b (os error 13)"), "a: No such file, and so b");
        assert_eq!(left("a (os error x) b (os error 2"), "a (os error x) b (os error 2");
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        assert!(small_file(Path::new("/dev/zero")).unwrap_err().to_string().contains("larger than 4 MiB"));
        assert_eq!(small_file(Path::new("/dev/null")).unwrap(), b"");
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_a_text() {
        assert_eq!(decoded(b"\xef\xbb\xbfa: b".to_vec()).unwrap(), "a: b");
        assert_eq!(decoded("ä".into()).unwrap(), "ä");
        assert!(decoded(b"\xff\xfea\0".to_vec()).unwrap_err().contains("UTF-16"));
        assert!(decoded(b"\xe4".to_vec()).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn times_and_sizes_are_readable() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(u64::MAX), format!("{} ms", u64::MAX));
        assert_eq!((bytes(512), bytes(3_565_158)), ("512 B".to_owned(), "3.4 MiB".to_owned()));
        assert_eq!((count(1, "flow"), count(0, "flow")), ("1 flow".to_owned(), "0 flows".to_owned()));
    }
}
