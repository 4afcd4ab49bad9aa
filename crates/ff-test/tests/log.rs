//! The completion log: a new epoch begins whenever the process may have missed the tail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ff_conformance::Fixture;
use ff_core::{EntryId, ExecutionId, LogId, Scope};
use ff_script::{keys, operations::LogBytes};
use support::Stand;

/// One flow of many members in one partition, to end one at a time.
struct Feed {
    stand: Stand,
    members: Vec<ExecutionId>,
}

impl Feed {
    async fn start() -> Self {
        Self::on(Stand::start().await).await
    }

    async fn on(stand: Stand) -> Self {
        let fixture = Fixture::new(stand.backend.clone());
        let names: Vec<_> = (0..20).map(|n| n.to_string()).collect();
        let members: Vec<_> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
        let flow = fixture.submit_members(&members).await;
        let members = flow.ids().collect::<Vec<_>>().into_iter().rev().collect();
        Self { stand, members }
    }

    fn log(&self) -> String {
        keys::completion_log(self.log_id())
    }

    fn log_id(&self) -> LogId {
        LogId { partition: self.members[0].partition(), scope: Scope::Flows }
    }

    /// Ends one execution. Returns its entry and the predecessor that the entry names.
    async fn append(&mut self) -> (EntryId, Option<String>) {
        let id = self.members.pop().unwrap();
        self.stand.backend.cancel_execution(id, "no longer wanted").await.unwrap();
        let position: EntryId = self.stand.field(id, "log_pos").await.parse().unwrap();
        let entry = self.entries().await.into_iter().find(|(entry, _)| *entry == position);
        (position, entry.expect("the log holds it").1)
    }

    /// The log: entries, each with its `prev`.
    async fn entries(&self) -> Vec<(EntryId, Option<String>)> {
        let reply = self.stand.command(&["XRANGE", &self.log(), "-", "+"]).await;
        let entry = |reply: &ff_testserver::Reply| {
            let fields: Vec<_> = reply.items()[1].items().iter().map(|field| field.text()).collect();
            let prev = fields.chunks(2).find(|pair| pair[0] == "prev").map(|pair| pair[1].clone());
            (reply.items()[0].text().parse().unwrap(), prev)
        };
        reply.items().iter().map(entry).collect()
    }

    async fn recorded_prev(&self, epoch: u64) -> String {
        self.stand.command(&["HGET", &keys::log_epochs(self.log_id()), &epoch.to_string()]).await.text()
    }
}

