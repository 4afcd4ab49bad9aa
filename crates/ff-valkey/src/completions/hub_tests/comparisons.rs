//! How soon the hub finds entries that no push announced.

use super::*;

/// A hub whose comparisons take place shortly after every [`COMPARE_EVERY`], after the first of them.
async fn compared_once() -> (Arc<Logs>, Arc<Hub>, Subscription, crate::net::connection::Task) {
    let logs = Logs::new(u64::MAX);
    let hub = hub(&logs, 8);
    hub.start().await.unwrap();
    let reader = crate::net::connection::Task::spawn(hub.clone().read_logs());
    let subscription = subscribe(&hub, None);
    tokio::time::sleep(COMPARE_EVERY + COMPARE_EVERY / 4).await;
    (logs, hub, subscription, reader)
}

/// The completions and gaps that arrive within this time.
async fn within(subscription: &mut Subscription, time: Duration) -> Vec<String> {
    let mut frames = Vec::new();
    let all = async {
        while let Some(frame) = subscription.next().await {
            frames.extend(matches!(frame, Frame::Completion(_) | Frame::Gap(_)).then(|| shown(&frame)));
        }
    };
    let _ = tokio::time::timeout(time, all).await;
    frames
}

#[test]
fn entries_pushed_and_lost_with_their_server_process_are_declared_at_the_next_comparison() {
    let lost = async {
        let (logs, hub, mut subscription, _reader) = compared_once().await;
        hub.pushed([message(&logs.on(0, Server::append))].into_iter());
        logs.on(0, |server| server.lose(1));
        let frames = within(&mut subscription, COMPARE_EVERY).await;
        prop_assert_eq!(frames, ["{fp:0}@10-0", "({fp:0}: log_recreated from the log's start through 10-0)"]);
        Ok(())
    };
    in_simulated_time(lost).unwrap();
}

#[test]
fn the_next_comparison_finds_what_a_failed_one_missed() {
    let failed = async {
        let (logs, hub, mut subscription, _reader) = compared_once().await;
        let true_one = logs.on(0, Server::append);
        hub.pushed([message(&true_one)].into_iter());
        tokio::time::sleep(COMPARE_EVERY).await;
        // It was never in the log, which had its turn in the previous comparison.
        let entry = EntryId { seq: true_one.entry.seq + 1, ..true_one.entry };
        let log = LogId { partition: partition(0), scope: Scope::Flows };
        let event = Some(simulated::event(log, Some(entry), 77));
        hub.pushed([message(&LogEntry { entry, prev: None, event })].into_iter());
        logs.is_away.store(true, Ordering::Relaxed);
        tokio::time::sleep(COMPARE_EVERY).await;
        logs.is_away.store(false, Ordering::Relaxed);
        let frames = within(&mut subscription, COMPARE_EVERY).await;
        prop_assert_eq!(frames, ["{fp:0}@10-0", "{fp:0}@10-1", "({fp:0}: history_rewritten after 10-0 through 10-1)"]);
        Ok(())
    };
    in_simulated_time(failed).unwrap();
}

#[test]
fn a_push_lost_after_another_of_its_log_is_read_half_a_second_after_the_next_comparison() {
    let lost = async {
        let (logs, hub, mut subscription, _reader) = compared_once().await;
        hub.pushed([message(&logs.on(0, Server::append))].into_iter());
        logs.on(0, Server::append);
        let frames = within(&mut subscription, COMPARE_EVERY + ON_ITS_WAY).await;
        prop_assert_eq!(frames, ["{fp:0}@10-0", "{fp:0}@10-1"]);
        Ok(())
    };
    in_simulated_time(lost).unwrap();
}

#[test]
fn logs_are_read_while_comparisons_keep_failing() {
    let failing = async {
        let (logs, hub, mut subscription, _reader) = compared_once().await;
        logs.has_no_heads.store(true, Ordering::Relaxed);
        hub.missed();
        logs.on(0, Server::append);
        hub.pushed([message(&logs.on(0, Server::append))].into_iter());
        let delivered = within(&mut subscription, COMPARE_EVERY).await;
        prop_assert_eq!(delivered, ["{fp:0}@10-0", "{fp:0}@10-1"]);
        Ok(())
    };
    in_simulated_time(failing).unwrap();
}
