//! Load: payloads, many calls at once, calls at fixed times, and percentiles.

use std::future::Future;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

/// A text of this length that needs no escapes in JSON. Texts of different seeds differ.
pub(crate) fn payload(length: usize, seed: usize) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let mut state = (seed as u64).wrapping_add(1).wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut text = String::with_capacity(length);
    while text.len() < length {
        // A linear congruential generator; its upper bits are the random ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let digits = (0..8).map(|at| char::from(DIGITS[(state >> (24 + at * 5)) as usize & 31]));
        text.extend(digits.take(length - text.len()));
    }
    text
}

/// Calls `call` for each number below `count`, `at_once` at a time, each of these on a task of its own.
///
/// # Errors
/// The first of a task whose call failed.
pub async fn each<F, Fut>(count: usize, at_once: usize, call: F) -> Result<()>
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let (next, call) = (Arc::new(AtomicUsize::new(0)), Arc::new(call));
    let task = |_| {
        let (next, call) = (next.clone(), call.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                call(number).await?;
            }
        })
    };
    let tasks: Vec<_> = (0..at_once.min(count)).map(task).collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Calls `send` on a thread of its own at `rate` a second, with the number of the call and the time at which it was
/// due. An open loop: a slow call delays none after it.
pub(crate) fn open_loop(
    rate: u32,
    count: usize,
    mut send: impl FnMut(usize, Instant) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        // The usual slack of 50 us would be part of each time. Without the permission it stays.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let start = Instant::now() + Duration::from_millis(20);
        for number in 0..count {
            let due = start + Duration::from_secs_f64(number as f64 / f64::from(rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            send(number, due);
        }
    })
}

/// The smallest time that `share` of the times do not exceed, in ms.
pub(crate) fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let at = (times.len() as f64 * share).ceil() as usize;
    times.get(at.max(1) - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_length_and_differ() {
        assert_eq!(payload(4096, 1).len(), 4096);
        assert_eq!(payload(3, 1).len(), 3);
        assert_ne!(payload(16, 1), payload(16, 2));
    }

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let mut times: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times, 0.5), 50.0);
        assert_eq!(percentile(&mut times, 0.99), 99.0);
        assert!(percentile(&mut [], 0.5).is_nan());
    }
}
