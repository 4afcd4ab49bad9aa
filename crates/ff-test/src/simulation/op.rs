//! The operations of a simulated history. They refer to existing objects by numbers modulo their count, so that a
//! history stays valid when a shrinker removes operations.

use std::collections::VecDeque;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// The size of a block of members; members need others of their own block only.
const BLOCK: u32 = 6;

/// One execution to submit. Times are in milliseconds; 0 means none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Members before this one that it needs, each modulo its own index.
    pub needs: Vec<u32>,
    /// The priority.
    pub priority: u16,
    /// Attempts allowed.
    pub attempts: u32,
    /// The first backoff; the longest is four times that.
    pub backoff: u64,
    /// The leases that may expire.
    pub expiries: u32,
    /// The delay.
    pub delay: u64,
    /// The deadline.
    pub deadline: u64,
    /// An attempt's timeout.
    pub timeout: u64,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the operations are those of the traits, with their arguments")]
pub enum Op {
    SubmitFlow(Vec<Member>),
    SubmitSolo(Member),
    Resubmit {
        submission: u32,
    },
    Claim {
        max: u32,
        lease: u64,
    },
    RepeatClaim,
    Complete {
        lease: u32,
    },
    CompleteMany {
        lease: u32,
        count: u32,
    },
    Fail {
        lease: u32,
        retryable: bool,
    },
    Renew {
        lease: u32,
        length: u64,
    },
    Release {
        lease: u32,
    },
    CancelExecution {
        execution: u32,
    },
    CancelFlow {
        flow: u32,
    },
    Advance {
        millis: u64,
    },
    StepBack {
        millis: u64,
    },
    /// The clock is set ahead, by more than the time between two calls.
    Leap {
        millis: u64,
    },
    /// The clock is set back, by more than an adjustment.
    LeapBack {
        millis: u64,
    },
    /// The clock is set ahead, and then back by a part of that.
    LeapInPart {
        millis: u64,
        back: u64,
    },
    Sweep,
    Reconcile,
    Resolve,
    Trim {
        keep: u32,
    },
    /// The calls that follow come from a program with a small limit of log bytes, or with a large one.
    Keep {
        little: bool,
    },
    /// A reader resumes, reads to the end, and closes.
    Read,
    Forget,
    /// Deletes the record of a member that has not ended, and lets the reconciler find it.
    Lose {
        execution: u32,
    },
    CutOff,
    FailOver,
    /// A program begins to submit a flow in parts. The operations that follow count such flows from the newest.
    BeginParts(Vec<Member>),
    /// Writes one part of a division into parts of this size.
    WritePart {
        submission: u32,
        number: u32,
        size: u32,
    },
    StartParts {
        submission: u32,
    },
    /// Another program submits the same flow, divided differently.
    TakeOver {
        submission: u32,
    },
    Fault {
        command: u32,
        stop: bool,
    },
}

