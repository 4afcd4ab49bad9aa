//! Runs one command in a process group of its own, keeps what it prints, and ends the whole group when it must stop.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;
use ff_core::Failure;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::unix::pipe::Receiver,
    process::{Child, Command},
};

use super::{Attempt, tail::Tail};

/// How much of the output becomes the execution's result.
const RESULT_BYTES: usize = 64 * 1024;
/// How long a command may take to end after it was told to, before it is killed.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// How long output is still read after the command has ended and its group was killed.
const DRAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(
    command: &str,
    env: &BTreeMap<String, String>,
    working_dir: Option<&Path>,
    attempt: &Attempt,
) -> Result<Bytes, Failure> {
    let mut output = Output::open(attempt.output_file.as_deref()).await?;
    let (mut child, printed) = spawn(command, env, working_dir, attempt)?;
    let group = Group::of(&child);
    let reading = output.read(printed);
    let ending = end_of(&mut child, &group, attempt);
    let ended = {
        tokio::pin!(reading, ending);
        tokio::select! {
            ended = &mut ending => {
                // What it left running in the background holds the pipes open.
                group.signal(Signal::KILL);
                let _ = tokio::time::timeout(DRAIN, reading).await;
                ended
            }
            () = &mut reading => {
                let ended = ending.await;
                group.signal(Signal::KILL);
                ended
            }
        }
    };
    output.finish().await;
    verdict(ended, output.tail)
}

enum Ended {
    By(ExitStatus),
    Stopped,
    Lost(io::Error),
}

fn verdict(ended: Ended, tail: Tail) -> Result<Bytes, Failure> {
    let with_last_line = |what: String| match tail.last_line() {
        Some(line) => format!("{what}: {line}"),
        None => what,
    };
    match ended {
        Ended::By(status) if status.success() => Ok(tail.into_bytes()),
        Ended::By(status) => Err(Failure::retryable(with_last_line(describe(status)))),
        Ended::Stopped => Err(Failure::retryable(with_last_line("stopped".to_owned()))),
        Ended::Lost(error) => Err(Failure::retryable(format!("the command's end could not be awaited: {error}"))),
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn spawn(
    command: &str,
    env: &BTreeMap<String, String>,
    working_dir: Option<&Path>,
    attempt: &Attempt,
) -> Result<(Child, Receiver), Failure> {
    let not_started = |error: io::Error| Failure::retryable(format!("the command could not be started: {error}"));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).envs(env);
    shell.env("FF_EXECUTION_ID", attempt.execution_id.to_string());
    shell.env("FF_FLOW_ID", attempt.flow_id.map(|id| id.to_string()).unwrap_or_default());
    shell.env("FF_ATTEMPT", attempt.number.to_string());
    // The address of the server may carry a password; commands do not need either.
    for name in ["FF_URL", "FF_USERNAME", "FF_PASSWORD_FILE"] {
        if !env.contains_key(name) {
            shell.env_remove(name);
        }
    }
    if let Some(directory) = working_dir {
        if !directory.is_dir() {
            return Err(Failure::permanent(format!("working_dir `{}` is not a directory", directory.display())));
        }
        shell.current_dir(directory);
    }
    // One pipe for both streams keeps what they print in its order.
    let (reader, writer) = io::pipe().map_err(not_started)?;
    let printed = Receiver::from_owned_fd(reader.into()).map_err(not_started)?;
    shell.stdin(Stdio::null()).stdout(writer.try_clone().map_err(not_started)?).stderr(writer);
    shell.process_group(0).kill_on_drop(true);
    // The writing ends that `shell` holds are closed with it at the end of this function.
    Ok((shell.spawn().map_err(not_started)?, printed))
}

async fn end_of(child: &mut Child, group: &Group, attempt: &Attempt) -> Ended {
    tokio::select! {
        status = child.wait() => status.map_or_else(Ended::Lost, Ended::By),
        () = attempt.stop.cancelled() => {
            group.signal(Signal::TERM);
            if tokio::time::timeout(TERM_GRACE, child.wait()).await.is_err() {
                group.signal(Signal::KILL);
                let _ = child.wait().await;
            }
            Ended::Stopped
        }
    }
}

/// The command and whatever it started, unless that left the group. Ends with this value.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.0 {
            // The group may have ended by itself; that is what is wanted.
            let _ = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Where stdout and stderr go.
struct Output {
    tail: Tail,
    file: Option<File>,
}

impl Output {
    async fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let file = match path {
            Some(path) => Some(File::create(path).await.map_err(|error| {
                Failure::permanent(format!("the output cannot be kept in {}: {error}", path.display()))
            })?),
            None => None,
        };
        Ok(Self { tail: Tail::new(RESULT_BYTES), file })
    }

    async fn read(&mut self, mut printed: impl AsyncRead + Unpin) {
        let mut buffer = [0; 8192];
        loop {
            // A pipe that cannot be read any more is as good as one at its end.
            let length = printed.read(&mut buffer).await.unwrap_or(0);
            if length == 0 {
                return;
            }
            self.tail.push(&buffer[..length]);
            if let Some(file) = &mut self.file
                && let Err(error) = file.write_all(&buffer[..length]).await
            {
                tracing::warn!(%error, "the output file cannot be written; the rest of the output is not kept there");
                self.file = None;
            }
        }
    }

    async fn finish(&mut self) {
        if let Some(mut file) = self.file.take()
            && let Err(error) = file.flush().await
        {
            tracing::warn!(%error, "the end of the output could not be written to its file");
        }
    }
}

