//! The half of a [`Subscription`](crate::Subscription) that a backend provides.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::FusedStream;

use crate::{Cursor, EngineError, Frame, Lag, SubscriptionStats};

/// What a backend provides behind a [`Subscription`](crate::Subscription).
#[async_trait]
pub trait SubscriptionSource: FusedStream<Item = Frame> + Send {
    /// See [`Subscription::cursor`](crate::Subscription::cursor).
    fn cursor(&self) -> Cursor;
    /// See [`Subscription::stats`](crate::Subscription::stats).
    fn stats(&self) -> SubscriptionStats;
    /// Asks for the lag of a cursor, independently of the stream.
    fn lag_probe(&self) -> Arc<dyn LagProbe>;
}

/// Reports how far a cursor is behind.
#[async_trait]
pub trait LagProbe: Send + Sync {
    /// The lag of this cursor.
    ///
    /// # Errors
    /// Transport errors.
    async fn lag_of(&self, cursor: &Cursor) -> Result<Lag, EngineError>;
}
