//! A short simulation, and every call with a fault at every command. `cargo xtask simulate` runs longer ones.

use std::time::Duration;

use ff_test::simulation::{InProcess, Member, Op, check, simulate, try_on};
use uuid::Uuid;

/// Enough to cover every operation many times; takes a few seconds.
const HISTORIES: u64 = 400;

#[test]
fn library_and_model_agree_on_random_histories() {
    if let Err(counterexample) = simulate(1_000_000_000, HISTORIES, Duration::from_secs(600)) {
        panic!("{counterexample}");
    }
}

fn member(needs: &[u32]) -> Member {
    Member {
        needs: needs.to_vec(),
        priority: 0,
        attempts: 2,
        backoff: 20,
        expiries: 2,
        delay: 0,
        deadline: 0,
        timeout: 0,
    }
}

/// `0 <- 1, 2 <- 3`, and 4 behind 3 with a delay and a deadline.
fn diamond_members() -> Vec<Member> {
    let late = Member { delay: 50, deadline: 400, ..member(&[3]) };
    vec![member(&[]), member(&[0]), member(&[0]), member(&[1, 2]), late]
}

fn diamond() -> Op {
    Op::SubmitFlow(diamond_members())
}

/// The diamond in parts of two members, the first `count` of them.
fn parts_of_diamond(count: u32) -> Vec<Op> {
    let written = (0..count).map(|number| Op::WritePart { submission: 0, number, size: 2 });
    std::iter::once(Op::BeginParts(diamond_members())).chain(written).collect()
}

/// The calls of the library: the operations before each, and the call.
fn calls() -> Vec<(&'static str, Vec<Op>, Op)> {
    let claimed = || vec![diamond(), Op::Claim { max: 4, lease: 30 }];
    let timed = Member { timeout: 10, deadline: 60, ..member(&[]) };
    let due = |millis| {
        let timed = Op::SubmitFlow(vec![timed.clone(), Member { delay: 20, ..member(&[]) }, member(&[0])]);
        vec![timed, Op::Claim { max: 2, lease: 30 }, Op::Advance { millis }]
    };
    let confirmed = |mut history: Vec<Op>| {
        history.insert(2, Op::Renew { lease: 0, length: 30 });
        history
    };
    let retried = vec![
        diamond(),
        Op::Claim { max: 1, lease: 30 },
        Op::Fail { lease: 0, retryable: true },
        Op::Advance { millis: 25 },
        Op::Sweep,
        Op::Claim { max: 1, lease: 30 },
    ];
    let overdue = Member { deadline: 30, ..member(&[1]) };
    let overdue =
        vec![Op::SubmitFlow(vec![member(&[]), member(&[0]), overdue, member(&[0, 2])]), Op::Advance { millis: 50 }];
    let brief = Member { deadline: 30, ..member(&[]) };
    let both_overdue =
        vec![Op::SubmitFlow(vec![brief.clone(), brief]), Op::Claim { max: 4, lease: 40 }, Op::Advance { millis: 50 }];
    vec![
        ("submit a flow", vec![], diamond()),
        ("submit a solo execution", vec![], Op::SubmitSolo(Member { delay: 10, deadline: 90, ..member(&[]) })),
        ("write the first part", parts_of_diamond(0), Op::WritePart { submission: 0, number: 0, size: 2 }),
        ("write the last part", parts_of_diamond(2), Op::WritePart { submission: 0, number: 2, size: 2 }),
        ("write a part of another division", parts_of_diamond(3), Op::WritePart { submission: 0, number: 0, size: 3 }),
        ("start a flow of parts", parts_of_diamond(3), Op::StartParts { submission: 0 }),
        ("start a flow that lacks a part", parts_of_diamond(2), Op::StartParts { submission: 0 }),
        ("submit as a whole what is there in parts", parts_of_diamond(2), Op::TakeOver { submission: 0 }),
        ("claim", vec![diamond(), Op::SubmitSolo(member(&[]))], Op::Claim { max: 4, lease: 30 }),
        ("repeat a claim", claimed(), Op::RepeatClaim),
        ("confirm a lease beyond the attempt's time", due(15), Op::Renew { lease: 0, length: 90 }),
        ("release", claimed(), Op::Release { lease: 0 }),
        ("renew", claimed(), Op::Renew { lease: 0, length: 90 }),
        ("shorten a lease", claimed(), Op::Renew { lease: 0, length: 5 }),
        ("complete", claimed(), Op::Complete { lease: 0 }),
        ("complete at an epoch's beginning", [claimed(), vec![Op::Forget]].concat(), Op::Complete { lease: 0 }),
        ("fail with a retry", claimed(), Op::Fail { lease: 0, retryable: true }),
        ("fail for good", claimed(), Op::Fail { lease: 0, retryable: false }),
        ("fail the last attempt", retried, Op::Fail { lease: 1, retryable: true }),
        ("cancel an execution", vec![diamond()], Op::CancelExecution { execution: 1 }),
        ("cancel what an overdue execution needs", overdue, Op::CancelExecution { execution: 0 }),
        ("cancel a running execution", claimed(), Op::CancelExecution { execution: 0 }),
        ("cancel a flow", claimed(), Op::CancelFlow { flow: 0 }),
        ("sweep timeouts", confirmed(due(35)), Op::Sweep),
        ("sweep confirmed leases", confirmed([claimed(), vec![Op::Advance { millis: 35 }]].concat()), Op::Sweep),
        ("sweep leases and delays", due(35), Op::Sweep),
        ("sweep deadlines of leased executions", both_overdue, Op::Sweep),
        ("sweep deadlines", due(70), Op::Sweep),
        ("lose a running member", claimed(), Op::Lose { execution: 0 }),
        ("lose a blocked member", claimed(), Op::Lose { execution: 3 }),
        ("reconcile", claimed(), Op::Reconcile),
        ("resolve", claimed(), Op::Resolve),
    ]
}

/// By the clock such a lease ends within the leap, but it was not held during the leap.
#[test]
fn a_lease_given_after_a_leap_expires_although_the_clock_was_then_adjusted_back() {
    let leap = Op::Leap { millis: 49_346_134 };
    check(&[leap, Op::SubmitSolo(member(&[])), Op::StepBack { millis: 64 }, Op::Claim { max: 1, lease: 2 }]);
}

/// The clock was adjusted back before it leapt, so the lease begins after the last call before the leap.
#[test]
fn a_lease_given_before_a_leap_keeps_its_remaining_time_although_the_clock_was_adjusted_back_before() {
    let leap = Op::Leap { millis: 49_346_134 };
    check(&[Op::SubmitSolo(member(&[])), Op::Claim { max: 1, lease: 200 }, Op::StepBack { millis: 64 }, leap]);
}

#[test]
fn a_call_that_fails_at_any_command_has_its_whole_effect_or_none() {
    let stage = InProcess::new(0, [Uuid::nil(); 2]);
    for (name, before, call) in calls() {
        for stop in [false, true] {
            for command in 0.. {
                let fault = Op::Fault { command, stop };
                let later = [Op::Advance { millis: 10 }, Op::Sweep];
                let history = [before.clone(), vec![fault, call.clone()], later.to_vec()].concat();
                let met = try_on(&stage, &history).unwrap_or_else(|what| panic!("{name}: {what}\n{history:#?}"));
                if !met {
                    assert!(command > 0, "{name}: no call was made");
                    break;
                }
            }
        }
    }
}
