//! The consumer's end of a subscription.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use ff_core::{
    CompletionPayload, Cursor, EngineError, Frame, Gap, GapCause, Lag, LogId, Scope, SubscriptionStats,
    backend::{LagProbe, SubscriptionSource},
    reader::LogCursor,
};
use futures::{Stream, stream::FusedStream};

use crate::{
    completions::{
        hub::{Joined, Membership},
        lag::ServerLag,
        queue::{Item, Queue},
    },
    telemetry,
};

/// The completions of one subscription. Never ends.
pub(crate) struct Completions {
    queue: Arc<Queue>,
    _membership: Membership,
}

impl Completions {
    pub(crate) fn new(joined: Joined) -> Self {
        Self { queue: joined.queue, _membership: joined.membership }
    }
}

impl Stream for Completions {
    type Item = CompletionPayload;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::task::ready!(self.queue.poll(context)) {
                Some(Item::Event(event)) => return Poll::Ready(Some(Arc::unwrap_or_clone(event))),
                Some(_) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The position of one scope's part of an extended subscription: after everything that was yielded. Shared until the
/// next event changes it.
#[derive(Debug, Clone)]
pub(crate) struct Place(pub(crate) Arc<[LogCursor]>);

impl Place {
    fn cursor(&mut self, log: LogId) -> Option<&mut LogCursor> {
        Arc::make_mut(&mut self.0).get_mut(usize::from(log.partition.number()))
    }

    /// The frame for an item of the queue, other than a checkpoint or the notice of having caught up.
    pub(crate) fn frame(&mut self, taken: Item) -> Option<Frame> {
        match taken {
            Item::Event(event) => {
                if let Some(position) = event.position
                    && let Some(cursor) = self.cursor(position.log)
                {
                    cursor.advance(position.entry);
                }
                Some(Frame::Completion(Arc::unwrap_or_clone(event)))
            }
            Item::Gap(gap) => {
                if let Some(cursor) = self.cursor(gap.log) {
                    cursor.pass(&gap);
                }
                Some(Frame::Gap(*gap))
            }
            Item::Dropped(log, through) => {
                let cursor = self.cursor(log)?;
                let gap = Gap::new(log, cursor.last(), through, GapCause::Overflow);
                cursor.pass(&gap);
                telemetry::count_cause(telemetry::GAPS, GapCause::Overflow.as_str(), 1);
                Some(Frame::Gap(gap))
            }
            Item::CaughtUp | Item::Checkpoint(_) => None,
        }
    }
}

/// One scope's part of an extended subscription.
struct Part {
    scope: Scope,
    queue: Arc<Queue>,
    place: Place,
    caught_up: bool,
    _membership: Membership,
}

impl Part {
    fn new(scope: Scope, joined: Joined) -> Self {
        let place = Place(joined.start);
        Self { scope, queue: joined.queue, place, caught_up: false, _membership: joined.membership }
    }
}

/// An extended subscription over the hubs of its scopes.
pub(crate) struct Frames {
    parts: Vec<Part>,
    /// The part that is polled first, so that a busy part cannot starve the other.
    turn: usize,
    ended: bool,
    delivered: u64,
    gaps: u64,
    lag: Arc<dyn LagProbe>,
}

impl Frames {
    /// `joined` in the order of the scopes' logs, those of flows first.
    pub(crate) fn new(joined: Vec<(Scope, Joined)>, lag: Arc<dyn LagProbe>) -> Self {
        let parts = joined.into_iter().map(|(scope, joined)| Part::new(scope, joined)).collect();
        Self { parts, turn: 0, ended: false, delivered: 0, gaps: 0, lag }
    }

    /// The next frame of a part; the inner `None` when it has ended.
    fn poll_part(&mut self, at: usize, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        loop {
            let Some(taken) = std::task::ready!(self.parts[at].queue.poll(context)) else { return Poll::Ready(None) };
            match taken {
                Item::Checkpoint(cursors) => {
                    self.parts[at].place = Place(cursors);
                    return Poll::Ready(Some(Frame::Checkpoint(self.cursor())));
                }
                Item::CaughtUp => {
                    self.parts[at].caught_up = true;
                    if self.parts.iter().all(|part| part.caught_up && !part.queue.catching_up()) {
                        return Poll::Ready(Some(Frame::CaughtUp));
                    }
                }
                taken => {
                    if let Some(frame) = self.parts[at].place.frame(taken) {
                        return Poll::Ready(Some(frame));
                    }
                }
            }
        }
    }
}

impl Stream for Frames {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        if self.ended {
            return Poll::Ready(None);
        }
        for offset in 0..self.parts.len() {
            let at = (self.turn + offset) % self.parts.len();
            match self.poll_part(at, context) {
                Poll::Ready(Some(frame)) => {
                    self.turn = at + 1;
                    match &frame {
                        Frame::Completion(_) => self.delivered += 1,
                        Frame::Gap(_) => self.gaps += 1,
                        _ => {}
                    }
                    return Poll::Ready(Some(frame));
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

impl FusedStream for Frames {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl SubscriptionSource for Frames {
    fn cursor(&self) -> Cursor {
        let logs = |scope| self.parts.iter().find(|part| part.scope == scope).map(|part| part.place.0.clone());
        Cursor::new(logs(Scope::Flows).unwrap_or_default(), logs(Scope::Solo))
    }

    fn stats(&self) -> SubscriptionStats {
        let mut stats = SubscriptionStats::default();
        stats.delivered = self.delivered;
        stats.gaps = self.gaps;
        for part in &self.parts {
            let counts = part.queue.counts();
            stats.queued += counts.queued;
            stats.overflows += counts.overflows;
            stats.dropped += counts.dropped;
            stats.catching_up |= part.queue.catching_up();
        }
        stats
    }

    fn lag_probe(&self) -> Arc<dyn LagProbe> {
        self.lag.clone()
    }
}

#[async_trait]
impl LagProbe for ServerLag {
    async fn lag_of(&self, cursor: &Cursor) -> Result<Lag, EngineError> {
        self.measure(cursor).await
    }
}