#[cfg(test)]
mod tests {
    use ff_core::{ExecutionId, FlowId, PartitionCount};
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn attempt() -> Attempt {
        Attempt {
            execution_id: ExecutionId::member(FlowId::generate(), "a", PartitionCount::DEFAULT),
            flow_id: Some(FlowId::generate()),
            number: 2,
            stop: CancellationToken::new(),
            output_file: None,
        }
    }

    async fn sh(command: &str, attempt: &Attempt) -> Result<String, Failure> {
        let env = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
        run(command, &env, None, attempt).await.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn output_of_both_streams_is_the_result() {
        let result = sh("echo $GREETING; echo oops >&2; echo $GREETING again", &attempt()).await.unwrap();
        assert_eq!(result, "hello\noops\nhello again\n", "in the order in which it was printed");
    }

    #[tokio::test]
    async fn the_command_knows_its_execution_flow_and_attempt() {
        let attempt = attempt();
        let result = sh("echo $FF_EXECUTION_ID $FF_FLOW_ID $FF_ATTEMPT", &attempt).await.unwrap();
        assert_eq!(result, format!("{} {} 2\n", attempt.execution_id, attempt.flow_id.unwrap()));
    }

    #[tokio::test]
    async fn a_failed_command_tells_its_status_and_last_line() {
        let failure = sh("echo first; echo 'disk full' >&2; exit 3", &attempt()).await.unwrap_err();
        assert_eq!((failure.reason.as_str(), failure.retryable), ("exit status 3: disk full", true));
        assert_eq!(sh("exit 4", &attempt()).await.unwrap_err().reason, "exit status 4");
        assert_eq!(sh("kill -9 $$", &attempt()).await.unwrap_err().reason, "killed by signal 9");
    }

    #[tokio::test]
    async fn stopping_ends_the_whole_group_at_once() {
        let attempt = attempt();
        let stop = attempt.stop.clone();
        let started = Instant::now();
        let running = sh("echo started; sleep 300 & wait", &attempt);
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stop.cancel();
        };
        let (result, ()) = tokio::join!(running, stopping);
        assert_eq!(result.unwrap_err().reason, "stopped: started");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_command_that_ignores_the_request_to_end_is_killed() {
        let attempt = attempt();
        let stop = attempt.stop.clone();
        let started = Instant::now();
        let running = sh("trap '' TERM; echo on; while :; do sleep 1; done", &attempt);
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stop.cancel();
        };
        let (result, ()) = tokio::join!(running, stopping);
        assert_eq!(result.unwrap_err().reason, "stopped: on");
        assert!(started.elapsed() < TERM_GRACE + Duration::from_secs(3));
    }

    #[tokio::test]
    async fn what_a_command_leaves_in_the_background_does_not_hold_it_up() {
        let started = Instant::now();
        assert_eq!(sh("sleep 300 & echo done", &attempt()).await.unwrap(), "done\n");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn the_whole_output_is_kept_in_the_file_and_its_end_in_the_result() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big.log");
        let attempt = Attempt { output_file: Some(path.clone()), ..attempt() };
        let result = sh("head -c 300000 /dev/zero | tr '\\0' x; echo; echo end", &attempt).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 300_005);
        assert!(result.len() == RESULT_BYTES && result.ends_with("x\nend\n"), "{}", result.len());
    }

    #[tokio::test]
    async fn a_working_directory_that_is_not_there_fails_for_good_with_its_name() {
        let failure = run("true", &BTreeMap::new(), Some(Path::new("/no/such/place")), &attempt()).await.unwrap_err();
        assert!(!failure.retryable && failure.reason.contains("/no/such/place"), "{failure:?}");
    }
}
