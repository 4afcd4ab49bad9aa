//! The end of a subscription that its owner polls.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ff_core::CompletionPayload;
use futures::Stream;
use tokio::sync::mpsc::Receiver;

use crate::{fanout::Queued, hub::Membership};

/// One subscription's completions. Never ends: the hub holds the other end of the queue for as long as this lives.
pub(crate) struct Completions {
    events: Receiver<Queued>,
    _membership: Membership,
}

impl Completions {
    pub(crate) const fn new(events: Receiver<Queued>, membership: Membership) -> Self {
        Self { events, _membership: membership }
    }
}

impl Stream for Completions {
    type Item = CompletionPayload;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context).map(|event| event.map(Arc::unwrap_or_clone))
    }
}
