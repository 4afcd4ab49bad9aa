//! What it would cost to read a document, found without reading it into anything.
//!
//! A few lines can stand for gigabytes: an alias costs three bytes and repeats all that its anchor holds. And each
//! bracket costs the parser a look at all brackets that are open around it.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};

/// How many looks at open brackets a document may cost; a flow within its limits costs a thousandth.
const LOOKS: usize = 1 << 28;
/// How many dashes a line may begin with; a few are a list in a list, more are a ruler in a text.
const DASHES: usize = 10_000;
/// What a document may become. A flow's payloads are bounded by far less.
const BYTES: usize = 64 << 20;
/// What a value weighs beside its text.
const VALUE_BYTES: usize = 64;

/// Refuses a document that costs too much.
///
/// # Errors
/// That, with the place where it is too much; or that the document cannot be read, as reading it would say.
pub(super) fn check(text: &str) -> Result<(), serde_norway::Error> {
    if let Some(line) = too_deep(text) {
        return Err(Error::custom(format!("too much is open at once at line {line}")));
    }
    // Without aliases a document is no more than its text.
    if !text.contains('*') {
        return Ok(());
    }
    let left = Cell::new(BYTES);
    Scale(&left).deserialize(serde_norway::Deserializer::from_str(text))
}

/// The line at which too much is open. Brackets of texts and comments are counted too, which is harmless: they are
/// closed again or few.
fn too_deep(text: &str) -> Option<usize> {
    let (mut line, mut open, mut looks) = (1, 0_usize, 0);
    // Lists that begin within each other without brackets, at the beginning of the line.
    let mut dashes = Some(0);
    for byte in text.bytes() {
        match byte {
            b'\n' => (line, dashes) = (line + 1, Some(0)),
            b'-' | b'?' => dashes = dashes.map(|dashes| dashes + 1),
            b' ' => {}
            _ => dashes = None,
        }
        if dashes > Some(DASHES) {
            return Some(line);
        }
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            b',' | b':' => {}
            _ => continue,
        }
        looks += open;
        if looks > LOOKS {
            return Some(line);
        }
    }
    None
}

/// Takes the weight of what it sees from what is left.
#[derive(Clone, Copy)]
struct Scale<'a>(&'a Cell<usize>);

impl Scale<'_> {
    fn weigh<E: Error>(self, text: &str) -> Result<(), E> {
        let left = self.0.get().checked_sub(text.len() + VALUE_BYTES);
        self.0.set(left.ok_or_else(|| {
            E::custom(format!("its aliases make more than {} MiB of it; repeat less by them", BYTES >> 20))
        })?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Scale<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scale<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of YAML")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.weigh(text)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.weigh("")
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.weigh("")
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.weigh("")
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.weigh("")
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.weigh("")
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.weigh("")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.weigh("")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.weigh("")?;
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.weigh("")?;
        while map.next_key_seed(self)?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let ((), value) = tagged.variant_seed(self)?;
        value.newtype_variant_seed(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        check(text).unwrap_err().to_string()
    }

    #[test]
    fn aliases_that_multiply_are_refused_at_the_place_where_it_is_too_much() {
        let mut laughs = "a: &a [x, x, x, x, x, x, x, x]\n".to_owned();
        for (outer, inner) in ("bcdefghi").chars().zip("abcdefgh".chars()) {
            laughs
                .push_str(&format!("{outer}: &{outer} [*{inner}, *{inner}, *{inner}, *{inner}, *{inner}, *{inner}]\n"));
        }
        let refused = refusal(&laughs);
        assert!(refused.contains("aliases") || refused.contains("repetition"), "{refused}");
        let large = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(100));
        assert!(refusal(&large).contains("64 MiB"));
    }

    #[test]
    fn brackets_that_open_and_open_are_refused_and_those_of_commands_are_not() {
        let refused = refusal(&format!("a:\n  {}", "{a: ".repeat(1 << 20)));
        assert!(refused.contains("open at once") && refused.contains("line 2"), "{refused}");
        refusal(&"- ".repeat(1 << 20));
        let commands = "  - {run: 'grep \"[ERROR\" log | tr \"{\" -- \"-\"'}\n".repeat(1_000);
        check(&format!("executions:\n{commands}")).unwrap();
    }

    #[test]
    fn an_alias_within_its_own_anchor_is_refused() {
        refusal("a: &a [*a]\n");
        refusal("&a {*a : *a}\n");
    }

    #[test]
    fn a_document_of_all_kinds_of_values_is_weighed() {
        check("[*a, &a 1]").unwrap_err();
        check("a: &a {b: 1, c: -1, d: 1.5, e: true, f: ~, g: x, h: 99999999999999999999, i: -99999999999999999999, j: !t x}\nk: *a\n").unwrap();
    }
}
