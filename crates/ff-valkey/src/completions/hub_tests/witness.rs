use super::*;

/// A consumer that takes everything, frame by frame, and sometimes resumes from a cursor.
pub(super) struct Witness {
    pub(super) start: Cursor,
    pub(super) frames: Arc<Mutex<Vec<Frame>>>,
    pub(super) resume: tokio::sync::mpsc::UnboundedSender<()>,
    pub(super) _task: crate::net::connection::Task,
}

impl Witness {
    pub(super) fn open(hub: &Arc<Hub>, start: &Start, pace: Duration) -> Self {
        let from = match start {
            Start::Earliest => Some(vec![LogCursor::earliest(); usize::from(PARTITIONS)].into()),
            _ => None,
        };
        let mut subscription = subscribe(hub, from);
        let start = subscription.cursor();
        let frames = Arc::new(Mutex::new(Vec::new()));
        let (noted, hub) = (frames.clone(), hub.clone());
        let (resume, mut resumes) = tokio::sync::mpsc::unbounded_channel();
        let task = crate::net::connection::Task::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    frame = subscription.next() => noted.lock().unwrap().extend(frame),
                    Some(()) = resumes.recv() => {
                        // Through its text form, as in another process.
                        let cursor: Cursor = subscription.close().await.to_string().parse().unwrap();
                        tokio::time::sleep(pace * 20).await;
                        subscription = subscribe(&hub, cursor.logs(Scope::Flows).cloned());
                    }
                }
                tokio::time::sleep(pace).await;
            }
        });
        Self { start, frames, resume, _task: task }
    }

    /// The start of its account of a log.
    pub(super) fn start(&self, log: usize, logs: &Logs) -> Option<EntryId> {
        let start = &self.start.logs(Scope::Flows).unwrap()[log];
        if !start.is_earliest() {
            return start.last();
        }
        // Entries that were trimmed before an earliest start are no loss, but may be reported.
        let known = self.frames.lock().unwrap().iter().find_map(|frame| match frame {
            Frame::Completion(event) => event
                .position
                .filter(|at| at.log.partition == partition(log))
                .map(|at| logs.on(log, |server| server.before(at.entry))),
            Frame::Gap(gap) if gap.log.partition == partition(log) => Some(gap.after),
            _ => None,
        });
        known.unwrap_or_else(|| logs.on(log, |server| server.before_first()))
    }

    /// Whether everything is accounted for.
    pub(super) fn judge(&self, logs: &Logs) -> Result<(), String> {
        let mut accounts: Vec<Account> =
            (0..usize::from(PARTITIONS)).map(|log| Account::starting_after(self.start(log, logs))).collect();
        for frame in &*self.frames.lock().unwrap() {
            match frame {
                Frame::Completion(event) => {
                    let position = event.position.unwrap();
                    accounts[usize::from(position.log.partition.number())].delivered(position.entry)?;
                }
                Frame::Gap(gap) => {
                    let log = usize::from(gap.log.partition.number());
                    logs.on(log, |server| accounts[log].gap(gap, server))?;
                }
                _ => {}
            }
        }
        accounts.iter().enumerate().try_for_each(|(log, account)| logs.on(log, |server| account.settle(server)))
    }

    /// Waits until everything is accounted for, or nothing has arrived for this long.
    async fn wait(&self, logs: &Logs, longest: Duration) {
        const STEP: Duration = Duration::from_millis(50);
        let (mut idle, mut count) = (Duration::ZERO, 0);
        while idle < longest && self.judge(logs).is_err() {
            let frames = self.frames.lock().unwrap().len();
            idle = if frames > count { Duration::ZERO } else { idle + STEP };
            count = frames;
            tokio::time::sleep(STEP).await;
        }
    }

    pub(super) async fn check(&self, logs: &Logs) -> Result<(), TestCaseError> {
        self.wait(logs, Duration::from_secs(20)).await;
        // Time for deliveries that must not happen. A late push of a rolled-back entry is delivered too, and the
        // comparison that follows takes it back; with failing reads that may be the one after many that fail.
        tokio::time::sleep(COMPARE_EVERY * 3).await;
        self.wait(logs, COMPARE_EVERY * 30).await;
        let frames = self.frames.lock().unwrap().clone();
        let shown: Vec<String> = frames.iter().map(shown).collect();
        prop_assert_eq!(
            self.judge(logs),
            Ok(()),
            "{:?} from {:?} {:#?}",
            shown,
            self.start.logs(Scope::Flows),
            logs.servers
        );
        prop_assert!(frames.contains(&Frame::CaughtUp));
        Ok(())
    }
}
