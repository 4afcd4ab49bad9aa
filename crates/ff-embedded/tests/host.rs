//! The guarantees of the host: every command of the library, faults at an exact command, lost variables, the clock, and
//! the behaviour of subscriptions when a log changes under them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use ff_core::{
    ClaimedExecution, CompletionBackend, CompletionStream, ControlBackend, EngineError, ExecutionId, ExecutionSpec,
    FlowSubmission, LaneId, LogId, Namespace, PartitionCount, PublicState, ScannerFilter, Scope, SubmitBackend,
    backend::{ClaimRequest, MaintenanceBackend, WorkBackend},
};
use ff_embedded::{Clock, EmbeddedBackend, EmbeddedHost, Fault, KeyValue, VirtualClock};
use ff_script::{host::ScriptHost, keys};
use futures::{FutureExt, StreamExt, executor::block_on};

#[test]
fn the_host_knows_the_commands_that_the_library_uses() {
    let mut used = BTreeSet::new();
    for opening in ["redis.call('", "redis.pcall('", "ff.base.chunked('"] {
        let calls = ff_script::SOURCE.split(opening).skip(1);
        used.extend(calls.filter_map(|rest| rest.split_once('\'')).map(|(command, _)| command));
    }
    let known: BTreeSet<_> = EmbeddedHost::commands().collect();
    assert!(used.len() > 20, "{used:?}");
    assert!(known.is_superset(&used), "unknown to the host: {:?}", used.difference(&known));
    let computed = ff_script::SOURCE.matches("redis.call(").count() - ff_script::SOURCE.matches("redis.call('").count();
    assert_eq!(computed, 1, "a command whose name is computed escapes this test, but for the one in `chunked`");
}

#[test]
fn a_function_that_creates_an_undeclared_key_fails() {
    let library = "#!lua name=creator\n\
        redis.register_function('create', function(_, ARGV) return redis.call('HSET', ARGV[1], 'a', '1') end)\n\
        redis.register_function('try', function(_, ARGV) redis.pcall('ZADD', ARGV[1], '1', 'a') return 'fine' end)\n";
    let host = EmbeddedHost::new(Clock::Real, 1);
    host.load(library).unwrap();
    for function in ["create", "try"] {
        let error = host.call(function, &["declared"], &["other"]).unwrap_err();
        assert!(error.text().contains("creates the key 'other'"), "{error}");
    }
    assert!(host.snapshot().is_empty());
    host.command(&["HSET", "other", "b", "1"]).unwrap();
    host.call("create", &["declared"], &["other"]).expect("a key that is there may be changed");
    host.call("create", &["new"], &["new"]).expect("a key that is declared may be created");
}

#[test]
fn arguments_that_are_taken_without_handles_are_the_same_texts() {
    let library = "#!lua name=arguments\n\
        redis.register_function('hset', function(KEYS, ARGV) return redis.call('HSET', KEYS[1], unpack(ARGV)) end)\n\
        redis.register_function('numbers', function(KEYS)\n\
          redis.call('HSET', KEYS[1], 0, -1, 'big', 12345678901234)\n\
          return redis.call('HMGET', KEYS[1], '0', 'big')\n\
        end)\n\
        local odd = { function() return redis.pcall() end, function(key) return redis.pcall('HGET', key, true) end,\n\
          function(key) return redis.pcall('HGET', nil, key) end, function(key) return redis.pcall({ key }) end }\n\
        redis.register_function('odd', function(KEYS, ARGV) return odd[tonumber(ARGV[1])](KEYS[1]) end)\n";
    let (exact, fast) = (EmbeddedHost::new(Clock::Real, 1), EmbeddedHost::new(Clock::Real, 1));
    exact.load(library).unwrap();
    block_on(fast.load_library(library)).unwrap();
    for fields in [1_usize, 3, 4, 11, 12, 30, 100] {
        let args: Vec<Vec<u8>> = (0..2 * fields).map(|n| [n.to_string().as_bytes(), b"\xff\0\r"].concat()).collect();
        let key = format!("{fields}");
        assert_eq!(exact.call("hset", &[&key], &args), fast.call("hset", &[&key], &args));
    }
    assert_eq!(exact.call::<_, &str>("numbers", &["n"], &[]), fast.call::<_, &str>("numbers", &["n"], &[]));
    for which in ["1", "2", "3", "4"] {
        let refusal = exact.call("odd", &["key"], &[which]).unwrap_err();
        assert_eq!(fast.call("odd", &["key"], &[which]).unwrap_err(), refusal, "{which}");
    }
    assert_eq!(exact.snapshot(), fast.snapshot());
}

