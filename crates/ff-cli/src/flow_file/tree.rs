//! A YAML document as a tree that keeps every text as it is written in the file, with its position.
//!
//! No text is converted to a number: `1.10`, `0x1F` and `yes` stay unchanged, whatever their length.
//!
//! A few lines can expand to gigabytes, since an alias repeats the whole content of its anchor in three bytes. Aliased
//! nodes are therefore shared in the tree, and a document that its aliases make too large is refused.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    rc::Rc,
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

/// The largest size of a document with its aliases. The payloads of a flow are limited to much less.
const BYTES: usize = 64 << 20;
/// The size of a value beside its text.
const VALUE_BYTES: usize = 64;
/// The deepest nesting of lists and mappings. A flow has four levels, and one more for each merge.
const DEPTH: usize = 64;
/// The merge key: the entries of its value are added to the mapping.
const MERGE: &str = "<<";

/// A mistake in a flow file, and its position.
#[derive(Debug)]
pub(super) struct FlowFileError {
    what: String,
    position: Position,
    /// Whether the text is not YAML there. A command without quotes may be the cause.
    syntax: bool,
}

/// Line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl FlowFileError {
    /// Prepends the subject.
    pub(super) fn about(mut self, what: impl fmt::Display) -> Self {
        self.what = format!("{what}: {}", self.what);
        self
    }

    /// Appends a hint.
    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.what = format!("{}; {hint}", self.what);
        self
    }

    pub(super) const fn line(&self) -> usize {
        self.position.line
    }

    pub(super) const fn is_syntax(&self) -> bool {
        self.syntax
    }
}

impl fmt::Display for FlowFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {} column {}", self.what, self.position.line, self.position.column)
    }
}

#[derive(Debug)]
pub(super) struct Node {
    position: Position,
    value: Value,
    weight: usize,
}

#[derive(Debug)]
enum Value {
    Text {
        text: String,
        /// Whether it is written without quotes.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<(Rc<Node>, Rc<Node>)>),
}

/// One entry of a mapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct MapEntry<'a> {
    pub(super) key: &'a str,
    pub(super) at: &'a Node,
    pub(super) value: &'a Node,
}

impl Node {
    /// The error for this value.
    pub(super) fn error(&self, what: impl Into<String>) -> FlowFileError {
        FlowFileError { what: what.into(), position: self.position, syntax: false }
    }

    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// Whether the value is absent: empty, `~` or `null`, without quotes.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(&self.value, Value::Text { text, plain: true } if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Whether it is an unquoted text.
    pub(super) const fn is_plain(&self) -> bool {
        matches!(self.value, Value::Text { plain: true, .. })
    }

    pub(super) const fn list(&self) -> Option<&Vec<Rc<Self>>> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The text, as it is written in the file.
    pub(super) fn text(&self) -> Result<&str, FlowFileError> {
        match &self.value {
            Value::Text { text, .. } => Ok(text),
            Value::List(_) => Err(self.error("expected a text, not a list")),
            Value::Map(_) => Err(self.error("expected a text, not a mapping")),
        }
    }

    /// The entries of a mapping in the file's order: its own, then those that its merge keys add.
    pub(super) fn entries(&self) -> Result<Vec<MapEntry<'_>>, FlowFileError> {
        let Value::Map(pairs) = &self.value else {
            return Err(self.error("expected a mapping, as in `name: value`"));
        };
        let mut names = HashSet::with_capacity(pairs.len());
        let mut entries = Vec::with_capacity(pairs.len());
        let mut merged = Vec::new();
        for (at, value) in pairs {
            let key = at.text().map_err(|wrong| wrong.about("a key"))?;
            if key == MERGE {
                merged.push(value);
            } else if names.insert(key) {
                entries.push(MapEntry { key, at, value });
            } else {
                return Err(at.error(format!("`{}` occurs twice; names are unique", key.escape_debug())));
            }
        }
        for value in merged {
            let of_list = value.list().map(Vec::as_slice).unwrap_or_default();
            let maps = if of_list.is_empty() { std::slice::from_ref(value) } else { of_list };
            for map in maps {
                let more = map.entries().map_err(|wrong| wrong.about("the merge key `<<`"))?;
                // Existing entries take precedence: the mapping's own, and those of earlier merges.
                entries.extend(more.into_iter().filter(|entry| names.insert(entry.key)));
            }
        }
        Ok(entries)
    }
}

