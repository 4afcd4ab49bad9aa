//! The consumer's end of a subscription, and its lag.

use ff_script::operations::LogBytes;

use super::*;

/// An extended subscription.
pub(crate) struct Frames {
    pub(super) frames: BoxStream<'static, Frame>,
    pub(super) ended: bool,
    pub(super) scope: SubscriptionScope,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) probe: Arc<EmbeddedLag>,
}

impl Frames {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Futures for Frames {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.frames.as_mut().poll_next(context);
        self.ended = matches!(polled, Poll::Ready(None));
        polled
    }
}

impl FusedStream for Frames {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl SubscriptionSource for Frames {
    fn cursor(&self) -> Cursor {
        let cursors = self.shared().cursors.clone();
        self.probe.logs.cursor(&self.probe.host, self.scope, &cursors)
    }

    fn stats(&self) -> SubscriptionStats {
        self.shared().stats
    }

    fn lag_probe(&self) -> Arc<dyn LagProbe> {
        self.probe.clone()
    }
}

pub(super) struct EmbeddedLag {
    pub(super) host: Arc<EmbeddedHost>,
    pub(super) logs: Arc<Logs>,
}

#[async_trait]
impl LagProbe for EmbeddedLag {
    async fn lag_of(&self, cursor: &Cursor) -> Result<Lag, EngineError> {
        let now = self.host.clock().now_us() / 1000;
        let retention = SweepPolicy::default().retention;
        let mut lag = Lag::default();
        self.host.read(|keys, _| {
            for name in self.logs.of(cursor.scope()) {
                let log = name.0;
                let stream = match keys.get::<Stream>(&name.1) {
                    Ok(Some(stream)) => stream,
                    Ok(None) => continue,
                    Err(error) => {
                        lag.unreadable.push((log, error.to_string()));
                        continue;
                    }
                };
                let Some(cursors) = cursor.logs(log.scope) else { continue };
                let cursor = &cursors[usize::from(log.partition.number())];
                let at = |entry: &Entry| wire::decode_entry(log, entry.id, &entry.fields).ok()?.payload.produced_at_ms;
                let unread = stream.iter().find(|entry| !cursor.has(entry.id));
                let bytes = bytes(keys, log);
                let facts = LogFacts {
                    ends: ends(keys, name),
                    len: stream.len() as u64,
                    bytes: bytes.total(),
                    unread_bytes: bytes.after(cursor.last()),
                    first_at: stream.iter().next().and_then(at),
                    last_at: stream.iter().next_back().and_then(at),
                    unread_at: unread.and_then(at),
                };
                facts.add_to(&mut lag, cursor, now, self.logs.policy.limits(log.scope), retention);
            }
        });
        Ok(lag)
    }
}

/// The size of a log in bytes, as recorded by the library.
fn bytes(keys: &Keyspace, log: LogId) -> LogBytes {
    let fields = keys.get::<Hash>(keys::log_epochs(log).as_bytes()).ok().flatten();
    let saved = fields.and_then(|fields| fields.iter().find(|(name, _)| *name == LogBytes::FIELD.as_bytes()));
    saved.map(|(_, value)| LogBytes::read(value)).unwrap_or_default()
}