/// A flow of independent members in one partition, on a separate clock.
struct Stand {
    backend: EmbeddedBackend,
    clock: VirtualClock,
    flow: Vec<ExecutionId>,
}

impl Stand {
    fn new(members: usize) -> Self {
        let clock = VirtualClock::at_millis(1_700_000_000_000);
        let builder = EmbeddedBackend::builder().clock(Clock::Virtual(clock.clone())).seed(7);
        let backend = builder.partition_count(PartitionCount::new(4).unwrap()).build().unwrap();
        let submission = (0..members).fold(FlowSubmission::new(Namespace::new("a").unwrap()), |flow, number| {
            flow.execution(ExecutionSpec::new(number.to_string()))
        });
        let submitted = block_on(backend.submit_flow(&submission)).unwrap();
        let flow = submitted.ids().collect();
        Self { backend, clock, flow }
    }

    fn log(&self) -> String {
        keys::completion_log(LogId { partition: self.flow[0].partition(), scope: Scope::Flows })
    }

    fn claim(&self) -> ClaimedExecution {
        let request = ClaimRequest::new("worker".parse().unwrap(), LaneId::default_lane(), self.flow[0].partition())
            .max(1)
            .lease(Duration::from_secs(10));
        block_on(self.backend.claim(&request)).unwrap().executions.remove(0)
    }

    fn complete(&self, count: usize) -> Vec<ExecutionId> {
        let complete = |_| {
            let claimed = self.claim();
            block_on(self.backend.complete(&claimed.lease, Bytes::new())).unwrap();
            claimed.lease.execution_id
        };
        (0..count).map(complete).collect()
    }

    fn subscribe(&self) -> CompletionStream {
        block_on(self.backend.subscribe_completions()).unwrap()
    }
}

fn drain(stream: &mut CompletionStream) -> Vec<ExecutionId> {
    std::iter::from_fn(|| stream.next().now_or_never().flatten()).map(|completion| completion.execution_id).collect()
}

#[test]
fn a_call_stopped_anywhere_is_completed_by_its_repetition() {
    let stand = Stand::new(1);
    let claimed = stand.claim();
    let mut completions = stand.subscribe();
    let mut refused = 0;
    for command in 1.. {
        stand.backend.host().inject(Fault::stop(command));
        match block_on(stand.backend.complete(&claimed.lease, Bytes::new())) {
            Err(error) => {
                assert!(error.is_retryable() && error.to_string().contains("made to stop"), "{error}");
                assert_eq!(stand.backend.host().commands_of_last_call(), command);
                refused += 1;
            }
            Ok(()) => break,
        }
    }
    assert!(refused > 5, "{refused}");
    let mut heard = drain(&mut completions);
    // The call that stopped between the log entry and its record in the core appends it a second time.
    heard.dedup();
    assert_eq!(heard, [claimed.lease.execution_id]);
    block_on(stand.backend.complete(&claimed.lease, Bytes::new())).expect("a fault lasts one call");
}

