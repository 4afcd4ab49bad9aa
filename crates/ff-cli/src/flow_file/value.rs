//! The values of a flow file: what YAML leaves loose is pinned down here, with errors that keep the line.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::ExecutionEntry;

/// The executions in the file's order, as a mapping from names or a list with names.
#[derive(Debug)]
pub(super) struct Executions(pub(super) Vec<(String, ExecutionEntry)>);

impl<'de> Deserialize<'de> for Executions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExecutionsVisitor)
    }
}

struct ExecutionsVisitor;

impl<'de> Visitor<'de> for ExecutionsVisitor {
    type Value = Executions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("executions: a mapping from names, or a list of entries with a `name`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Executions, A::Error> {
        let mut executions: Vec<(String, ExecutionEntry)> = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key_seed(NewKey(&mut names))? {
            let entry: ExecutionEntry = map.next_value()?;
            if entry.name.is_some() {
                let shown = name.escape_debug();
                return Err(de::Error::custom(format!("execution `{shown}` has its name already; remove `name`")));
            }
            executions.push((name, entry));
        }
        Ok(Executions(executions))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Executions, A::Error> {
        let mut executions = Vec::new();
        while let Some(mut entry) = list.next_element::<ExecutionEntry>()? {
            let name = entry.name.take();
            let name = name.ok_or_else(|| de::Error::custom("an execution in a list needs a `name`"))?;
            executions.push((name, entry));
        }
        Ok(Executions(executions))
    }
}

/// A key that has not occurred before. Refused by the visitor itself, so that the error carries the key's own line.
struct NewKey<'a>(&'a mut HashSet<String>);

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(ScalarVisitor(|key: String| {
            if self.0.insert(key.clone()) {
                return Ok(key);
            }
            Err(format!("`{}` occurs twice; names are unique", key.escape_debug()))
        }))
    }
}

/// A length of time with its unit, as `1h 30m` or `500ms`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor(|text: String| {
            humantime::parse_duration(&text).map(Self).map_err(|error| {
                let shown = text.escape_debug();
                format!("`{shown}` is no length of time ({error}); write a number and a unit as in 5m")
            })
        }))
    }
}

/// One name, or a list of them.
#[derive(Debug, Default)]
pub(super) struct Names(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an execution, or a list of names")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
        let mut names = Vec::new();
        while let Some(Scalar(name)) = list.next_element()? {
            names.push(name);
        }
        Ok(Names(names))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Names, E> {
        Ok(Names(vec![name.to_owned()]))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Names, E> {
        Ok(Names::default())
    }
}

/// Names to texts; numbers and booleans are taken as they are printed.
#[derive(Debug, Default)]
pub(super) struct Scalars(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Scalars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ScalarsVisitor)
    }
}

struct ScalarsVisitor;

impl<'de> Visitor<'de> for ScalarsVisitor {
    type Value = Scalars;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping from names to texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalars, A::Error> {
        let mut scalars = BTreeMap::new();
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key_seed(NewKey(&mut keys))? {
            let Scalar(value) = map.next_value()?;
            scalars.insert(key, value);
        }
        Ok(Scalars(scalars))
    }
}

/// A text, number or boolean.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor(|text| Ok(Self(text))))
    }
}

/// Reads a text, number or boolean as it is printed and makes something of it, or refuses it with a reason.
struct ScalarVisitor<F>(F);

impl<T, F: FnOnce(String) -> Result<T, String>> ScalarVisitor<F> {
    fn make<E: de::Error>(self, text: impl ToString) -> Result<T, E> {
        (self.0)(text.to_string()).map_err(E::custom)
    }
}

impl<T, F: FnOnce(String) -> Result<T, String>> Visitor<'_> for ScalarVisitor<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, number or boolean")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.make(text)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        self.make(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        self.make(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        self.make(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<T, E> {
        self.make(value)
    }
}
