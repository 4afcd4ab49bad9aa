//! Instructions that the server executes per call of each function of the hot path, counted by callgrind. The counts
//! repeat to about a percent whatever else the machine does, so they show a change that makes a call more expensive.
//!
//! `cargo xtask bench --guard` compares them with `benches/instructions.txt` and fails if one has grown by more than
//! [`TOLERANCE`]; `cargo xtask bench --guard --record` writes that file.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::{
    ClaimId, EngineError, ExecutionId, ExecutionSpec, ExecutionSubmission, FlowSubmission, LaneId, Lease, Namespace,
    Partition, PartitionCount, SweepPolicy, WorkerId, backend::ClaimRequest,
};
use ff_script::{
    host::{Call, Reply, ScriptHost, ServerVersion},
    operations::{LogPolicy, Operations},
};
use ff_testserver::{RawClient, Reply as RawReply, TestServer};
use tokio::sync::Mutex;
use uuid::Uuid;

/// How much a count may grow, as a share.
const TOLERANCE: f64 = 0.05;
/// Calls that are counted of each kind, and calls before them, which fill caches.
const COUNTED: usize = 256;
const WARM_UP: usize = 64;
const PARTITIONS: u16 = 16;
const LEASE: Duration = Duration::from_secs(600);
/// The payload of the comparison with other systems (bytes).
const PAYLOAD: usize = 4096;
const CHAIN: usize = 10;
const BATCH: u32 = 16;
/// The line of the file that names the server's version.
const SERVER: &str = "server: ";

/// A host without housekeeping: nothing but the counted calls reaches the server.
struct BareHost(Mutex<RawClient>);

fn failed(reason: impl ToString) -> EngineError {
    EngineError::protocol("counting instructions", reason.to_string())
}

fn flat(reply: RawReply) -> Result<Reply, EngineError> {
    match reply {
        RawReply::Array(items) => Ok(items
            .into_iter()
            .map(|item| match item {
                RawReply::Bulk(bytes) => Bytes::from(bytes),
                other => Bytes::from(other.text()),
            })
            .collect()),
        RawReply::Bulk(bytes) => Ok(vec![Bytes::from(bytes)]),
        RawReply::Error(text) => Err(failed(text)),
        other => Ok(vec![Bytes::from(other.text())]),
    }
}

#[async_trait]
impl ScriptHost for BareHost {
    async fn fcall(&self, call: Call) -> Result<Reply, EngineError> {
        let name = if call.read_only { "FCALL_RO" } else { "FCALL" };
        let mut command = vec![Bytes::from(name), Bytes::from(call.function), Bytes::from(call.keys.len().to_string())];
        command.extend(call.keys.into_iter().map(Bytes::from));
        command.extend(call.args);
        flat(self.0.lock().await.command(&command).await.map_err(failed)?)
    }

    async fn fcall_many(&self, calls: Vec<Call>) -> Vec<Result<Reply, EngineError>> {
        let mut replies = Vec::with_capacity(calls.len());
        for call in calls {
            replies.push(self.fcall(call).await);
        }
        replies
    }

    async fn load_library(&self, source: &str) -> Result<(), EngineError> {
        let command = ["FUNCTION", "LOAD", "REPLACE", source];
        flat(self.0.lock().await.command(&command).await.map_err(failed)?).map(drop)
    }

    async fn probe(&self, call: Call) -> Result<Option<Reply>, EngineError> {
        self.fcall(call).await.map(Some)
    }

    async fn server_version(&self) -> Result<ServerVersion, EngineError> {
        Err(failed("the version is not asked for"))
    }
}

/// A server under callgrind.
struct Counter {
    server: TestServer,
    version: String,
    dir: PathBuf,
    process: String,
    dumps: usize,
}

