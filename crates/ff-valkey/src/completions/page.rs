//! A page of a log: the server's answer, decoded entry by entry when it is consumed. Pure.
//!
//! The end of the page is known before any of it is decoded, so that the next page can be requested first.

use std::sync::Arc;

use ff_core::{EntryId, LogId};
use ff_script::wire::{Decoder, EntryFields};
use fred::types::Resp3Frame;

use crate::{completions::frontier::LogEntry, net::quiet::Quiet};

/// Consecutive entries, as an iterator over their events.
pub(crate) struct Page {
    len: usize,
    end: Option<EntryId>,
    entries: Box<dyn Iterator<Item = LogEntry> + Send>,
}

impl Page {
    /// Parses the answer to XRANGE of `log`; `None` if it has another shape.
    pub(crate) fn answered(log: LogId, answer: Resp3Frame) -> Option<Self> {
        let entries: Vec<(EntryId, Vec<Resp3Frame>)> = match answer {
            Resp3Frame::Array { data, .. } => data.into_iter().map(entry).collect::<Option<_>>()?,
            Resp3Frame::Null => Vec::new(),
            _ => return None,
        };
        let (len, end) = (entries.len(), entries.last().map(|(id, _)| *id));
        let mut decoder = Decoder::default();
        let shown = move |(id, fields): (EntryId, Vec<Resp3Frame>)| {
            let pairs = fields.chunks_exact(2).filter_map(|pair| Some((&**text(&pair[0])?, text(&pair[1])?)));
            log_entry(&mut decoder, log, id, pairs.collect::<EntryFields<'_>>())
        };
        Some(Self { len, end, entries: Box::new(entries.into_iter().map(shown)) })
    }

    /// The number of entries that were read.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Its last entry.
    pub(crate) const fn end(&self) -> Option<EntryId> {
        self.end
    }
}

impl Iterator for Page {
    type Item = LogEntry;

    fn next(&mut self) -> Option<LogEntry> {
        self.entries.next()
    }
}

impl From<Vec<LogEntry>> for Page {
    fn from(entries: Vec<LogEntry>) -> Self {
        let (len, end) = (entries.len(), entries.last().map(|shown| shown.entry));
        Self { len, end, entries: Box::new(entries.into_iter()) }
    }
}

/// An entry of `log` as readers take it. An entry that is not a completion keeps its place.
pub(crate) fn log_entry(decoder: &mut Decoder, log: LogId, entry: EntryId, fields: EntryFields<'_>) -> LogEntry {
    match decoder.entry(log, entry, fields) {
        Ok(decoded) => LogEntry { entry, prev: decoded.prev, event: Some(Arc::new(decoded.payload)) },
        Err(error) => {
            static LINES: Quiet = Quiet::new();
            if let Some(left_out) = LINES.turn() {
                tracing::warn!(%log, %entry, %error, left_out, "unreadable log entry");
            }
            LogEntry { entry, prev: fields.predecessor().ok().flatten(), event: None }
        }
    }
}

fn entry(entry: Resp3Frame) -> Option<(EntryId, Vec<Resp3Frame>)> {
    let Resp3Frame::Array { data, .. } = entry else { return None };
    let [id, fields] = <[Resp3Frame; 2]>::try_from(data).ok()?;
    let Resp3Frame::Array { data: fields, .. } = fields else { return None };
    Some((std::str::from_utf8(text(&id)?).ok()?.parse().ok()?, fields))
}

const fn text(frame: &Resp3Frame) -> Option<&bytes::Bytes> {
    match frame {
        Resp3Frame::BlobString { data, .. } | Resp3Frame::SimpleString { data, .. } => Some(data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ff_core::{Partition, Scope, reader::Predecessor};

    use super::*;

    const LOG: LogId = LogId { partition: Partition::new(7), scope: Scope::Flows };

    fn string(text: &str) -> Resp3Frame {
        Resp3Frame::BlobString { data: text.to_owned().into(), attributes: None }
    }

    fn array(data: Vec<Resp3Frame>) -> Resp3Frame {
        Resp3Frame::Array { data, attributes: None }
    }

    fn entry(id: &str, fields: &[&str]) -> Resp3Frame {
        array(vec![string(id), array(fields.iter().map(|field| string(field)).collect())])
    }

    #[test]
    fn a_page_knows_its_end_before_it_is_decoded_and_keeps_the_position_of_unreadable_entries() {
        let event = r#"{"execution_id":"{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b","outcome":"success"}"#;
        let good = entry("5-0", &["prev", "none", "e", event, "result", "ok"]);
        let page = Page::answered(LOG, array(vec![good, entry("5-1", &["e", "{}"]), entry("5-2", &["e"])])).unwrap();
        assert_eq!((page.len(), page.end()), (3, Some(EntryId { epoch: 5, seq: 2 })));
        let shown: Vec<LogEntry> = page.collect();
        let event = shown[0].event.as_ref().unwrap();
        assert_eq!((shown[0].prev, event.payload_bytes.as_deref()), (Some(Predecessor::Start), Some(&b"ok"[..])));
        assert!(shown[1].event.is_none() && shown[2].event.is_none());
        assert_eq!(shown[2].entry.seq, 2);
    }

    #[test]
    fn a_reply_of_another_shape_is_not_a_page() {
        assert_eq!(Page::answered(LOG, Resp3Frame::Null).unwrap().len(), 0);
        for other in [string("OK"), array(vec![string("5-0")]), array(vec![entry("5", &[])])] {
            assert!(Page::answered(LOG, other).is_none());
        }
    }
}
