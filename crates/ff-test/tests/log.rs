//! The completion log: how a new epoch begins whenever this process may have lost sight of the tail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use ff_core::{EntryId, ExecutionId, LogId, Scope};
use ff_script::keys;
use ff_test::Fixture;
use support::Stand;

/// One flow of many members in one partition, to end one at a time.
struct Feed {
    stand: Stand,
    fixture: Fixture,
    members: Vec<ExecutionId>,
}

impl Feed {
    async fn start() -> Self {
        let stand = Stand::start().await;
        let fixture = Fixture::new(stand.backend.clone());
        let names: Vec<_> = (0..20).map(|n| n.to_string()).collect();
        let members: Vec<_> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
        let flow = fixture.submit_members(&members).await;
        let members = flow.executions.into_iter().map(|(_, id)| id).rev().collect();
        Self { stand, fixture, members }
    }

    fn log(&self) -> String {
        keys::completion_log(self.log_id())
    }

    fn log_id(&self) -> LogId {
        LogId { partition: self.members[0].partition(), scope: Scope::Flows }
    }

    /// Ends one execution; returns its entry and what it says of the entry before it.
    async fn append(&mut self) -> (EntryId, Option<String>) {
        let id = self.members.pop().unwrap();
        self.fixture.complete(id).await;
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
async fn a_deleted_log_begins_anew_after_nothing() {
    let mut feed = Feed::start().await;
    feed.append().await;
    let (last, _) = feed.append().await;
    feed.stand.command(&["DEL", &feed.log()]).await;
    let next = feed.append().await;
    begins_after(&feed, next.clone(), "none").await;
    assert_ne!(next.0.epoch, last.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_trimmed_to_empty_goes_on_in_its_epoch() {
    let mut feed = Feed::start().await;
    let (first, _) = feed.append().await;
    feed.stand.command(&["XTRIM", &feed.log(), "MAXLEN", "0"]).await;
    assert_eq!(feed.append().await, (EntryId { epoch: first.epoch, seq: 1 }, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_trimmed_to_empty_is_still_known_to_a_new_tenure() {
    let mut feed = Feed::start().await;
    feed.append().await;
    let (last, _) = feed.append().await;
    feed.stand.command(&["XTRIM", &feed.log(), "MAXLEN", "0"]).await;
    feed.stand.command(&["FUNCTION", "LOAD", "REPLACE", ff_script::SOURCE]).await;
    let next = feed.append().await;
    begins_after(&feed, next, &last.to_string()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_lost_under_the_same_process_begins_an_epoch_after_what_is_left() {
    let mut feed = Feed::start().await;
    feed.append().await;
    let (kept, _) = feed.append().await;
    // The log as it is now comes back later, as after a restore from a backup.
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
async fn an_epoch_is_greater_than_whatever_the_log_has_seen_also_with_a_clock_that_runs_ahead() {
    let mut feed = Feed::start().await;
    feed.append().await;
    // A server whose clock runs a day ahead has written here before.
    let ahead = feed.entries().await[0].0.epoch + 86_400_000;
    let entry = format!("{ahead}-0");
    feed.stand.command(&["XADD", &feed.log(), &entry, "e", "{\"at\":1}"]).await;
    let next = feed.append().await;
    begins_after(&feed, next.clone(), &entry).await;
    assert_eq!(next.0.epoch, ahead + 1);
}
