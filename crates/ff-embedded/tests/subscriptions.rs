//! Behaviour particular to subscriptions in process. The conformance suite covers what every backend must do.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use ff_core::{
    ControlBackend, ExecutionId, ExecutionSpec, FlowSubmission, Frame, GapCause, LaneId, Namespace, Overflow,
    Partition, PartitionCount, SubmitBackend, SubscribeBackend, SubscribeOptions, Subscription, WorkerId,
    backend::{ClaimRequest, WorkBackend},
};
use ff_embedded::EmbeddedBackend;
use futures::{FutureExt, StreamExt};

const LOG: &str = "ff:part:{fp:0}:completions";

fn backend() -> EmbeddedBackend {
    EmbeddedBackend::builder().partition_count(PartitionCount::new(1).unwrap()).build().unwrap()
}

async fn submit(backend: &EmbeddedBackend) -> ExecutionId {
    let flow = FlowSubmission::new(Namespace::default_namespace()).execution(ExecutionSpec::new("only"));
    backend.submit_flow(&flow).await.unwrap().executions[0].execution_id
}

/// Ends the waiting executions, in the order of their submission.
async fn end_all(backend: &EmbeddedBackend) {
    let request = ClaimRequest::new(WorkerId::new("w").unwrap(), LaneId::default_lane(), Partition::new(0))
        .max(64)
        .lease(Duration::from_secs(30));
    for claimed in backend.claim(&request).await.unwrap().executions {
        backend.complete(&claimed.lease, Bytes::new()).await.unwrap();
    }
}

fn available(subscription: &mut Subscription) -> Vec<Frame> {
    std::iter::from_fn(|| subscription.next().now_or_never().flatten()).collect()
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_wait_for_one_execution_is_not_woken_by_the_end_of_another() {
    let backend = backend();
    let (other, mine) = (submit(&backend).await, submit(&backend).await);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut subscription = backend.subscribe(&SubscribeOptions::new().only([mine])).await.unwrap();
    let mut poll = || subscription.poll_next_unpin(&mut Context::from_waker(&waker));
    assert_eq!(poll(), Poll::Ready(Some(Frame::CaughtUp)));
    assert!(poll().is_pending());
    backend.cancel_execution(other, "of no use").await.unwrap();
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    end_all(&backend).await;
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(matches!(poll(), Poll::Ready(Some(Frame::Completion(ended))) if ended.execution_id == mine));
}

#[tokio::test]
async fn a_gap_of_dropped_entries_never_spans_two_histories() {
    let backend = backend();
    let options = SubscribeOptions::new().overflow(Overflow::DropOldest).capacity(NonZeroUsize::new(4).unwrap());
    let mut subscription = backend.subscribe(&options).await.unwrap();
    for _ in 0..2 {
        submit(&backend).await;
    }
    end_all(&backend).await;
    let before: Vec<Frame> = available(&mut subscription);
    let old = before.iter().rev().find_map(|frame| match frame {
        Frame::Completion(ended) => ended.position,
        _ => None,
    });
    backend.host().command(&["DEL", LOG, &format!("{LOG}:epochs")]).unwrap();
    for _ in 0..6 {
        submit(&backend).await;
    }
    end_all(&backend).await;
    let frames = available(&mut subscription);
    let [Frame::Gap(undone), Frame::Gap(dropped), rest @ ..] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(
        (undone.cause, undone.after, Some(undone.through)),
        (GapCause::LogRecreated, None, old.map(|p| p.entry))
    );
    assert_eq!((dropped.cause, dropped.after, dropped.through.seq), (GapCause::Overflow, None, 1));
    let seqs: Vec<u64> = rest.iter().filter_map(|frame| Some(completion(frame)?.position?.entry.seq)).collect();
    assert_eq!(seqs, [2, 3, 4, 5]);
}

fn completion(frame: &Frame) -> Option<&ff_core::CompletionPayload> {
    if let Frame::Completion(ended) = frame { Some(ended) } else { None }
}

#[tokio::test]
async fn the_lag_names_an_unreadable_log_and_includes_the_others() {
    let two = PartitionCount::new(2).unwrap();
    let backend = EmbeddedBackend::builder().partition_count(two).build().unwrap();
    let subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    let id = loop {
        let id = submit(&backend).await;
        backend.cancel_execution(id, "of no use").await.unwrap();
        if id.partition() == Partition::new(1) {
            break id;
        }
    };
    backend.host().command(&["DEL", LOG]).unwrap();
    backend.host().command(&["SET", LOG, "x"]).unwrap();
    let lag = subscription.lag().await.unwrap();
    assert!(lag.events == 1 && lag.oldest_unread.is_some(), "{id}: {lag:?}");
    assert_eq!(lag.unreadable.iter().map(|(log, _)| log.partition).collect::<Vec<_>>(), [Partition::new(0)]);
}
