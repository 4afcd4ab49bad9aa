//! A subscription in a separate process, which writes its frames and its cursor to a file. It can be killed at any
//! time, and continues at the cursor when it is started again.
//!
//! The process runs this same program: it consumes if the environment asks for it.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use ff_core::{
    Cursor, EntryId, ExecutionId, Frame, Gap, LogId, PartitionCount, Start, SubscribeBackend, SubscribeOptions,
    SubscriptionScope, reader::LogCursor,
};
use ff_test::history::{End, Record, Seen};
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::Failure;

const ASKED: &str = "FF_FAULTS_CONSUME";
/// The most frames between two saved cursors.
const SAVE_EVERY: u32 = 500;

#[derive(Serialize, Deserialize)]
struct Order {
    url: String,
    partitions: PartitionCount,
    file: PathBuf,
}

#[derive(Serialize, Deserialize)]
enum Line {
    Event(LogId, EntryId, ExecutionId, u32),
    Gap(Gap),
    /// The cursor after all lines before.
    Save(Cursor),
}

/// The handle of the process.
pub(crate) struct Consumer {
    order: Order,
    args: Vec<String>,
    child: Child,
}

impl Consumer {
    /// Starts this program with `args`, to consume from `url` into a file of this directory.
    pub(crate) fn start(url: String, partitions: PartitionCount, dir: &Path, args: &[&str]) -> Result<Self, Failure> {
        let order = Order { url, partitions, file: dir.join("consumed") };
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = spawn(&order, &args)?;
        Ok(Self { order, args, child })
    }

    /// Kills it, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) -> Result<(), Failure> {
        self.kill();
        self.child = spawn(&self.order, &self.args)?;
        Ok(())
    }

    fn kill(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }

    /// The last saved cursor.
    pub(crate) fn cursor(&self) -> Result<Option<Cursor>, Failure> {
        Ok(last_saved(&self.order.file)?.0)
    }

    /// Ends it, and returns its record up to the last saved cursor.
    pub(crate) fn close(mut self, name: &str) -> Result<Record, Failure> {
        self.kill();
        let logs = usize::from(self.order.partitions.get());
        let start = Cursor::new(vec![LogCursor::earliest(); logs].into(), None);
        let mut record = Record::new(name, &options(), start);
        for line in kept(&self.order.file)? {
            match line {
                Line::Event(log, entry, execution, generation) => {
                    record.saw(log, Seen::Event { entry, end: End { execution, generation } });
                }
                Line::Gap(gap) => record.saw(gap.log, Seen::Gap(gap)),
                Line::Save(_) => {}
            }
        }
        Ok(record)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(order: &Order, args: &[String]) -> Result<Child, Failure> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.args(args).env(ASKED, serde_json::to_string(order)?).stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command.spawn()?)
}

fn options() -> SubscribeOptions {
    SubscribeOptions::new().scope(SubscriptionScope::FlowsAndSolo).start(Start::Earliest)
}

/// Consumes forever if this process was started for that.
pub(crate) fn consume_if_asked() -> Result<(), Failure> {
    let Some(order) = std::env::var(ASKED).ok() else { return Ok(()) };
    let order: Order = serde_json::from_str(&order)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(consume(&order))
}

async fn consume(order: &Order) -> Result<(), Failure> {
    let (cursor, whole) = last_saved(&order.file)?;
    let file = OpenOptions::new().create(true).append(true).open(&order.file)?;
    // The frames after the last cursor will be delivered again.
    file.set_len(whole)?;
    let mut out = BufWriter::new(file);
    let config = ValkeyConfig::from_url(&order.url)?.partition_count(order.partitions);
    let backend = ValkeyBackend::connect_with(config).await?;
    let start = cursor.map_or(Start::Earliest, Start::After);
    let mut subscription = backend.subscribe(&options().start(start)).await?;
    let mut unsaved = 0;
    while let Some(frame) = subscription.next().await {
        let mut save = false;
        match frame {
            Frame::Completion(completion) => {
                let Some(position) = completion.position else { continue };
                let line = Line::Event(position.log, position.entry, completion.execution_id, completion.generation);
                write(&mut out, &line)?;
            }
            Frame::Gap(gap) => write(&mut out, &Line::Gap(gap))?,
            _ => save = true,
        }
        unsaved += 1;
        if save || unsaved >= SAVE_EVERY {
            unsaved = 0;
            write(&mut out, &Line::Save(subscription.cursor()))?;
            out.flush()?;
        }
    }
    Err("the subscription ended".into())
}

fn write(out: &mut impl Write, line: &Line) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, line)?;
    Ok(out.write_all(b"\n")?)
}

/// All lines up to the last cursor.
fn kept(file: &Path) -> Result<Vec<Line>, Failure> {
    let (_, whole) = last_saved(file)?;
    let mut reader = BufReader::new(File::open(file)?.take(whole));
    let (mut lines, mut text) = (Vec::new(), String::new());
    while reader.read_line(&mut text)? > 0 {
        lines.push(serde_json::from_str(&text)?);
        text.clear();
    }
    Ok(lines)
}

/// The last cursor in the file, and the length of the file up to it.
fn last_saved(file: &Path) -> Result<(Option<Cursor>, u64), Failure> {
    /// Far more than one cursor and the lines up to the next one.
    const TAIL: u64 = 1 << 20;
    let Ok(mut file) = File::open(file) else { return Ok((None, 0)) };
    let from = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let (mut at, mut saved) = (from, (None, 0));
    // The first piece may be the end of a line, and the last one its beginning.
    for (number, line) in tail.split_inclusive(|byte| *byte == b'\n').enumerate() {
        at += line.len() as u64;
        let whole = (number > 0 || from == 0) && line.ends_with(b"\n");
        if whole && let Line::Save(cursor) = serde_json::from_slice(line)? {
            saved = (Some(cursor), at);
        }
    }
    Ok(saved)
}
