//! A membership among the subscriptions of a host, whose number is limited.

use super::*;

/// A membership; dropping it frees the place.
pub(super) struct Membership(Arc<AtomicUsize>);

impl Membership {
    pub(super) fn take(subscriptions: &Arc<AtomicUsize>, max: usize) -> Result<Self, EngineError> {
        let one_more = |count: usize| (count < max).then_some(count + 1);
        match subscriptions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(before) => {
                telemetry::level(telemetry::SUBSCRIPTIONS, before + 1);
                Ok(Self(subscriptions.clone()))
            }
            Err(count) => {
                let reason = format!("there are {count} of them; raise max_subscriptions or drop some");
                Err(EngineError::ResourceExhausted { resource: "subscriptions", reason })
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        telemetry::level(telemetry::SUBSCRIPTIONS, self.0.fetch_sub(1, Ordering::Relaxed) - 1);
    }
}