/// A list or mapping that is not complete yet.
struct OpenNode {
    anchor: usize,
    position: Position,
    weight: usize,
    value: Value,
    /// For a mapping: the key whose value comes next.
    key: Option<Rc<Node>>,
}

impl OpenNode {
    fn new(anchor: usize, position: Position, value: Value) -> Self {
        Self { anchor, position, weight: VALUE_BYTES, value, key: None }
    }

    fn add(&mut self, node: Rc<Node>) -> Result<(), FlowFileError> {
        self.weight += node.weight;
        if self.weight > BYTES {
            let what = format!("its aliases expand it to more than {} MiB; use fewer aliases", BYTES >> 20);
            return Err(FlowFileError { what, position: self.position, syntax: false });
        }
        match (&mut self.value, self.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(_), None) => self.key = Some(node),
            (Value::Map(pairs), Some(key)) => pairs.push((key, node)),
            (Value::Text { .. }, _) => {}
        }
        Ok(())
    }

    fn close(self) -> Rc<Node> {
        Rc::new(Node { position: self.position, value: self.value, weight: self.weight })
    }
}

fn position(marker: &Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

fn malformed(error: &ScanError) -> FlowFileError {
    let (what, syntax) = match error.info() {
        "recursion limit exceeded" => (too_deep(), false),
        said if said.starts_with("tabs ") => ("lines are indented with spaces, and here is a tab".to_owned(), false),
        said => (said.to_owned(), true),
    };
    FlowFileError { what, position: position(error.marker()), syntax }
}

fn too_deep() -> String {
    format!("more than {DEPTH} lists and mappings are nested")
}

/// Reads a document.
///
/// # Errors
/// If it is not YAML, has more than one document, or is too large or too deep.
pub(super) fn read(text: &str) -> Result<Rc<Node>, FlowFileError> {
    let mut parser = Parser::new_from_str(text);
    let mut anchors: HashMap<usize, Rc<Node>> = HashMap::new();
    let mut open: Vec<OpenNode> = Vec::new();
    let mut root = None;
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| malformed(&error))?;
        let at = position(&span.start);
        let (anchor, node) = match event {
            Event::SequenceStart(anchor, _) => {
                open.push(OpenNode::new(anchor, at, Value::List(Vec::new())));
                (0, None)
            }
            Event::MappingStart(anchor, _) => {
                open.push(OpenNode::new(anchor, at, Value::Map(Vec::new())));
                (0, None)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let closed = open.pop();
                (closed.as_ref().map_or(0, |closed| closed.anchor), closed.map(OpenNode::close))
            }
            Event::Scalar(text, style, anchor, _) => {
                let weight = text.len() + VALUE_BYTES;
                let value = Value::Text { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                (anchor, Some(Rc::new(Node { position: at, value, weight })))
            }
            Event::Alias(anchor) => {
                let within = || FlowFileError {
                    what: "an alias is within its own anchor".to_owned(),
                    position: at,
                    syntax: false,
                };
                (0, Some(anchors.get(&anchor).cloned().ok_or_else(within)?))
            }
            Event::DocumentStart(_) if root.is_some() => {
                return Err(FlowFileError {
                    what: "a second document begins; a file holds one flow".to_owned(),
                    position: at,
                    syntax: false,
                });
            }
            _ => (0, None),
        };
        if open.len() > DEPTH {
            return Err(FlowFileError { what: too_deep(), position: at, syntax: false });
        }
        let Some(node) = node else { continue };
        if anchor > 0 {
            anchors.insert(anchor, node.clone());
        }
        match open.last_mut() {
            Some(outer) => outer.add(node)?,
            None => root = Some(node),
        }
    }
    root.ok_or_else(|| FlowFileError {
        what: "it is empty".to_owned(),
        position: Position { line: 1, column: 1 },
        syntax: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn every_text_is_kept_as_it_is_written() {
        for text in ["1.10", "1e3", "0x1F", "0o17", "010", "+1", "1_000", "123456789012345678901234567890", ".5", "yes"]
        {
            for written in [text.to_owned(), format!("'{text}'"), format!("\"{text}\""), format!("!!str {text}")] {
                let tree = read(&format!("a: {written}\n")).unwrap();
                assert_eq!(tree.entries().unwrap()[0].value.text().unwrap(), text);
            }
        }
    }

    #[test]
    fn a_merge_key_adds_missing_entries_in_every_spelling() {
        let merged = |text: &str| {
            let tree = read(&format!("b: &b {{x: 1, y: 1}}\nc: &c {{y: 2, z: 2}}\na:\n{text}\n")).unwrap();
            let entries = tree.entries().unwrap();
            let shown = |entry: &MapEntry<'_>| format!("{}={}", entry.key, entry.value.text().unwrap());
            let mut shown: Vec<_> = entries[2].value.entries().unwrap().iter().map(shown).collect();
            shown.sort();
            shown.join(" ")
        };
        for text in
            ["  x: 0\n  <<: *b", "  <<: *b\n  x: 0", "  << : *b\n  x: 0", "  ? <<\n  : *b\n  x: 0", "  {<<: *b, x: 0}"]
        {
            assert_eq!(merged(text), "x=0 y=1", "{text}");
        }
        for text in [
            "  <<: [*b, *c]",
            "  <<:\n    - *b\n    - *c",
            "  <<: *b\n  << : *c",
            "  <<: {<<: *b, z: 2}",
            "  \"<<\": [*b, *c]",
        ] {
            assert_eq!(merged(text), "x=1 y=1 z=2", "{text}");
        }
        assert_eq!(merged("  !!merge <<: *b"), "x=1 y=1");
    }

    #[test]
    fn an_alias_refers_to_the_latest_anchor_before_it() {
        let tree = read("[&x one, *x, &x two, &y three, *x, *y]").unwrap();
        let texts: Vec<_> = tree.list().unwrap().iter().map(|item| item.text().unwrap()).collect();
        assert_eq!(texts, ["one", "one", "two", "three", "two", "three"]);
    }

    #[test]
    fn aliases_that_multiply_are_refused_where_the_limit_is_exceeded() {
        let mut laughs = "a: &a [x, x, x, x, x, x, x, x]\n".to_owned();
        for (outer, inner) in ("bcdefghi").chars().zip("abcdefgh".chars()) {
            laughs.push_str(&format!("{outer}: &{outer} [{}]\n", format!("*{inner}, ").repeat(6)));
        }
        let refused = refusal(&laughs);
        assert!(refused.contains("aliases") && refused.contains("line "), "{refused}");
        let large = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(100));
        assert!(refusal(&large).contains("64 MiB"));
    }

    #[test]
    fn too_deep_nesting_is_refused() {
        for text in [format!("a:\n  {}", "{a: ".repeat(1 << 16)), "- ".repeat(1 << 16), "? ".repeat(1 << 16)] {
            let refused = refusal(&text);
            assert!(refused.contains("are nested"), "{refused}");
        }
    }

    #[test]
    fn an_alias_within_its_own_anchor_and_a_second_document_are_refused() {
        assert!(refusal("a: &a [*a]\n").contains("within its own anchor"));
        assert!(refusal("&a {*a : *a}\n").contains("within its own anchor"));
        assert!(refusal("a: 1\n---\na: 2\n").contains("second document"));
        assert!(refusal("# nothing\n").contains("empty"));
    }
}
