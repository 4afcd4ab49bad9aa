//! The messages of a process's wake channel: `<lane> <partition number>` for new work, `lost {fp:N} <uuid> <epoch>` for
//! a lease that another caller has ended, and an empty message as a probe whether the process listens.

use ff_core::{ExecutionId, LaneId, Partition};

/// A message of a wake channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeMessage {
    /// Tests whether a process listens: the sender sees whether the message had a receiver.
    Probe,
    /// The lane has work in this partition.
    Ready(LaneId, Partition),
    /// This process has lost a lease.
    Lost {
        /// The execution.
        execution_id: ExecutionId,
        /// The lease's epoch.
        epoch: u64,
    },
}

impl WakeMessage {
    /// Reads a message; `None` if it is malformed.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        if message.is_empty() {
            return Some(Self::Probe);
        }
        let (first, rest) = std::str::from_utf8(message).ok()?.split_once(' ')?;
        // A lane may be called `lost` too; a partition's number has no braces.
        if first == "lost" && rest.starts_with('{') {
            let (tag, rest) = rest.split_once(' ')?;
            let (uuid, epoch) = rest.split_once(' ')?;
            let execution_id = format!("{tag}:{uuid}").parse().ok()?;
            return Some(Self::Lost { execution_id, epoch: epoch.parse().ok()? });
        }
        Some(Self::Ready(LaneId::new(first).ok()?, Partition::new(rest.parse().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_message_is_read_and_others_are_refused() {
        let read = |text: &str| WakeMessage::read(text.as_bytes());
        let lane = |name| LaneId::new(name).unwrap();
        assert_eq!(read(""), Some(WakeMessage::Probe));
        assert_eq!(read("a 7"), Some(WakeMessage::Ready(lane("a"), Partition::new(7))));
        assert_eq!(read("lost 7"), Some(WakeMessage::Ready(lane("lost"), Partition::new(7))));
        let id = "{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b";
        let lost = WakeMessage::Lost { execution_id: id.parse().unwrap(), epoch: 3 };
        assert_eq!(read("lost {fp:7} 0192f0c1-2b3c-7d4e-8f50-617283940a1b 3"), Some(lost));
        for text in ["nonsense", "b x", "b 99999999", "lost {fp:7}", "lost {fp:7} x 3", "lost {fp:7} 0192f0c1 "] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
