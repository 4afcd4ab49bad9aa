//! The object as our own library writes it, read without a general JSON parser.
//!
//! `lua/lib/completion.lua` writes the members in one order and no white space, so that they can be taken one after the
//! other. What is written otherwise is `None` here and left to serde, which alone says what is malformed. So this may
//! pass over what is well-formed, but must not take what serde refuses, or read anything otherwise than serde does.

use std::borrow::Cow;

use super::{Event, Text, WrittenTags};

/// The object, if it is written like ours.
pub(super) fn parse(bytes: &[u8]) -> Option<Event<'_>> {
    let mut rest = Rest(std::str::from_utf8(bytes).ok()?);
    rest.literal(r#"{"execution_id":"#)?;
    let execution_id = rest.text()?;
    let flow_id = rest.member(r#","flow_id":"#, Rest::text)?;
    rest.literal(r#","outcome":"#)?;
    let event = Event {
        execution_id,
        flow_id,
        outcome: rest.text()?,
        at: rest.member(r#","at":"#, Rest::number)?,
        ns: rest.member(r#","ns":"#, Rest::text)?,
        lane: rest.member(r#","lane":"#, Rest::text)?,
        attempt: rest.member(r#","attempt":"#, Rest::small_number)?,
        r#gen: rest.member(r#","gen":"#, Rest::small_number)?,
        reason: rest.member(r#","reason":"#, Rest::text)?,
        tags: rest.member(r#","tags":"#, Rest::tags)?,
        result_len: rest.member(r#","result_len":"#, Rest::number)?,
        pending: rest.member(r#","pending":"#, Rest::flag)?,
        pos: rest.member(r#","pos":"#, Rest::text)?,
        prev: rest.member(r#","prev":"#, Rest::text)?,
        result: rest.member(r#","result":"#, Rest::text)?,
    };
    (rest.0 == "}").then_some(event)
}

/// What is not taken yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn literal(&mut self, literal: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(literal)?;
        Some(())
    }

    /// The value of the member that begins like this; an inner `None` if another stands here.
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
        // JSON knows no leading zeros.
        if digits.len() > 1 && digits.starts_with('0') { None } else { digits.parse().ok() }
    }

    fn small_number(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        self.literal("true").map(|()| true)
    }

    /// An object that holds no other one; its inside is not looked at.
    fn tags(&mut self) -> Option<WrittenTags<'a>> {
        let bytes = self.0.as_bytes();
        if *bytes.first()? != b'{' {
            return None;
        }
        let mut at = 1;
        loop {
            match bytes.get(at)? {
                b'"' => at += Self::string_len(self.0.get(at..)?)?.0,
                b'}' => return self.take(at + 1).map(WrittenTags::Text),
                _ => at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ff_core::CompletionPayload;
    use proptest::prelude::*;

    use super::{super::shared::Shared, *};

    const EXECUTION: &str = r#""execution_id":"{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b""#;
    const FLOW: &str = r#","flow_id":"0192f0c1-2b3c-7d4e-8f50-617283940a1c""#;

    type Meaning = (CompletionPayload, Option<String>, Option<String>);

    /// What an object says, if its values mean anything.
    fn meaning(event: Event<'_>) -> Option<Meaning> {
        let text = |text: &Option<Text<'_>>| text.as_ref().map(|text| text.0.to_string());
        let (pos, prev) = (text(&event.pos), text(&event.prev));
        Some((event.payload(&mut Shared::default()).ok()?, pos, prev))
    }

    /// Whether it was read by hand, and then to the same as by serde.
    fn is_read_by_hand(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let Some(event) = parse(bytes) else { return Ok(false) };
        let same = serde_json::from_slice(bytes).ok().and_then(meaning);
        prop_assert_eq!(meaning(event), same, "{}", String::from_utf8_lossy(bytes));
        Ok(true)
    }

    #[test]
    fn what_the_library_writes_is_read_by_hand() {
        let rest = [
            r#","outcome":"success""#,
            r#","outcome":"failed","at":1764000000000,"ns":"a","lane":"b/c","attempt":0,"gen":1"#,
            r#","outcome":"failed","reason":"and\/or \"é\" ü","tags":{"a\"}":"{b","c":""},"result_len":7,"pending":true"#,
            r#","outcome":"expired","tags":{},"pos":"1764000000000-41","prev":"none","result":"{\"ok\":true}\n""#,
        ];
        for rest in rest {
            let written = format!("{{{EXECUTION}{FLOW}{rest}}}");
            assert!(is_read_by_hand(written.as_bytes()).unwrap(), "{written}");
            assert!(is_read_by_hand(format!("{{{EXECUTION}{rest}}}").as_bytes()).unwrap());
        }
    }

    #[test]
    fn what_is_written_otherwise_is_left_to_serde() {
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

    /// Values of all kinds, right ones and others.
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
        fn what_is_read_by_hand_means_what_serde_reads(bytes in object()) {
            is_read_by_hand(&bytes)?;
        }
    }
}