impl Counter {
    async fn start(dir: &Path) -> Self {
        let server = std::env::var("FF_VALKEY_SERVER").expect("FF_VALKEY_SERVER names the server's program");
        let valgrind = std::env::var("FF_VALGRIND").unwrap_or_else(|_| "valgrind".to_owned());
        let program = dir.join("server");
        let out = dir.join("out");
        let script = format!(
            "#!/bin/sh\nexec {valgrind} --tool=callgrind --trace-children=yes --callgrind-out-file={} -q {server} \
             --hz 1 \"$@\"\n",
            out.display()
        );
        fs::write(&program, script).expect("the folder can be written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the folder can be written");
        let server = TestServer::builder().process().program(program).build().await.expect("a server starts");
        let info = server.command(&["INFO", "server"]).await.expect("the server is up").text();
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned());
        let version = field("valkey_version:").or_else(|| field("redis_version:")).expect("INFO names the version");
        let process = field("process_id:").expect("INFO names the process");
        Self { server, version, dir: dir.to_owned(), process, dumps: 0 }
    }

    fn control(&self, option: &str) {
        let program = std::env::var("FF_CALLGRIND_CONTROL").unwrap_or_else(|_| "callgrind_control".to_owned());
        let output = Command::new(&program).args([option, &self.process]).output().expect("callgrind_control runs");
        assert!(output.status.success(), "{program} {option}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn begin(&self) {
        self.control("--zero");
    }

    /// The instructions since [`Counter::begin`].
    fn end(&mut self) -> u64 {
        self.control("--dump");
        self.dumps += 1;
        let path = self.dir.join(format!("out.{}", self.dumps));
        let text = fs::read_to_string(&path).expect("callgrind has written its counts");
        let line = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")));
        line.and_then(|line| line.trim().parse().ok()).expect("the counts have a total")
    }
}

/// The calls under test, and the instructions of each kind of call.
struct Stage {
    counter: Counter,
    operations: Operations<BareHost>,
    lane: LaneId,
    namespace: Namespace,
    worker: WorkerId,
    counts: BTreeMap<String, u64>,
    /// How many submissions there were. Their ids come from this number, so that every run has the same.
    submissions: usize,
}

impl Stage {
    async fn start(dir: &Path) -> Self {
        let counter = Counter::start(dir).await;
        let client = RawClient::connect(counter.server.port()).await.expect("the server is up");
        let host = Arc::new(BareHost(Mutex::new(client)));
        host.load_library(ff_script::SOURCE).await.expect("the library loads");
        let count = PartitionCount::new(PARTITIONS).expect("the count is valid");
        Operations::join_deployment(&*host, Some(count)).await.expect("the deployment is new");
        let operations = Operations::new(host, count, LogPolicy::default(), Uuid::new_v4());
        Self {
            counter,
            operations,
            lane: LaneId::new("default").expect("the name is valid"),
            namespace: Namespace::new("default").expect("the name is valid"),
            worker: WorkerId::new("worker").expect("the name is valid"),
            counts: BTreeMap::new(),
            submissions: 0,
        }
    }

    fn note(&mut self, what: &str, calls: usize) {
        let instructions = self.counter.end();
        self.counts.insert(what.to_owned(), instructions / calls as u64);
    }

    fn request(&self, partition: Partition, max: u32) -> ClaimRequest {
        ClaimRequest::new(self.worker.clone(), self.lane.clone(), partition)
            .max(max)
            .lease(LEASE)
            .id(ClaimId::generate())
    }

    fn next_key(&mut self) -> String {
        self.submissions += 1;
        self.submissions.to_string()
    }

