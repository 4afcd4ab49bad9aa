//! A file for the rules: its path in the repository, its text, and its text without comments.

/// One file of the repository.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    code: String,
}

impl Source {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("rs") => without_comments(&text, &RUST),
            Some("lua") => without_comments(&text, &LUA),
            _ => text.clone(),
        };
        Self { path, text, code }
    }

    /// The lines without comments, counted from one. Strings are left as they are.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// All lines, counted from one.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn is_lua(&self) -> bool {
        self.path.ends_with(".lua")
    }

    /// The crate under `crates/` whose `src` this belongs to.
    pub(crate) fn source_of(&self) -> Option<&str> {
        let (name, rest) = self.path.strip_prefix("crates/")?.split_once('/')?;
        rest.starts_with("src/").then_some(name)
    }

    /// A placeholder for a crate that is not written yet.
    pub(crate) fn is_placeholder(&self) -> bool {
        self.text.len() < 100 && self.text.starts_with("//! placeholder")
    }
}

/// The comments and strings of a language.
struct Language {
    line_comment: &'static str,
    block_comment: (&'static str, &'static str),
    quotes: &'static [char],
    /// Whether `r"…"`, `r#"…"#` and so on are strings.
    raw_strings: bool,
}

const RUST: Language = Language { line_comment: "//", block_comment: ("/*", "*/"), quotes: &['"'], raw_strings: true };
const LUA: Language =
    Language { line_comment: "--", block_comment: ("--[[", "]]"), quotes: &['"', '\''], raw_strings: false };

/// Blanks comments and keeps line breaks. Good enough for our own formatted sources, not a parser.
fn without_comments(text: &str, language: &Language) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let (skipped, kept) = if rest.starts_with(language.block_comment.0) {
            let end = rest.find(language.block_comment.1).map_or(rest.len(), |at| at + language.block_comment.1.len());
            (end, false)
        } else if rest.starts_with(language.line_comment) {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if language.quotes.contains(&next) {
            (string_end(rest, next), true)
        } else if let Some(end) = raw_string_end(rest).filter(|_| language.raw_strings) {
            (end, true)
        } else if language.raw_strings && (rest.starts_with("'\"'") || rest.starts_with("'\\\"'")) {
            // A quote as a character does not open a string.
            (rest[1..].find('\'').map_or(1, |at| at + 2), true)
        } else {
            (next.len_utf8(), true)
        };
        let (piece, tail) = rest.split_at(skipped);
        if kept {
            out.push_str(piece);
        } else {
            out.extend(piece.chars().filter(|c| *c == '\n'));
        }
        rest = tail;
    }
    out
}

fn string_end(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_end(text: &str) -> Option<usize> {
    let after_r = text.strip_prefix('r')?;
    let hashes = after_r.len() - after_r.trim_start_matches('#').len();
    let body = after_r[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len();
    Some(body.find(&close).map_or(text.len(), |at| start + at + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(path: &str, text: &str) -> String {
        Source::new(path, text).code
    }

    #[test]
    fn rust_comments_are_removed_and_strings_are_kept() {
        assert_eq!(code("a.rs", "//! doc\nlet a = \"// no\"; // yes\n"), "\nlet a = \"// no\"; \n");
        assert_eq!(code("a.rs", "a /* one\ntwo */ b"), "a \n b");
        assert_eq!(code("a.rs", "let q = '\"'; // gone"), "let q = '\"'; ");
        assert_eq!(code("a.rs", "r#\"a \" // b\"# // c"), "r#\"a \" // b\"# ");
        assert_eq!(code("a.rs", r#""a\" // b" // c"#), r#""a\" // b" "#);
    }

    #[test]
    fn lua_comments_are_removed_and_strings_are_kept() {
        assert_eq!(code("a.lua", "x = '-- no' -- yes\n--[[ a\nb ]] y"), "x = '-- no' \n\n y");
    }

    #[test]
    fn the_crate_of_a_source_is_known() {
        assert_eq!(Source::new("crates/ff-core/src/id.rs", "").source_of(), Some("ff-core"));
        assert_eq!(Source::new("crates/ff-core/tests/id.rs", "").source_of(), None);
        assert_eq!(Source::new("xtask/src/main.rs", "").source_of(), None);
    }
}