#[test]
fn an_injected_error_is_of_the_kind_that_its_text_says() {
    let stand = Stand::new(1);
    let claimed = stand.claim();
    for (text, expected) in [("OOM full", "exhausted"), ("TRYAGAIN later", "busy"), ("ERR broken", "ERR broken")] {
        stand.backend.host().inject(Fault::refuse(3).with_text(text));
        let error = block_on(stand.backend.complete(&claimed.lease, Bytes::new())).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_refused_announcement_loses_nothing() {
    let stand = Stand::new(2);
    let claimed = stand.claim();
    block_on(stand.backend.complete(&claimed.lease, Bytes::new())).unwrap();
    let commands = stand.backend.host().commands_of_last_call();
    let mut completions = stand.subscribe();
    let next = stand.claim();
    // The announcement comes last.
    stand.backend.host().inject(Fault::refuse(commands).with_text("NOPERM no channel"));
    block_on(stand.backend.complete(&next.lease, Bytes::new())).unwrap();
    assert_eq!(drain(&mut completions), [next.lease.execution_id]);
}

#[test]
fn lost_variables_begin_an_epoch_and_lose_nothing() {
    let stand = Stand::new(4);
    let mut completions = stand.subscribe();
    let mut expected = stand.complete(2);
    stand.backend.host().forget_variables();
    stand.clock.set_millis(1_600_000_000_000);
    expected.extend(stand.complete(2));
    assert_eq!(drain(&mut completions), expected);
    let Some(KeyValue::Stream { entries, .. }) = stand.backend.host().snapshot().remove(stand.log().as_bytes()) else {
        panic!("no log")
    };
    let begun: Vec<_> = entries.iter().map(|entry| entry.id.seq).collect();
    assert_eq!(begun, [0, 1, 0, 1]);
}

#[test]
fn a_reader_behind_a_trimmed_or_deleted_log_continues() {
    let stand = Stand::new(9);
    let mut completions = stand.subscribe();
    stand.complete(3);
    stand.backend.host().command(&["XTRIM", &stand.log(), "MAXLEN", "1"]).unwrap();
    assert_eq!(drain(&mut completions).len(), 1, "trimmed entries are a gap");
    let before = stand.complete(1);
    assert_eq!(drain(&mut completions), before);
    stand.complete(1);
    stand.backend.host().command(&["DEL", &stand.log()]).unwrap();
    stand.clock.set_millis(1_600_000_000_000);
    stand.backend.host().forget_variables();
    let after = stand.complete(2);
    assert_eq!(drain(&mut completions), after, "the new log is read from its beginning");
}

#[test]
fn a_reader_far_behind_gets_everything() {
    let stand = Stand::new(0x300);
    let mut early = stand.subscribe();
    let filter = ScannerFilter::new().namespace(Namespace::new("b").unwrap());
    let mut other_tenant = block_on(stand.backend.subscribe_completions_filtered(&filter)).unwrap();
    let expected = stand.complete(0x300);
    assert_eq!(drain(&mut early), expected);
    assert_eq!(drain(&mut other_tenant), []);
}

#[test]
fn the_virtual_clock_decides_when_a_lease_expires() {
    let stand = Stand::new(1);
    let id = stand.claim().lease.execution_id;
    let sweep =
        || block_on(stand.backend.sweep(&[id.partition()], &ff_core::SweepPolicy::default())).remove(0).unwrap();
    assert_eq!((sweep().reclaimed, sweep().next_due), (0, Some(Duration::from_secs(10))));
    stand.clock.advance(Duration::from_secs(10));
    assert_eq!(sweep().reclaimed, 1);
    assert_eq!(block_on(stand.backend.describe_execution(id)).unwrap().state, PublicState::Waiting);
}

#[test]
fn subscriptions_beyond_the_limit_are_refused_until_one_is_dropped() {
    let backend = EmbeddedBackend::builder().max_subscriptions(1).build().unwrap();
    let first = block_on(backend.subscribe_completions()).unwrap();
    let refused = block_on(backend.subscribe_completions()).err().unwrap();
    assert!(matches!(refused, EngineError::ResourceExhausted { resource: "subscriptions", .. }));
    drop(first);
    assert!(block_on(backend.subscribe_completions()).is_ok());
}

#[test]
fn two_backends_share_a_host_as_processes_share_a_server() {
    let one = EmbeddedBackend::new();
    let two = EmbeddedBackend::builder().host(one.host().clone()).build().unwrap();
    let mut completions = block_on(two.subscribe_completions()).unwrap();
    let lane = LaneId::default_lane();
    let mut signals = block_on(two.work_signals(&lane)).unwrap();
    let partitions: Vec<_> = two.partition_count().partitions().collect();
    assert_eq!(block_on(two.await_work(&lane, &partitions)).unwrap(), []);
    let flow = FlowSubmission::new(Namespace::new("a").unwrap()).execution(ExecutionSpec::new("only"));
    let id = block_on(one.submit_flow(&flow)).unwrap().executions[0].execution_id;
    let signal = signals.next().now_or_never().flatten();
    assert_eq!(signal, Some(ff_core::backend::WorkSignal::Ready(id.partition())));
    block_on(one.cancel_execution(id, "enough")).unwrap();
    assert_eq!(drain(&mut completions), [id]);
    let other_count =
        EmbeddedBackend::builder().host(one.host().clone()).partition_count(PartitionCount::new(7).unwrap());
    assert!(matches!(other_count.build(), Err(EngineError::Conflict { .. })));
}

#[test]
fn many_threads_complete_what_they_claim_exactly_once() {
    let stand = Arc::new(Stand::new(400));
    let mut completions = stand.subscribe();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let stand = stand.clone();
            std::thread::spawn(move || stand.complete(100))
        })
        .collect();
    let mut done: Vec<_> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    let mut heard = drain(&mut completions);
    done.sort_unstable_by_key(ToString::to_string);
    heard.sort_unstable_by_key(ToString::to_string);
    assert_eq!(heard, done);
}