    async fn submit_solo(&mut self, count: usize, payload: usize) -> Vec<ExecutionId> {
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let spec = ExecutionSpec::new("step").lane(self.lane.clone()).payload(vec![b'x'; payload]);
            let key = self.next_key();
            let solo = ExecutionSubmission::new(self.namespace.clone(), spec).idempotency_key(key);
            ids.push(self.operations.submit_execution(&solo).await.expect("it is accepted").execution_id);
        }
        ids
    }

    async fn claim_one(&self, partition: Partition) -> Lease {
        let claim = self.operations.claim(&self.request(partition, 1)).await.expect("the server is up");
        claim.executions.first().expect("the partition has work").lease
    }

    async fn claim_each(&self, ids: &[ExecutionId]) -> Vec<Lease> {
        let mut leases = Vec::with_capacity(ids.len());
        for id in ids {
            leases.push(self.claim_one(id.partition()).await);
        }
        leases
    }

    async fn complete(&self, leases: &[Lease]) {
        for lease in leases {
            self.operations.complete(lease, Bytes::from_static(b"done")).await.expect("the lease is held");
        }
    }

    /// Solo executions, one by one.
    async fn solo(&mut self, payload: usize) {
        let ids = self.submit_solo(WARM_UP, payload).await;
        self.complete(&self.claim_each(&ids).await).await;
        self.counter.begin();
        let ids = self.submit_solo(COUNTED, payload).await;
        self.note(&format!("submit, solo, payload of {payload}"), COUNTED);
        self.counter.begin();
        let leases = self.claim_each(&ids).await;
        self.note(&format!("claim one, solo, payload of {payload}"), COUNTED);
        self.counter.begin();
        self.complete(&leases).await;
        self.note(&format!("complete, solo, payload of {payload}"), COUNTED);
    }

    /// Solo executions that are claimed in batches; the count is per execution.
    async fn batches(&mut self) {
        let mut by_partition: BTreeMap<Partition, usize> = BTreeMap::new();
        while by_partition.values().filter(|count| **count >= BATCH as usize).count() < usize::from(PARTITIONS) {
            let id = self.submit_solo(1, PAYLOAD).await[0];
            *by_partition.entry(id.partition()).or_default() += 1;
        }
        self.counter.begin();
        let (mut leases, mut rest) = (Vec::new(), Vec::new());
        for partition in by_partition.keys() {
            let claim = self.operations.claim(&self.request(*partition, BATCH)).await.expect("the server is up");
            leases.extend(claim.executions.into_iter().map(|execution| execution.lease));
        }
        self.note(&format!("claim {BATCH}, per execution"), leases.len());
        for (partition, count) in by_partition {
            for _ in BATCH as usize..count {
                rest.push(self.claim_one(partition).await);
            }
        }
        let ended: Vec<_> = leases.iter().map(|lease| (*lease, Bytes::from_static(b"done"))).collect();
        self.counter.begin();
        for outcome in self.operations.complete_many(&ended).await {
            outcome.expect("the lease is held");
        }
        self.note(&format!("complete {BATCH}, per execution"), ended.len());
        self.complete(&rest).await;
    }

    fn chain(&mut self) -> FlowSubmission {
        let mut flow = FlowSubmission::new(self.namespace.clone()).idempotency_key(self.next_key());
        for index in 0..CHAIN {
            let mut spec = ExecutionSpec::new(format!("step{index}")).lane(self.lane.clone());
            if index > 0 {
                spec = spec.needs([format!("step{}", index - 1)]);
            }
            flow = flow.execution(spec);
        }
        flow
    }

    /// Chains, member by member; the counts of claim and complete are per member.
    async fn chains(&mut self) {
        // The first round begins the logs of all partitions.
        for flows in [8 * usize::from(PARTITIONS), COUNTED / 4] {
            self.counter.begin();
            let mut heads = Vec::new();
            for _ in 0..flows {
                let chain = self.chain();
                let flow = self.operations.submit_flow(&chain).await.expect("it is accepted");
                heads.push(flow.executions[0].execution_id);
            }
            self.note(&format!("submit a chain of {CHAIN}, per member"), flows * CHAIN);
            let (mut claims, mut ends) = (0, 0);
            for _ in 0..CHAIN {
                self.counter.begin();
                let leases = self.claim_each(&heads).await;
                claims += self.counter.end();
                self.counter.begin();
                self.complete(&leases).await;
                ends += self.counter.end();
            }
            let members = (flows * CHAIN) as u64;
            self.counts.insert("claim one, chain".to_owned(), claims / members);
            self.counts.insert("complete, chain".to_owned(), ends / members);
        }
    }

    /// Calls that go out regularly although nothing happens.
    async fn idle(&mut self) {
        let partitions: Vec<_> = (0..PARTITIONS).map(Partition::new).collect();
        let rounds = 4 * COUNTED / partitions.len();
        for _ in 0..2 {
            self.counter.begin();
            for _ in 0..rounds {
                self.operations.await_work(&self.lane, &partitions).await.expect("the server is up");
            }
            self.note("await work", 4 * COUNTED);
            self.counter.begin();
            for _ in 0..rounds {
                for report in self.operations.sweep(&partitions, &SweepPolicy::default()).await {
                    report.expect("the server is up");
                }
            }
            self.note("sweep, nothing due", 4 * COUNTED);
        }
        let ids = self.submit_solo(COUNTED, 0).await;
        let leases = self.claim_each(&ids).await;
        self.counter.begin();
        self.operations.renew(&leases, LEASE).await.expect("the server is up");
        self.note("renew, per lease", COUNTED);
    }
}

