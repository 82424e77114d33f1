//! One upstream: its health, its idle connections, its counters.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use domain::base::iana::Rtype;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::ForwardOptions;
use super::exchange::{self, ExchangeError};
use crate::metrics::UpstreamMetrics;
use crate::wire::{Query, Reply};

/// Idle connections kept to one upstream.
const MAX_IDLE: usize = 64;

/// An upstream.
pub struct Upstream {
    address: SocketAddr,
    max_fails: u32,
    expire: Duration,
    by_tcp: bool,
    interval: Duration,
    probe: Query,
    fails: AtomicU32,
    checking: AtomicBool,
    idle: Mutex<Vec<(TcpStream, Instant)>>,
    metrics: Arc<UpstreamMetrics>,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr, options: &ForwardOptions, metrics: Arc<UpstreamMetrics>) -> Upstream {
        let mut probe = Query::new(options.health_name.clone(), Rtype::NS);
        probe.rd = options.health_recursion;
        Upstream {
            address,
            max_fails: options.max_fails,
            expire: options.expire,
            by_tcp: options.force_tcp,
            interval: options.health_interval,
            probe,
            fails: AtomicU32::new(0),
            checking: AtomicBool::new(false),
            idle: Mutex::new(Vec::new()),
            metrics,
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it failed too many checks in a row.
    pub fn is_down(&self) -> bool {
        self.max_fails != 0 && self.fails.load(Ordering::Relaxed) >= self.max_fails
    }

    /// Asks.
    pub(super) async fn exchange(&self, query: &Query, by_tcp: bool, until: Instant) -> Result<Reply, ExchangeError> {
        let begun = Instant::now();
        let reply = if by_tcp { self.by_tcp(query, until).await } else { exchange::by_udp(self.address, query, until).await }?;
        self.metrics.rcodes.count(reply.rcode);
        self.metrics.durations.observe(begun.elapsed().as_secs_f64());
        Ok(reply)
    }

    async fn by_tcp(&self, query: &Query, until: Instant) -> Result<Reply, ExchangeError> {
        let [reused, fresh] = &self.metrics.connections;
        if let Some(mut stream) = self.take_idle() {
            reused.fetch_add(1, Ordering::Relaxed);
            // The other end may have closed it meanwhile; then a new one is made.
            if let Ok(reply) = exchange::by_tcp(&mut stream, query, until).await {
                self.keep(stream);
                return Ok(reply);
            }
        }
        fresh.fetch_add(1, Ordering::Relaxed);
        let mut stream = exchange::connect(self.address, until).await?;
        let reply = exchange::by_tcp(&mut stream, query, until).await?;
        self.keep(stream);
        Ok(reply)
    }

    fn take_idle(&self) -> Option<TcpStream> {
        let mut idle = self.idle.lock().ok()?;
        let now = Instant::now();
        idle.retain(|(_, since)| now.duration_since(*since) < self.expire);
        idle.pop().map(|(stream, _)| stream)
    }

    fn keep(&self, stream: TcpStream) {
        if let Ok(mut idle) = self.idle.lock()
            && idle.len() < MAX_IDLE
        {
            idle.push((stream, Instant::now()));
        }
    }

    /// Starts checking, unless that is going on: until a check succeeds, or nobody needs the upstream any more.
    pub(super) fn check_health(self: &Arc<Self>) {
        if self.max_fails == 0 || self.checking.swap(true, Ordering::AcqRel) {
            return;
        }
        tokio::spawn(check_until_well(Arc::downgrade(self)));
    }

    /// One check: any reply at all is good.
    async fn check(&self) -> bool {
        let until = Instant::now() + Duration::from_secs(1);
        let well = if self.by_tcp {
            match exchange::connect(self.address, until).await {
                Ok(mut stream) => exchange::by_tcp(&mut stream, &self.probe, until).await.is_ok(),
                Err(_) => false,
            }
        } else {
            exchange::by_udp(self.address, &self.probe, until).await.is_ok()
        };
        if well {
            if self.fails.swap(0, Ordering::Relaxed) >= self.max_fails {
                tracing::info!(upstream = %self.address, "upstream is up");
            }
        } else {
            self.metrics.check_failures.fetch_add(1, Ordering::Relaxed);
            if self.fails.fetch_add(1, Ordering::Relaxed) + 1 == self.max_fails {
                tracing::warn!(upstream = %self.address, "upstream is down: it is not asked until a health check succeeds");
            }
        }
        well
    }
}

async fn check_until_well(upstream: Weak<Upstream>) {
    loop {
        let Some(upstream) = upstream.upgrade() else { return };
        if upstream.check().await {
            upstream.checking.store(false, Ordering::Release);
            return;
        }
        let interval = upstream.interval;
        drop(upstream);
        tokio::time::sleep(interval).await;
    }
}
