//! The proxy: a server of its own between the agents and the API, told by lines of its standard input what is wrong with it.
//!
//! It speaks TLS with an authority of its own, HTTP/2 as a real server does, and asks the API over another connection, so that nothing
//! of the agents' connections reaches beyond it.

mod answer;
mod tap;

use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use tap::{Tap, Wire};

/// The word by which this program becomes the proxy.
pub(crate) const ROLE: &str = "--proxy";

/// What is wrong with the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Every request is refused with this code, and told to come again after a second.
    Refuses(u16),
    /// Lists end in the middle.
    CutsLists,
    /// Lists come in pages of which the second is gone.
    ExpiresPages,
    /// Lists are empty, and nobody knows the nodes.
    EmptyLists,
    /// Lists are half of what there is, of a version long gone in which nobody knows the nodes.
    OldLists,
}

/// What happens to the watches that run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    /// They are told that where they are is gone.
    Gone,
    /// They break.
    Breaks,
}

/// How much was asked since somebody last wanted to know.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    connections: u64,
    lists: u64,
    watches: u64,
    others: u64,
}

/// The proxy's state.
pub(crate) struct Proxy {
    upstream: Client,
    port: u16,
    tls: TlsAcceptor,
    wire: Arc<Wire>,
    endings: broadcast::Sender<Ending>,
    fault: Mutex<Fault>,
    /// The token that is asked for; any will do while there is none.
    token: Mutex<Option<String>>,
    counts: Mutex<Counts>,
    open: Mutex<Option<CancellationToken>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the proxy: port, kubeconfig of the API, and the addresses to be trusted under.
pub(crate) fn main(words: &[String]) -> ExitCode {
    match run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let [port, kubeconfig, address] = words else { bail!("port, kubeconfig and address are wanted") };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (proxy, ca) = runtime.block_on(make(port.parse()?, Path::new(kubeconfig), address))?;
    let proxy = Arc::new(proxy);
    runtime.block_on(open(&proxy))?;
    say(&json!({"ca": ca}))?;
    for line in std::io::stdin().lock().lines() {
        let answer = runtime.block_on(conduct(&proxy, line?.trim()))?;
        say(&answer)?;
    }
    Ok(())
}

fn say(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

async fn make(port: u16, kubeconfig: &Path, address: &str) -> Result<(Proxy, String)> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let upstream = Client::try_from(kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)?;
    let (ca, tls) = identity(address)?;
    let proxy = Proxy {
        upstream,
        port,
        tls,
        wire: Arc::new(Wire::default()),
        endings: broadcast::channel(16).0,
        fault: Mutex::new(Fault::None),
        token: Mutex::new(None),
        counts: Mutex::default(),
        open: Mutex::default(),
    };
    Ok((proxy, ca))
}

fn identity(address: &str) -> Result<(String, TlsAcceptor)> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority_key = KeyPair::generate()?;
    let ca = authority.self_signed(&authority_key)?.pem();
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![address.to_owned()])?.signed_by(&key, &Issuer::new(authority, authority_key))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((ca, TlsAcceptor::from(Arc::new(tls))))
}

/// Does what a line says.
async fn conduct(proxy: &Arc<Proxy>, line: &str) -> Result<Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let fault = |fault| {
        *lock(&proxy.fault) = fault;
    };
    match words.as_slice() {
        ["well"] => fault(Fault::None),
        ["refuse", code] => fault(Fault::Refuses(code.parse()?)),
        ["cut"] => fault(Fault::CutsLists),
        ["pages"] => fault(Fault::ExpiresPages),
        ["empty"] => fault(Fault::EmptyLists),
        ["old"] => fault(Fault::OldLists),
        ["token", token] => *lock(&proxy.token) = Some((*token).to_owned()),
        ["gone"] => drop(proxy.endings.send(Ending::Gone)),
        ["break"] => drop(proxy.endings.send(Ending::Breaks)),
        ["slow", ms] => proxy.wire.slow(Duration::from_millis(ms.parse()?)),
        ["stall", peer] => proxy.wire.stall(peer.parse::<IpAddr>()?),
        ["stop"] => drop(lock(&proxy.open).take().map(|open| open.cancel())),
        ["start"] => open(proxy).await?,
        ["counts"] => {}
        _ => bail!("no such order: {line}"),
    }
    let counts = std::mem::take(&mut *lock(&proxy.counts));
    Ok(json!({"connections": counts.connections, "lists": counts.lists, "watches": counts.watches, "others": counts.others}))
}

/// Listens until it is stopped; then drops every connection.
async fn open(proxy: &Arc<Proxy>) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(("::", proxy.port)).await.with_context(|| format!("listen on {}", proxy.port))?;
    let stop = CancellationToken::new();
    *lock(&proxy.open) = Some(stop.clone());
    let proxy = proxy.clone();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else { continue };
            lock(&proxy.counts).connections += 1;
            let tapped = Tap::new(stream, peer.ip().to_canonical(), proxy.wire.clone());
            let (proxy, stop) = (proxy.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = serve(proxy, tapped) => {}
                }
            });
        }
    });
    Ok(())
}

async fn serve(proxy: Arc<Proxy>, tapped: Tap) {
    let Ok(stream) = proxy.tls.clone().accept(tapped).await else { return };
    let service = hyper::service::service_fn(move |request| {
        let proxy = proxy.clone();
        async move { answer::answer(&proxy, request).await.map_err(std::io::Error::other) }
    });
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}
