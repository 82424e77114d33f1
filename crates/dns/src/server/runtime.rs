//! The listeners that a Corefile asks for, kept in step with it over reloads.
//!
//! Invariant: a listener that both the old and the new Corefile want is never closed, so a reload loses no question; if
//! one that is new cannot be opened, nothing changes.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use socket2::Socket;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handle::Limits;
use super::http::{Page, Pages};
use super::{http, socket, tcp, udp};
use crate::chain::{Block, Known, Port};
use crate::config::Config;
use crate::error::DnsError;
use crate::metrics::expose;
use crate::plugin::listen::Listen;

/// Sockets, each with its thread, for one address.
const MAX_WORKERS: usize = 8;

/// What a page is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PageKind {
    Health,
    Ready,
    Metrics,
}

impl PageKind {
    fn name(self) -> &'static str {
        match self {
            PageKind::Health => "health",
            PageKind::Ready => "ready",
            PageKind::Metrics => "prometheus",
        }
    }
}

/// The running server.
pub struct Runtime {
    limits: Arc<Limits>,
    known: watch::Receiver<Known>,
    ports: BTreeMap<Listen, Listener>,
    pages: BTreeMap<(PageKind, Listen), PageListener>,
    blocks: Arc<Mutex<Vec<Arc<Block>>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    workers: usize,
}

struct Listener {
    port: watch::Sender<Arc<Port>>,
    stop: CancellationToken,
    addresses: Vec<SocketAddr>,
}

struct PageListener {
    stop: CancellationToken,
    addresses: Vec<SocketAddr>,
}

