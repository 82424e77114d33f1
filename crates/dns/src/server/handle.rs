//! One message: decoded, answered, encoded, counted, logged.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use domain::base::iana::{OptRcode, Rcode};
use tokio::sync::Semaphore;

use crate::chain::{Asker, Port, Resolved, resolve};
use crate::metrics::{Answered, Metrics};
use crate::plugin::Answerer;
use crate::plugin::log::{Outcome, print};
use crate::server::Transport;
use crate::wire::{Query, Reply, decode_query, encode_rejection, encode_reply};

/// What all sockets share.
pub struct Limits {
    /// Questions that wait for others at once.
    pub waiting: Arc<Semaphore>,
    /// TCP connections at once.
    pub connections: Arc<Semaphore>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Limits {
    /// Limits for `files` file descriptors: each waiting question and each connection takes one.
    pub fn new(files: usize, metrics: Arc<Metrics>) -> Limits {
        let spare = files.saturating_sub(64).max(64);
        Limits {
            waiting: Arc::new(Semaphore::new((spare / 2).min(16_384))),
            connections: Arc::new(Semaphore::new((spare / 4).min(4_096))),
            metrics,
        }
    }
}

/// What became of a message.
pub(super) enum Handled {
    /// The reply is in the buffer.
    Now,
    /// Nothing is to be sent.
    Nothing,
    /// The reply takes its time: a future that gives its bytes.
    Later(Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>),
}

/// Answers a message, into `out` where that needs no waiting.
pub(super) fn handle(port: &Arc<Port>, limits: &Arc<Limits>, asker: Asker, octets: &[u8], out: &mut Vec<u8>) -> Handled {
    let begun = Instant::now();
    let query = match decode_query(octets) {
        Ok(query) => query,
        Err(rejected) => {
            limits.metrics.rejected.fetch_add(1, Ordering::Relaxed);
            return if encode_rejection(&rejected, out) { Handled::Now } else { Handled::Nothing };
        }
    };
    // RFC 6891 section 6.1.3: an unknown version is answered with the highest known one.
    if query.edns.is_some_and(|edns| edns.version != 0) {
        let reply = Reply { rcode: OptRcode::BADVERS, ..Reply::empty(Rcode::NOERROR) };
        return finish(port, asker, &query, Resolved { reply: Some(reply), answerer: Answerer::Server }, begun, out);
    }
    let answering = Arc::clone(port);
    let asked = query.clone();
    let mut resolving: Pin<Box<dyn Future<Output = Resolved> + Send>> = Box::pin(async move { resolve(&answering, asker, &asked).await });
    // What is known here is there at once; a waker is needed only for what waits, and it is polled again by its task.
    if let Poll::Ready(resolved) = resolving.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return finish(port, asker, &query, resolved, begun, out);
    }
    let Ok(slot) = Arc::clone(&limits.waiting).try_acquire_owned() else {
        let reply = Reply::empty(Rcode::SERVFAIL);
        return finish(port, asker, &query, Resolved { reply: Some(reply), answerer: Answerer::Server }, begun, out);
    };
    let port = Arc::clone(port);
    Handled::Later(Box::pin(async move {
        let resolved = resolving.await;
        drop(slot);
        let mut out = Vec::new();
        match finish(&port, asker, &query, resolved, begun, &mut out) {
            Handled::Now => Some(out),
            Handled::Nothing | Handled::Later(_) => None,
        }
    }))
}

fn finish(port: &Port, asker: Asker, query: &Query, resolved: Resolved, begun: Instant, out: &mut Vec<u8>) -> Handled {
    let Some(reply) = resolved.reply else { return Handled::Nothing };
    let found = port.block_for(&query.name);
    let limit = match asker.transport {
        Transport::Udp => {
            let most = found.and_then(|(block, _)| block.bufsize).unwrap_or(u16::MAX);
            usize::from(query.udp_bytes().min(most))
        }
        Transport::Tcp | Transport::Inside => usize::from(u16::MAX),
    };
    encode_reply(query, &reply, limit, out);
    let Some((block, metrics)) = found else { return Handled::Now };
    let elapsed = begun.elapsed();
    metrics.count(
        query,
        &Answered {
            transport: asker.transport,
            client: asker.client.ip(),
            rcode: reply.rcode,
            answerer: resolved.answerer,
            bytes: out.len(),
            elapsed,
        },
    );
    if !block.logs.is_empty() {
        let flags = [out.get(2).copied().unwrap_or(0), out.get(3).copied().unwrap_or(0)];
        let outcome = Outcome {
            query,
            client: asker.client,
            transport: asker.transport,
            rcode: reply.rcode,
            flags,
            bytes: out.len(),
            answers: reply.answer.len(),
            elapsed,
        };
        block.logs.iter().filter(|rule| rule.wants(&outcome)).for_each(|rule| print(rule.line(&outcome)));
    }
    Handled::Now
}
