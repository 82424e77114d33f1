//! `forward`: questions that others answer.
//!
//! Invariant: an answer counts only from the address asked, under the id sent, to the question sent; each UDP question
//! has a random id and a socket, hence a source port, of its own. What waits is bounded.

mod exchange;
mod read;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use domain::base::iana::{OptRcode, Rcode};
use rand::seq::SliceRandom;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::name::{self, Name};
use crate::server::Transport;
use crate::wire::{Query, Reply};

pub use exchange::ExchangeError;
pub use read::read;
pub use upstream::Upstream;

/// In which order upstreams are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Any.
    Random,
    /// Each in turn is first.
    RoundRobin,
    /// As they are written.
    Sequential,
}

/// The options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardOptions {
    /// Names forwarded.
    pub from: Vec<Name>,
    /// Names below them that are not.
    pub except: Vec<Name>,
    /// Upstreams.
    pub to: Vec<SocketAddr>,
    /// Order.
    pub policy: Policy,
    /// Always by TCP.
    pub force_tcp: bool,
    /// By UDP first, whatever the client used.
    pub prefer_udp: bool,
    /// How long an idle TCP connection is kept.
    pub expire: Duration,
    /// Failed health checks in a row after which an upstream is down; 0: never.
    pub max_fails: u32,
    /// Time between health checks of an upstream that failed.
    pub health_interval: Duration,
    /// Health checks ask for recursion.
    pub health_recursion: bool,
    /// Name that health checks ask for.
    pub health_name: Name,
    /// Questions under way at once; unlimited if absent.
    pub max_concurrent: Option<usize>,
    /// Codes after which the next `forward` is asked.
    pub next: Vec<Rcode>,
    /// Codes after which the next upstream is asked.
    pub failover: Vec<Rcode>,
    /// Nobody is asked while all upstreams are down.
    pub fail_fast: bool,
}

/// The plugin.
pub struct Forward {
    options: ForwardOptions,
    upstreams: Vec<Arc<Upstream>>,
    turn: AtomicUsize,
    slots: Option<Semaphore>,
    /// Questions refused since too many were under way.
    pub rejected: AtomicU64,
    /// Questions sent while all upstreams were down.
    pub broken: AtomicU64,
}

/// Why a question could not be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Too many are under way.
    #[error("too many questions are forwarded at once")]
    TooMany,
    /// All upstreams are down.
    #[error("no healthy upstream")]
    AllDown,
    /// The last upstream that was tried failed.
    #[error("{upstream}: {source}")]
    Failed {
        /// Its address.
        upstream: SocketAddr,
        /// Why.
        source: ExchangeError,
    },
}

/// Time for a question as a whole, and for one upstream.
const TOTAL: Duration = Duration::from_secs(5);
const EACH: Duration = Duration::from_secs(2);

impl Forward {
    /// The plugin with its options.
    pub fn new(options: ForwardOptions, metrics: &Metrics) -> Forward {
        let upstream = |address: &SocketAddr| Arc::new(Upstream::new(*address, &options, metrics.upstream(*address)));
        let upstreams = options.to.iter().map(upstream).collect();
        let slots = options.max_concurrent.map(Semaphore::new);
        Forward { options, upstreams, turn: AtomicUsize::new(0), slots, rejected: AtomicU64::new(0), broken: AtomicU64::new(0) }
    }

    /// Whether a name is forwarded.
    pub fn takes(&self, asked: &Name) -> bool {
        name::in_any(&self.options.from, asked) && !name::in_any(&self.options.except, asked)
    }

    /// Whether after this reply the next `forward` is to be asked.
    pub fn passes_on(&self, rcode: OptRcode) -> bool {
        self.options.next.iter().any(|code| OptRcode::from(*code) == rcode)
    }

    /// Asks.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn exchange(&self, query: &Query, client: Transport) -> Result<Reply, ForwardError> {
        let _slot = match &self.slots {
            None => None,
            Some(slots) => Some(slots.try_acquire().map_err(|_| {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                ForwardError::TooMany
            })?),
        };
        let by_tcp = self.options.force_tcp || (client == Transport::Tcp && !self.options.prefer_udp);
        let deadline = Instant::now() + TOTAL;
        let mut last = ForwardError::AllDown;
        let mut declined = None;
        for upstream in self.order()? {
            let until = deadline.min(Instant::now() + EACH);
            if until <= Instant::now() {
                break;
            }
            match self.ask(&upstream, query, by_tcp, client, until).await {
                Ok(reply) if self.options.failover.iter().any(|code| OptRcode::from(*code) == reply.rcode) => declined = Some(reply),
                Ok(reply) => return Ok(reply),
                Err(source) => {
                    tracing::debug!(upstream = %upstream.address(), %source, "no answer");
                    upstream.check_health();
                    last = ForwardError::Failed { upstream: upstream.address(), source };
                }
            }
        }
        declined.ok_or(last)
    }

    async fn ask(
        &self,
        upstream: &Upstream,
        query: &Query,
        by_tcp: bool,
        client: Transport,
        until: Instant,
    ) -> Result<Reply, ExchangeError> {
        let reply = upstream.exchange(query, by_tcp, until).await?;
        // A client of UDP asks again itself; one of TCP, or the server itself, cannot do better.
        let wants_whole = client != Transport::Udp || self.options.prefer_udp;
        if reply.tc && !by_tcp && wants_whole { upstream.exchange(query, true, until).await } else { Ok(reply) }
    }

    /// The upstreams in the order in which they are tried: the healthy ones; a single one twice, for a lost packet.
    fn order(&self) -> Result<Vec<Arc<Upstream>>, ForwardError> {
        let mut order = self.upstreams.clone();
        match self.options.policy {
            Policy::Random => order.shuffle(&mut rand::rng()),
            Policy::RoundRobin => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let length = order.len().max(1);
                order.rotate_left(turn % length);
            }
            Policy::Sequential => {}
        }
        let healthy: Vec<Arc<Upstream>> = order.iter().filter(|upstream| !upstream.is_down()).cloned().collect();
        let mut order = if healthy.is_empty() {
            self.broken.fetch_add(1, Ordering::Relaxed);
            if self.options.fail_fast {
                return Err(ForwardError::AllDown);
            }
            // Perhaps it is the checking that is broken.
            order.shuffle(&mut rand::rng());
            order.truncate(1);
            order
        } else {
            healthy
        };
        if let [only] = order.as_slice() {
            order.push(Arc::clone(only));
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests;