/// Generates random histories.
pub(super) struct Generator {
    rng: Rng,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }

    pub(super) fn history(&mut self) -> Vec<Op> {
        let length = self.rng.usize(5..40);
        let faults = self.rng.u8(0..3) == 0;
        let failovers = self.rng.u8(0..4) == 0;
        let in_parts = self.rng.u8(0..3) == 0;
        let mut parts = VecDeque::new();
        let mut history = vec![];
        if self.rng.u8(0..2) == 0 {
            history.push(Op::Keep { little: true });
        }
        history.push(Op::SubmitFlow(self.members()));
        while history.len() < length {
            let op = if in_parts && self.rng.u8(0..2) == 0 {
                if parts.is_empty() {
                    parts = self.in_parts();
                }
                parts.pop_front().unwrap_or(Op::Sweep)
            } else {
                self.op()
            };
            if faults && self.rng.u8(0..6) == 0 {
                let last = if self.rng.u8(0..8) == 0 { 400 } else { 40 };
                history.push(Op::Fault { command: self.rng.u32(0..last), stop: self.rng.bool() });
            }
            if failovers && self.rng.u8(0..8) == 0 {
                history.push([Op::CutOff, Op::FailOver, Op::FailOver][self.rng.usize(0..3)].clone());
            }
            history.push(op);
        }
        history
    }

    fn op(&mut self) -> Op {
        let rng = &mut self.rng;
        let pick = rng.u32(0..1_000);
        match rng.u8(0..100) {
            0..6 => Op::SubmitFlow(self.members()),
            6..10 => Op::SubmitSolo(self.member(0)),
            10..31 => Op::Claim { max: rng.u32(1..5), lease: rng.u64(1..200) },
            31..35 => Op::RepeatClaim,
            35..45 => Op::Complete { lease: pick },
            45..48 => Op::CompleteMany { lease: pick, count: rng.u32(2..6) },
            48..56 => Op::Fail { lease: pick, retryable: rng.bool() },
            56..65 => Op::Renew { lease: pick, length: rng.u64(1..300) },
            65..69 => Op::Release { lease: pick },
            69..72 => Op::CancelExecution { execution: pick },
            72..74 => Op::CancelFlow { flow: pick },
            74..84 => Op::Advance { millis: rng.u64(1..150) },
            84..86 => Op::StepBack { millis: rng.u64(1..100) },
            86..90 => Op::Sweep,
            90..92 => Op::Read,
            92..94 => Op::Resubmit { submission: pick },
            94..96 => Op::Reconcile,
            96..98 => Op::Resolve,
            98 => Op::Trim { keep: rng.u32(0..10) },
            _ if rng.u8(0..8) == 0 => Op::Forget,
            _ if rng.u8(0..4) == 0 => Op::Keep { little: rng.bool() },
            _ if rng.u8(0..4) == 0 => Op::Leap { millis: rng.u64(20_000..100_000_000) },
            _ if rng.u8(0..4) == 0 => Op::LeapBack { millis: rng.u64(2_000..60_000) },
            _ if rng.u8(0..4) == 0 => {
                let millis = rng.u64(20_000..100_000_000);
                Op::LeapInPart { millis, back: rng.u64(2_000..millis) }
            }
            _ if rng.u8(0..3) == 0 => Op::Lose { execution: pick },
            _ => Op::Sweep,
        }
    }

    /// An operation of a submission in parts.
    fn in_parts(&mut self) -> VecDeque<Op> {
        let members = self.members();
        let count = u32::try_from(members.len()).expect("a flow has few members");
        let mut ops = VecDeque::from([Op::BeginParts(members)]);
        for _ in 0..self.rng.u32(1..3) {
            let size = self.rng.u32(1..5).max(count / 4);
            for number in 0..count.div_ceil(size) {
                if self.rng.u8(0..12) > 0 {
                    ops.push_back(Op::WritePart { submission: 0, number, size });
                }
                if self.rng.u8(0..24) == 0 {
                    ops.push_back(Op::Leap { millis: 60_001 });
                }
            }
            match self.rng.u8(0..8) {
                0 => ops.push_back(Op::TakeOver { submission: 0 }),
                1 => {}
                _ => ops.push_back(Op::StartParts { submission: 0 }),
            }
        }
        if self.rng.u8(0..3) == 0 {
            ops.push_back(Op::TakeOver { submission: self.rng.u32(0..3) });
        }
        ops
    }

    fn members(&mut self) -> Vec<Member> {
        // Sometimes more members than one call writes.
        let count = if self.rng.u8(0..32) == 0 { self.rng.u32(33..40) } else { self.rng.u32(1..7) };
        (0..count).map(|index| self.member(index)).collect()
    }

    fn member(&mut self, index: u32) -> Member {
        let rng = &mut self.rng;
        // Chains are short enough for one call to end them.
        let mut needs: Vec<_> = (index / BLOCK * BLOCK..index).filter(|_| rng.u8(0..3) == 0).collect();
        needs.dedup();
        let mut sometimes = |chance: u8, most: u64| if rng.u8(0..chance) == 0 { rng.u64(1..most) } else { 0 };
        let (backoff, delay, deadline, timeout) =
            (sometimes(2, 60), sometimes(6, 80), sometimes(6, 300), sometimes(5, 120));
        // A flow of many members has few deadlines, so that one sweep ends all due members: their order is then known.
        let deadline = if index < BLOCK { deadline } else { 0 };
        Member {
            needs,
            priority: if rng.u8(0..3) == 0 { rng.u16(0..5) } else { 0 },
            attempts: rng.u32(1..4),
            backoff,
            expiries: rng.u32(1..4),
            delay,
            deadline,
            timeout,
        }
    }
}