/// The recorded counts, and the server's version that they are of.
fn recorded(path: &Path) -> (BTreeMap<String, u64>, String) {
    let text = fs::read_to_string(path).unwrap_or_default();
    let version = text.lines().find_map(|line| line.strip_prefix(SERVER)).unwrap_or_default().to_owned();
    let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
    let counts = pairs.filter_map(|(what, count)| Some((what.to_owned(), count.replace(',', "").parse().ok()?)));
    (counts.collect(), version)
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints the counts beside the recorded ones. Returns whether none has grown too much.
fn compare(counts: &BTreeMap<String, u64>, recorded: &BTreeMap<String, u64>) -> bool {
    let mut all_within = true;
    println!("| call | instructions | recorded | |\n| --- | --- | --- | --- |");
    for (what, count) in counts {
        let Some(before) = recorded.get(what) else {
            println!("| {what} | {} | | not recorded |", grouped(*count));
            all_within = false;
            continue;
        };
        #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than a float holds")]
        let growth = *count as f64 / *before as f64 - 1.0;
        let within = growth <= TOLERANCE;
        all_within &= within;
        let verdict = if within { "" } else { ", too much" };
        println!("| {what} | {} | {} | {:+.1} %{verdict} |", grouped(*count), grouped(*before), growth * 100.0);
    }
    all_within
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt");
    let dir = std::env::temp_dir().join(format!("ff-instructions-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the folder for temporary files can be written");
    let mut stage = Stage::start(&dir).await;
    stage.solo(0).await;
    stage.solo(PAYLOAD).await;
    stage.batches().await;
    stage.chains().await;
    stage.idle().await;
    let (counts, version) = (stage.counts.clone(), stage.counter.version.clone());
    drop(stage);
    let _ = fs::remove_dir_all(&dir);
    let (before, version_before) = recorded(&path);
    if std::env::args().any(|argument| argument == "--record") {
        compare(&counts, &before);
        let mut text = format!("{SERVER}{version}\n");
        for (what, count) in &counts {
            let _ = writeln!(text, "{what}: {}", grouped(*count));
        }
        fs::write(&path, text).expect("the file can be written");
        return ExitCode::SUCCESS;
    }
    if version != version_before {
        eprintln!(
            "error: the recorded counts are of server {version_before}, this server is {version}; use that version"
        );
        return ExitCode::FAILURE;
    }
    if compare(&counts, &before) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: calls execute more instructions than recorded; make them cheaper, or record the new counts");
    ExitCode::FAILURE
}