/// Asserts that `next` begins an epoch right after `prev`, also in the hash of epochs.
async fn begins_after(feed: &Feed, next: (EntryId, Option<String>), prev: &str) {
    assert_eq!((next.0.seq, next.1.as_deref()), (0, Some(prev)));
    assert_eq!(feed.recorded_prev(next.0.epoch).await, prev);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_one_tenure_are_numbered_densely_from_zero() {
    let mut feed = Feed::start().await;
    let first = feed.append().await;
    begins_after(&feed, first.clone(), "none").await;
    for seq in 1..5 {
        let (entry, prev) = feed.append().await;
        assert_eq!((entry, prev), (EntryId { epoch: first.0.epoch, seq }, None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reloaded_library_begins_an_epoch_after_the_last_entry() {
    let mut feed = Feed::start().await;
    feed.append().await;
    let (last, _) = feed.append().await;
    feed.stand.command(&["FUNCTION", "LOAD", "REPLACE", ff_script::SOURCE]).await;
    let next = feed.append().await;
    begins_after(&feed, next.clone(), &last.to_string()).await;
    assert!(next.0.epoch > last.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_log_begins_an_epoch_without_a_predecessor() {
    let mut feed = Feed::start().await;
    feed.append().await;
    let (last, _) = feed.append().await;
    feed.stand.command(&["DEL", &feed.log()]).await;
    let next = feed.append().await;
    begins_after(&feed, next.clone(), "none").await;
    assert_ne!(next.0.epoch, last.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_trimmed_to_empty_continues_its_epoch() {
    let mut feed = Feed::start().await;
    let (first, _) = feed.append().await;
    feed.stand.command(&["XTRIM", &feed.log(), "MAXLEN", "0"]).await;
    assert_eq!(feed.append().await, (EntryId { epoch: first.epoch, seq: 1 }, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_tenure_continues_after_a_log_trimmed_to_empty() {
    let mut feed = Feed::start().await;
    feed.append().await;
    let (last, _) = feed.append().await;
    feed.stand.command(&["XTRIM", &feed.log(), "MAXLEN", "0"]).await;
    feed.stand.command(&["FUNCTION", "LOAD", "REPLACE", ff_script::SOURCE]).await;
    let next = feed.append().await;
    begins_after(&feed, next, &last.to_string()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_lost_under_the_same_process_begins_an_epoch_after_the_remaining_entries() {
    let mut feed = Feed::start().await;
    feed.append().await;
    let (kept, _) = feed.append().await;
    // This state of the log is restored later, as from a backup.
    feed.stand.command(&["COPY", &feed.log(), "backup"]).await;
    feed.append().await;
    let (lost, _) = feed.append().await;
    feed.stand.command(&["COPY", "backup", &feed.log(), "REPLACE"]).await;
    let next = feed.append().await;
    begins_after(&feed, next.clone(), &kept.to_string()).await;
    assert!(next.0.epoch > lost.epoch);
    let entries: Vec<_> = feed.entries().await.into_iter().map(|(entry, _)| entry).collect();
    assert_eq!(entries, [EntryId { epoch: kept.epoch, seq: 0 }, kept, next.0], "nothing of the attempt is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_is_greater_than_every_id_of_the_log_even_after_a_clock_that_was_ahead() {
    let mut feed = Feed::start().await;
    feed.append().await;
    // A server whose clock was a day ahead has written here before.
    let ahead = feed.entries().await[0].0.epoch + 86_400_000;
    let entry = format!("{ahead}-0");
    feed.stand.command(&["XADD", &feed.log(), &entry, "e", "{\"at\":1}"]).await;
    let next = feed.append().await;
    begins_after(&feed, next.clone(), &entry).await;
    assert!(next.0.epoch > ahead);
}

/// Copies all keys of one server to another one, which is then like a replica in sync.
async fn copy_all(from: &Stand, to: &Stand) {
    let keys = from.command(&["KEYS", "*"]).await;
    let (mut source, mut target) = (from.server.client().await.unwrap(), to.server.client().await.unwrap());
    for key in keys.items() {
        let ff_testserver::Reply::Bulk(content) = source.command(&["DUMP", &key.text()]).await.unwrap() else {
            panic!("{key} is gone")
        };
        let key = key.text();
        let words: [&[u8]; 5] = [b"RESTORE", key.as_bytes(), b"0", &content, b"REPLACE"];
        assert!(!target.command(&words).await.unwrap().is_error());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_continue_one_log_begin_different_epochs_even_with_equal_clocks() {
    const NOW: u64 = 1_800_000_000_000;
    let mut feed = Feed::on(Stand::at(NOW + 3_600_000).await).await;
    let (last, _) = feed.append().await;
    let other = Stand::at(NOW).await;
    copy_all(&feed.stand, &other).await;
    let mut other = Feed { stand: other, members: feed.members.clone() };
    feed.stand.command(&["FUNCTION", "LOAD", "REPLACE", ff_script::SOURCE]).await;
    feed.stand.server.set_clock(NOW).unwrap();
    // The first server does not know the second: its writes are rolled back when the second takes over.
    let undone = feed.append().await;
    let next = other.append().await;
    begins_after(&feed, undone.clone(), &last.to_string()).await;
    begins_after(&other, next.clone(), &last.to_string()).await;
    assert_ne!(undone.0.epoch, next.0.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loses_tail_and_library_begins_another_epoch_even_with_a_stopped_clock() {
    let mut feed = Feed::on(Stand::at(1_800_000_000_000).await).await;
    feed.append().await;
    feed.stand.command(&["COPY", &feed.log(), "backup"]).await;
    let mut epochs = Vec::new();
    for _ in 0..3 {
        feed.stand.command(&["FUNCTION", "LOAD", "REPLACE", ff_script::SOURCE]).await;
        epochs.push(feed.append().await.0.epoch);
        feed.stand.command(&["COPY", "backup", &feed.log(), "REPLACE"]).await;
    }
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 3, "{epochs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_deleted_under_a_stopped_clock_begins_another_epoch() {
    let mut feed = Feed::on(Stand::at(1_800_000_000_000).await).await;
    let mut epochs = Vec::new();
    for _ in 0..3 {
        epochs.push(feed.append().await.0.epoch);
        feed.stand.command(&["DEL", &feed.log(), &keys::log_epochs(feed.log_id())]).await;
    }
    assert!(epochs.is_sorted_by(|before, after| before < after), "{epochs:?}");
}

impl Feed {
    /// Epochs with one entry each, as this many tenures leave them.
    async fn with_tenures(count: u64) -> Self {
        let feed = Self::start().await;
        let (log, epochs) = (feed.log(), keys::log_epochs(feed.log_id()));
        for epoch in 1..=count {
            let prev = if epoch == 1 { "none".to_owned() } else { format!("{}-0", epoch - 1) };
            let id = format!("{epoch}-0");
            feed.stand.command(&["XADD", &log, &id, "prev", &prev, "e", "{\"at\":1}"]).await;
            feed.stand.command(&["HSET", &epochs, &epoch.to_string(), &prev]).await;
        }
        feed
    }

    async fn kept_epochs(&self) -> Vec<u64> {
        let reply = self.stand.command(&["HKEYS", &keys::log_epochs(self.log_id())]).await;
        let names = reply.items().iter().map(|name| name.text()).filter(|name| name != LogBytes::FIELD);
        let mut epochs: Vec<u64> = names.map(|epoch| epoch.parse().unwrap()).collect();
        epochs.sort_unstable();
        epochs
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_with_entries_in_the_log_are_kept() {
    let mut feed = Feed::with_tenures(70).await;
    feed.append().await;
    assert_eq!(feed.kept_epochs().await.len(), 71);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_before_the_first_entry_are_removed_if_there_are_many() {
    let mut feed = Feed::with_tenures(90).await;
    feed.stand.command(&["XTRIM", &feed.log(), "MAXLEN", "80"]).await;
    feed.append().await;
    assert_eq!(feed.kept_epochs().await[..2], [11, 12]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_entries_of_too_many_epochs_loses_the_oldest_entries_with_their_epochs() {
    let mut feed = Feed::with_tenures(1_100).await;
    feed.append().await;
    let first = feed.entries().await[0].0;
    let kept = feed.kept_epochs().await;
    assert_eq!((kept.len(), kept[0]), (1_024, first.epoch));
}