/// Sockets that are open but not yet served.
struct Opened {
    udp: Vec<Socket>,
    tcp: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Runtime {
    /// A server without listeners.
    pub fn new(limits: Limits, known: watch::Receiver<Known>) -> Runtime {
        Runtime {
            limits: Arc::new(limits),
            known,
            ports: BTreeMap::new(),
            pages: BTreeMap::new(),
            blocks: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            workers: std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS)),
        }
    }

    /// Makes the server do what a configuration says.
    ///
    /// # Errors
    /// A new address cannot be listened on; everything is as it was.
    pub fn apply(&mut self, config: &Config) -> Result<(), DnsError> {
        let mut opened = Vec::new();
        for listen in config.ports.keys().filter(|listen| !self.ports.contains_key(listen)) {
            opened.push((*listen, self.open(*listen)?));
        }
        let mut wanted = Vec::new();
        for (kind, listens) in
            [(PageKind::Health, &config.health), (PageKind::Ready, &config.ready), (PageKind::Metrics, &config.prometheus)]
        {
            wanted.extend(listens.iter().map(|listen| (kind, *listen)));
        }
        let mut opened_pages = Vec::new();
        for key in wanted.iter().filter(|key| !self.pages.contains_key(key)) {
            opened_pages.push((*key, open_page(key.0, key.1)?));
        }
        // Nothing can fail from here on.
        if let Ok(mut blocks) = self.blocks.lock() {
            *blocks = config.blocks();
        }
        for (listen, blocks) in &config.ports {
            if let Some(listener) = self.ports.get(listen) {
                listener.port.send_replace(Arc::new(Port { blocks: blocks.clone(), known: self.known.clone() }));
            }
        }
        for (listen, opened) in opened {
            if let Some(blocks) = config.ports.get(&listen) {
                self.start(listen, opened, blocks.clone());
            }
        }
        for (key, listeners) in opened_pages {
            self.start_page(key, listeners);
        }
        self.ports.retain(|listen, listener| keep_or_stop(config.ports.contains_key(listen), &listener.stop));
        self.pages.retain(|key, page| keep_or_stop(wanted.contains(key), &page.stop));
        Ok(())
    }

    /// The addresses on which questions are answered.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.ports.values().flat_map(|listener| listener.addresses.iter().copied()).collect()
    }

    /// The addresses of the pages, by the plugin that they belong to.
    pub fn page_addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let each = |((kind, _), page): (&(PageKind, Listen), &PageListener)| {
            page.addresses.iter().map(|at| (kind.name(), *at)).collect::<Vec<_>>()
        };
        self.pages.iter().flat_map(each).collect()
    }

    /// The server blocks in force, with the port through which they can be asked.
    pub fn ports(&self) -> Vec<Arc<Port>> {
        self.ports.values().map(|listener| Arc::clone(&listener.port.borrow())).collect()
    }

    /// Closes all listeners and waits for their loops.
    pub async fn shut_down(self) {
        let tasks = self.tasks.clone();
        drop(self);
        tasks.close();
        tasks.wait().await;
    }

    fn open(&self, listen: Listen) -> Result<Opened, DnsError> {
        let mut opened = Opened { udp: Vec::new(), tcp: Vec::new(), addresses: Vec::new() };
        for mut address in listen.sockets() {
            let error = |protocol, source| DnsError::Listen { what: "DNS", protocol, address, source };
            let first = match socket::udp(address) {
                Err(source) if listen.ip.is_none() && is_family_missing(address, &source) => continue,
                other => other.map_err(|source| error("udp", source))?,
            };
            // Port 0 lets the system choose: the others follow the first.
            if address.port() == 0
                && let Some(chosen) = first.local_addr().ok().and_then(|bound| bound.as_socket())
            {
                address.set_port(chosen.port());
            }
            let error = |protocol, source| DnsError::Listen { what: "DNS", protocol, address, source };
            opened.tcp.push(socket::tcp(address).map_err(|source| error("tcp", source))?);
            let mut sockets = vec![first];
            for _ in 1..self.workers {
                sockets.push(socket::udp(address).map_err(|source| error("udp", source))?);
            }
            opened.udp.append(&mut sockets);
            opened.addresses.push(address);
        }
        Ok(opened)
    }

    fn start(&mut self, listen: Listen, opened: Opened, blocks: Vec<Arc<Block>>) {
        let (sender, receiver) = watch::channel(Arc::new(Port { blocks, known: self.known.clone() }));
        let stop = self.stop.child_token();
        for socket in opened.udp {
            let (socket, port, limits, stop) = (Arc::new(socket), receiver.clone(), Arc::clone(&self.limits), stop.clone());
            self.tasks.spawn_blocking(move || udp::serve(&socket, &port, &limits, &stop));
        }
        for listener in opened.tcp {
            self.tasks.spawn(tcp::serve(listener, receiver.clone(), Arc::clone(&self.limits), stop.clone()));
        }
        for address in &opened.addresses {
            tracing::info!(%address, "answering");
        }
        self.ports.insert(listen, Listener { port: sender, stop, addresses: opened.addresses });
    }

    fn start_page(&mut self, key: (PageKind, Listen), listeners: Vec<TcpListener>) {
        let stop = self.stop.child_token();
        let pages = self.pages_of(key.0);
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        for listener in listeners {
            self.tasks.spawn(http::serve(listener, Arc::clone(&pages), stop.clone()));
        }
        self.pages.insert(key, PageListener { stop, addresses });
    }

    fn pages_of(&self, kind: PageKind) -> Pages {
        let known = self.known.clone();
        let blocks = Arc::clone(&self.blocks);
        let metrics = Arc::clone(&self.limits.metrics);
        let in_force = move || blocks.lock().map(|blocks| blocks.clone()).unwrap_or_default();
        match kind {
            PageKind::Health => Arc::new(|path: &str| (path == "/health").then(|| Page::ok("OK"))),
            PageKind::Ready => Arc::new(move |path: &str| {
                let waits = known.borrow().index.is_none() && in_force().iter().any(|block| block.kubernetes.is_some());
                (path == "/ready").then(|| if waits { Page::unavailable("kubernetes") } else { Page::ok("OK") })
            }),
            PageKind::Metrics => Arc::new(move |path: &str| (path == "/metrics").then(|| Page::ok(expose(&metrics, &in_force())))),
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn keep_or_stop(keep: bool, stop: &CancellationToken) -> bool {
    if !keep {
        stop.cancel();
    }
    keep
}

fn open_page(kind: PageKind, listen: Listen) -> Result<Vec<TcpListener>, DnsError> {
    let mut listeners = Vec::new();
    for address in listen.sockets() {
        match socket::tcp(address) {
            Ok(listener) => listeners.push(listener),
            Err(source) if listen.ip.is_none() && is_family_missing(address, &source) => {}
            Err(source) => return Err(DnsError::Listen { what: kind.name(), protocol: "tcp", address, source }),
        }
    }
    Ok(listeners)
}

/// Whether a wildcard address cannot be had since this system has no IPv6.
fn is_family_missing(address: SocketAddr, error: &io::Error) -> bool {
    let codes = [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL, nix::libc::EPROTONOSUPPORT];
    address.is_ipv6() && error.raw_os_error().is_some_and(|code| codes.contains(&code))
}
