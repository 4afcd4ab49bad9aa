//! A YAML document as a tree that keeps what the file says: every text as it is written there, and where it stands.
//!
//! No text is taken for a number: `1.10` stays `1.10`, `0x1F` and `yes` stay what they are, whatever their length.
//!
//! A few lines can stand for gigabytes, since an alias repeats all that its anchor holds in three bytes. So what an alias
//! stands for is shared in the tree, and a document whose aliases make too much of it is refused.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    rc::Rc,
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

/// What a document may become with its aliases. A flow's payloads are bounded by far less.
const BYTES: usize = 64 << 20;
/// What a value weighs beside its text.
const VALUE_BYTES: usize = 64;
/// How many lists and mappings may be open at once. A flow has four, and a mapping that merges one more for each.
const DEPTH: usize = 64;
/// The key whose value's entries are added to a mapping.
const MERGE: &str = "<<";

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Wrong {
    what: String,
    place: Place,
}

/// Line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Wrong {
    /// Puts what it is about in front.
    pub(super) fn about(mut self, what: impl fmt::Display) -> Self {
        self.what = format!("{what}: {}", self.what);
        self
    }

    /// Adds what may help.
    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.what = format!("{}; {hint}", self.what);
        self
    }

    pub(super) const fn line(&self) -> usize {
        self.place.line
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {} column {}", self.what, self.place.line, self.place.column)
    }
}

#[derive(Debug)]
pub(super) struct Node {
    place: Place,
    value: Value,
    weight: usize,
}

#[derive(Debug)]
enum Value {
    Text {
        text: String,
        /// Without quotes, on one line or several.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<(Rc<Node>, Rc<Node>)>),
}

/// One entry of a mapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) at: &'a Node,
    pub(super) value: &'a Node,
}

impl Node {
    /// Something that is wrong with this value.
    pub(super) fn wrong(&self, what: impl Into<String>) -> Wrong {
        Wrong { what: what.into(), place: self.place }
    }

    pub(super) const fn place(&self) -> Place {
        self.place
    }

    /// Whether it is left out: nothing, `~` or `null`, without quotes.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(&self.value, Value::Text { text, plain: true } if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Whether it is a text without quotes.
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
    pub(super) fn text(&self) -> Result<&str, Wrong> {
        match &self.value {
            Value::Text { text, .. } => Ok(text),
            Value::List(_) => Err(self.wrong("expected a text, and not a list")),
            Value::Map(_) => Err(self.wrong("expected a text, and not a mapping")),
        }
    }

    /// The entries of a mapping in the file's order: its own, then those that its merge keys add.
    pub(super) fn entries(&self) -> Result<Vec<Entry<'_>>, Wrong> {
        let Value::Map(pairs) = &self.value else {
            return Err(self.wrong("expected a mapping, as in `name: value`"));
        };
        let mut names = HashSet::with_capacity(pairs.len());
        let mut entries = Vec::with_capacity(pairs.len());
        let mut merged = Vec::new();
        for (at, value) in pairs {
            let key = at.text().map_err(|wrong| wrong.about("a key"))?;
            if key == MERGE {
                merged.push(value);
            } else if names.insert(key) {
                entries.push(Entry { key, at, value });
            } else {
                return Err(at.wrong(format!("`{}` occurs twice; names are unique", key.escape_debug())));
            }
        }
        for value in merged {
            let of_list = value.list().map(Vec::as_slice).unwrap_or_default();
            let maps = if of_list.is_empty() { std::slice::from_ref(value) } else { of_list };
            for map in maps {
                let more = map.entries().map_err(|wrong| wrong.about("the merge key `<<`"))?;
                // What is there already counts: the mapping's own entries, and those of earlier ones.
                entries.extend(more.into_iter().filter(|entry| names.insert(entry.key)));
            }
        }
        Ok(entries)
    }
}

/// A list or mapping that is not complete yet.
struct Open {
    anchor: usize,
    place: Place,
    weight: usize,
    value: Value,
    /// Of a mapping: the key whose value comes next.
    key: Option<Rc<Node>>,
}

impl Open {
    fn new(anchor: usize, place: Place, value: Value) -> Self {
        Self { anchor, place, weight: VALUE_BYTES, value, key: None }
    }

    fn add(&mut self, node: Rc<Node>) -> Result<(), Wrong> {
        self.weight += node.weight;
        if self.weight > BYTES {
            let what = format!("aliases make more than {} MiB of it; repeat less by them", BYTES >> 20);
            return Err(Wrong { what, place: self.place });
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
        Rc::new(Node { place: self.place, value: self.value, weight: self.weight })
    }
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

fn malformed(error: &ScanError) -> Wrong {
    let what = match error.info() {
        "recursion limit exceeded" => too_deep(),
        said => said.to_owned(),
    };
    Wrong { what, place: place(error.marker()) }
}

fn too_deep() -> String {
    format!("more than {DEPTH} lists and mappings are open at once")
}

/// Reads a document.
///
/// # Errors
/// Where it is no YAML, where there is more than one document, and where it would cost too much.
pub(super) fn read(text: &str) -> Result<Rc<Node>, Wrong> {
    let mut parser = Parser::new_from_str(text);
    let mut anchors: HashMap<usize, Rc<Node>> = HashMap::new();
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| malformed(&error))?;
        let at = place(&span.start);
        let (anchor, node) = match event {
            Event::SequenceStart(anchor, _) => {
                open.push(Open::new(anchor, at, Value::List(Vec::new())));
                (0, None)
            }
            Event::MappingStart(anchor, _) => {
                open.push(Open::new(anchor, at, Value::Map(Vec::new())));
                (0, None)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let closed = open.pop();
                (closed.as_ref().map_or(0, |closed| closed.anchor), closed.map(Open::close))
            }
            Event::Scalar(text, style, anchor, _) => {
                let weight = text.len() + VALUE_BYTES;
                let value = Value::Text { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                (anchor, Some(Rc::new(Node { place: at, value, weight })))
            }
            Event::Alias(anchor) => {
                let within = || Wrong { what: "an alias stands within its own anchor".to_owned(), place: at };
                (0, Some(anchors.get(&anchor).cloned().ok_or_else(within)?))
            }
            Event::DocumentStart(_) if root.is_some() => {
                return Err(Wrong { what: "a second document begins; a file holds one flow".to_owned(), place: at });
            }
            _ => (0, None),
        };
        if open.len() > DEPTH {
            return Err(Wrong { what: too_deep(), place: at });
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
    root.ok_or_else(|| Wrong { what: "it is empty".to_owned(), place: Place { line: 1, column: 1 } })
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
            let shown = |entry: &Entry<'_>| format!("{}={}", entry.key, entry.value.text().unwrap());
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
            assert!(refused.contains("open at once"), "{refused}");
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
