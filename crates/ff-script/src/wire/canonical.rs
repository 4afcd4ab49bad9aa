//! Parses events in the format of our own library without a general JSON parser.
//!
//! `lua/lib/completion.lua` writes the members in a fixed order and without white space, so they can be read one after
//! the other. For any other object this parser returns `None` and serde decides. It may therefore reject well-formed
//! objects, but it must neither accept what serde refuses nor read a value differently from serde.

use std::borrow::Cow;

use super::{Event, EventTags, Text};

/// The object, if it has the library's format.
pub(super) fn parse(bytes: &[u8]) -> Option<Event<'_>> {
    let mut rest = Remaining(std::str::from_utf8(bytes).ok()?);
    rest.literal(r#"{"execution_id":"#)?;
    let execution_id = rest.text()?;
    let flow_id = rest.member(r#","flow_id":"#, Remaining::text)?;
    rest.literal(r#","outcome":"#)?;
    let event = Event {
        execution_id,
        flow_id,
        outcome: rest.text()?,
        at: rest.member(r#","at":"#, Remaining::number)?,
        ns: rest.member(r#","ns":"#, Remaining::text)?,
        lane: rest.member(r#","lane":"#, Remaining::text)?,
        attempt: rest.member(r#","attempt":"#, Remaining::small_number)?,
        r#gen: rest.member(r#","gen":"#, Remaining::small_number)?,
        reason: rest.member(r#","reason":"#, Remaining::text)?,
        tags: rest.member(r#","tags":"#, Remaining::tags)?,
        result_len: rest.member(r#","result_len":"#, Remaining::number)?,
        pending: rest.member(r#","pending":"#, Remaining::flag)?,
        pos: rest.member(r#","pos":"#, Remaining::text)?,
        prev: rest.member(r#","prev":"#, Remaining::text)?,
        result: rest.member(r#","result":"#, Remaining::text)?,
    };
    (rest.0 == "}").then_some(event)
}

/// The text that is not parsed yet.
struct Remaining<'a>(&'a str);

impl<'a> Remaining<'a> {
    fn literal(&mut self, literal: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(literal)?;
        Some(())
    }

    /// The value of the member that begins with `name`; an inner `None` if another member follows.
    fn member<T>(&mut self, name: &str, value: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.literal(name) {
            Some(()) => value(self).map(Some),
            None => Some(None),
        }
    }

    fn take(&mut self, len: usize) -> Option<&'a str> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// The length of the string that begins here, quotation marks included, and whether it holds escapes.
    fn string_len(text: &str) -> Option<(usize, bool)> {
        let mut bytes = text.bytes().enumerate();
        if bytes.next()?.1 != b'"' {
            return None;
        }
        let mut escapes = false;
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => return Some((at + 1, escapes)),
                b'\\' => {
                    escapes = true;
                    bytes.next()?;
                }
                0..0x20 => return None,
                _ => {}
            }
        }
        None
    }

    fn text(&mut self) -> Option<Text<'a>> {
        let (len, escapes) = Self::string_len(self.0)?;
        let quoted = self.take(len)?;
        if escapes {
            return serde_json::from_str(quoted).ok().map(|text: String| Text(Cow::Owned(text)));
        }
        Some(Text(Cow::Borrowed(&quoted[1..len - 1])))
    }

    fn number(&mut self) -> Option<u64> {
        let len = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let digits = self.take(len)?;
        // JSON has no leading zeros.
        if digits.len() > 1 && digits.starts_with('0') { None } else { digits.parse().ok() }
    }

    fn small_number(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        self.literal("true").map(|()| true)
    }

    /// An object without nested objects. Its content is not checked.
    fn tags(&mut self) -> Option<EventTags<'a>> {
        let bytes = self.0.as_bytes();
        if *bytes.first()? != b'{' {
            return None;
        }
        let mut at = 1;
        loop {
            match bytes.get(at)? {
                b'"' => at += Self::string_len(self.0.get(at..)?)?.0,
                b'}' => return self.take(at + 1).map(EventTags::Text),
                _ => at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ff_core::CompletionPayload;
    use proptest::prelude::*;

    use super::{super::shared::RecentValues, *};

    const EXECUTION: &str = r#""execution_id":"{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b""#;
    const FLOW: &str = r#","flow_id":"0192f0c1-2b3c-7d4e-8f50-617283940a1c""#;

    type Meaning = (CompletionPayload, Option<String>, Option<String>);

    /// The decoded event, if its values are valid.
    fn meaning(event: Event<'_>) -> Option<Meaning> {
        let text = |text: &Option<Text<'_>>| text.as_ref().map(|text| text.0.to_string());
        let (pos, prev) = (text(&event.pos), text(&event.prev));
        Some((event.payload(&mut RecentValues::default()).ok()?, pos, prev))
    }

    /// Whether the fast parser read it. Checks that serde reads the same.
    fn is_read_fast(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let Some(event) = parse(bytes) else { return Ok(false) };
        let same = serde_json::from_slice(bytes).ok().and_then(meaning);
        prop_assert_eq!(meaning(event), same, "{}", String::from_utf8_lossy(bytes));
        Ok(true)
    }

    #[test]
    fn events_of_the_library_are_read_by_the_fast_parser() {
        let rest = [
            r#","outcome":"success""#,
            r#","outcome":"failed","at":1764000000000,"ns":"a","lane":"b/c","attempt":0,"gen":1"#,
            r#","outcome":"failed","reason":"and\/or \"é\" ü","tags":{"a\"}":"{b","c":""},"result_len":7,"pending":true"#,
            r#","outcome":"expired","tags":{},"pos":"1764000000000-41","prev":"none","result":"{\"ok\":true}\n""#,
        ];
        for rest in rest {
            let written = format!("{{{EXECUTION}{FLOW}{rest}}}");
            assert!(is_read_fast(written.as_bytes()).unwrap(), "{written}");
            assert!(is_read_fast(format!("{{{EXECUTION}{rest}}}").as_bytes()).unwrap());
        }
    }

    #[test]
    fn events_in_another_format_are_left_to_serde() {
        for other in [
            r#","outcome":"success","at":01}"#,
            r#","outcome":"success","at":-1}"#,
            r#","outcome":"success","at":99999999999999999999}"#,
            r#","outcome":"success","at":1.0}"#,
            r#","outcome":"success","attempt":4294967296}"#,
            r#","outcome":"success","gen":1,"at":1}"#,
            r#","outcome":"success","at":1,"at":1}"#,
            r#","outcome":"success","colour":1}"#,
            r#","outcome":"success","ns":null}"#,
            r#","outcome":"success","pending":false}"#,
            r#","outcome":"success","tags":["a"]}"#,
            r#","outcome":"success","reason":"\x"}"#,
            r#","outcome":"success","reason":"\ud800"}"#,
            ",\"outcome\":\"success\",\"reason\":\"\n\"}",
            r#","outcome":"success", "at":1}"#,
            r#","outcome":"success"} "#,
            r#","outcome":"success"}}"#,
            r#","outcome":"success""#,
            r#","outcome":"succ"#,
            r#","outcome":"\"#,
            "}",
        ] {
            assert!(parse(format!("{{{EXECUTION}{other}").as_bytes()).is_none(), "{other}");
        }
        assert!(parse(b"").is_none() && parse(b"{\"execution_id\":\"\xff\",\"outcome\":\"\"}").is_none());
    }

    /// Values of all kinds, valid and invalid.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("\"default\"".to_owned()),
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            "\"[a-z\\\\u0-9\"é]{0,8}\"",
            any::<u64>().prop_map(|number| number.to_string()),
            "-?[0-9]{0,3}(\\.5)?",
            prop::collection::btree_map(".{0,4}", ".{0,4}", 0..3)
                .prop_map(|tags| serde_json::to_string(&tags).unwrap()),
            "\\{[\"a:,\\\\{}\\[\\]1 ]{0,12}\\}",
            prop::sample::select(vec!["null", "true", "false", "{}", "[]", "\"none\"", "\"7-0\"", "", " 1"])
                .prop_map(str::to_owned),
        ]
    }

    prop_compose! {
        fn object()(
            values in prop::collection::vec(prop::option::weighted(0.4, value()), 12),
            flow: bool,
            changed in prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
        ) -> Vec<u8> {
            const NAMES: [&str; 12] =
                ["at", "ns", "lane", "attempt", "gen", "reason", "tags", "result_len", "pending", "pos", "prev", "result"];
            let members: String = NAMES
                .iter()
                .zip(values)
                .filter_map(|(name, value)| Some(format!(",\"{name}\":{}", value?)))
                .collect();
            let flow = if flow { FLOW } else { "" };
            let mut bytes = format!("{{{EXECUTION}{flow},\"outcome\":\"failed\"{members}}}").into_bytes();
            if let Some((at, byte)) = changed {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]
        #[test]
        fn the_fast_parser_and_serde_agree(bytes in object()) {
            is_read_fast(&bytes)?;
        }
    }
}
