//! Fills connection tracking of where this runs with connections of nobody, and keeps it full: what ends makes room for one more of these.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bowline_kernel::conntrack::{Conntrack, ConntrackError, Discriminator, Entry, Tuple};
use rustix::io::Errno;
use serde_json::{Value, json};

/// How long an entry stays if nobody removes it, in seconds.
const TIMEOUT_S: u32 = 600;
/// Ports of each address.
const PORTS: u32 = 60_000;
/// Time between two looks for room.
const PAUSE: Duration = Duration::from_millis(1);

struct Filler {
    conntrack: Conntrack,
    made: Vec<Tuple>,
    next: u32,
}

/// A connection between networks for documentation and benchmarks (RFC 5737, RFC 2544).
fn connection(number: u32) -> Tuple {
    let source = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + number / PORTS));
    let ports = Discriminator::Ports { source: u16::try_from(1024 + number % PORTS).unwrap_or(1024), destination: 9 };
    Tuple { source, destination: Ipv4Addr::new(198, 51, 100, 1).into(), protocol: 6, discriminator: ports }
}

impl Filler {
    /// One more, as one that is established: such ones the kernel does not give up for others. Not where there is no room.
    fn add(&mut self) -> Result<bool> {
        let tuple = connection(self.next);
        match self.conntrack.adopt_tcp(&tuple, true, TIMEOUT_S) {
            Ok(_) => {
                self.next += 1;
                self.made.push(tuple);
                Ok(true)
            }
            Err(ConntrackError::Refused { errno, .. }) if [Errno::NOMEM, Errno::NOSPC].iter().any(|full| full.raw_os_error() == errno) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the newest.
    fn remove(&mut self, count: usize) -> Result<()> {
        for original in self.made.split_off(self.made.len().saturating_sub(count)) {
            self.conntrack.delete(&Entry::untranslated(original))?;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        while self.add()? {}
        Ok(())
    }

    fn report(&self) -> Result<Value> {
        let read = |name: &str| -> Result<u64> {
            let path = format!("/proc/sys/net/netfilter/{name}");
            std::fs::read_to_string(&path).context(path)?.trim().parse().context("a number")
        };
        Ok(json!({"made": self.made.len(), "entries": read("nf_conntrack_count")?, "room": read("nf_conntrack_max")?}))
    }
}

/// `+` fills and keeps full; `-NUMBER` removes so many and keeps nothing full; each is answered with what there is, as is everything else.
/// The end of the input removes all.
pub(super) fn run() -> Result<()> {
    let filler = Arc::new(Mutex::new(Filler { conntrack: Conntrack::open()?, made: Vec::new(), next: 0 }));
    let (full, own) = (Arc::new(AtomicBool::new(false)), filler.clone());
    let keeps = full.clone();
    std::thread::spawn(move || {
        loop {
            if keeps.load(Ordering::Relaxed) {
                // A refusal of another kind is seen by who asks next.
                let _ = lock(&own).fill();
            }
            std::thread::sleep(PAUSE);
        }
    });
    super::converse(|line| {
        match line.split_at_checked(1) {
            Some(("+", _)) => {
                lock(&filler).fill()?;
                full.store(true, Ordering::Relaxed);
            }
            Some(("-", number)) => {
                full.store(false, Ordering::Relaxed);
                lock(&filler).remove(number.parse()?)?;
            }
            Some(_) => {}
            None => bail!("an empty line"),
        }
        lock(&filler).report()
    })?;
    full.store(false, Ordering::Relaxed);
    let mut filler = lock(&filler);
    filler.remove(usize::MAX)?;
    super::say(&filler.report()?.to_string())
}

fn lock(filler: &Mutex<Filler>) -> MutexGuard<'_, Filler> {
    filler.lock().unwrap_or_else(PoisonError::into_inner)
}
