//! Reserved ports: a killed server restarts on the same port, so no other process may take it meanwhile. A lease is a
//! locked file, which works between threads and between test programs, and ends with its holder.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;

use crate::error::{Doing, Error, Result};

/// Below the range from which systems choose the ports of outgoing connections.
const FIRST: u16 = 20_000;
const LAST: u16 = 29_999;

/// A port that no other test of the run gets while this lives.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Leases a port that is free on all of this machine's addresses.
    pub(crate) fn lease() -> Result<Self> {
        let dir = std::env::temp_dir().join("ff-testserver-ports");
        std::fs::create_dir_all(&dir).doing("making the directory of port leases")?;
        let count = LAST - FIRST + 1;
        let start = (RandomState::new().hash_one(std::process::id()) % u64::from(count)) as u16;
        for step in 0..count {
            let number = FIRST + (start + step) % count;
            let Ok(lock) = File::create(dir.join(number.to_string())) else { continue };
            if lock.try_lock().is_ok() && TcpListener::bind(("0.0.0.0", number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(Error::NoPort { from: FIRST, to: LAST })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_held_at_the_same_time_differ() {
        let ports: Vec<_> = (0..20).map(|_| Port::lease().unwrap()).collect();
        let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
    }

    #[test]
    fn a_lease_is_free_again_after_its_drop() {
        let number = Port::lease().unwrap().number();
        let path = std::env::temp_dir().join("ff-testserver-ports").join(number.to_string());
        assert!(File::create(path).unwrap().try_lock().is_ok());
    }
}
