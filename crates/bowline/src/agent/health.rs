//! `/healthz`, `/livez`, `/readyz` and `/metrics` over HTTP.
//!
//! Alive means that this answers; it never depends on the API server. Ready means that pods can come: every input
//! has been listed once and is in the kernel, and the runtime knows of the plugin.

use std::net::SocketAddr;
use std::sync::Arc;

use bowline_metrics::Page;
use bowline_model::Problem;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http::{self, Answer};
use super::status::Teller;
use super::{denials, fastpath, guard, tracking, until};

/// Clients that are answered at once.
const CLIENTS_AT_ONCE: usize = 64;

/// Opens `address` and answers until the end.
///
/// # Errors
/// When the address is taken or not this machine's.
pub(crate) async fn serve(address: SocketAddr, teller: Teller, stop: &CancellationToken, tasks: &TaskTracker) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let problem = Problem::new(
            1206,
            "the health address cannot be opened",
            format!("healthAddress {address}"),
            "choose a free port of this machine",
        );
        anyhow::Error::msg(problem.because(error.to_string()))
    })?;
    let page = move |path: &str| page(path, &teller);
    tasks.spawn(until(stop.clone(), http::accept(listener, Arc::new(Semaphore::new(CLIENTS_AT_ONCE)), page)));
    Ok(())
}

fn page(path: &str, teller: &Teller) -> Answer {
    match path {
        "/healthz" | "/livez" => Answer::text("200 OK", "ok\n"),
        "/readyz" => match teller.ready() {
            Ok(()) => Answer::text("200 OK", "ok\n"),
            Err(why) => Answer::text(http::status(false), format!("{why}\n")),
        },
        "/metrics" => {
            let mut page = Page::default();
            metrics(teller, &mut page);
            Answer::new("200 OK", bowline_metrics::CONTENT_TYPE, page.into_text())
        }
        _ => Answer::text("404 Not Found", "there are /healthz /livez /readyz /metrics\n"),
    }
}

/// What the agent counts of itself: labels are bounded, never a pod or an address.
pub(crate) fn metrics(teller: &Teller, page: &mut Page) {
    let status = teller.status();
    let ready = u8::from(teller.ready().is_ok());
    page.single("bowline_agent_ready", "gauge", "Pods can come: all is listed, written and installed.", ready);
    page.single("bowline_agent_problems", "gauge", "Problems that someone must act on.", status.problems.len());
    page.single("bowline_intent_revision", "gauge", "Revision of the intent that was compiled last.", status.revision);
    page.single("bowline_applied_revision", "gauge", "Revision of the intent that is in the kernel.", status.applied_revision);
    page.single("bowline_kernel_writes_total", "counter", "Kernel objects written or removed since the start.", status.written_total);
    let repairs = teller.applied.borrow().repairs;
    page.head("bowline_repairs_total", "counter", "Times that something of ours that others had changed or taken away was put back.");
    for (of, count) in [("rules", repairs.rules), ("sockets", repairs.sockets), ("links", repairs.links)] {
        page.sample("bowline_repairs_total", &[("of", of)], count);
    }
    page.single("bowline_apply_last_seconds", "gauge", "Time of the last change from intent to kernel.", status.last_us as f64 / 1e6);
    if let Some(tally) = teller.tally.get() {
        fastpath::metrics(tally, page);
    }
    let maps = teller.applied.borrow().socket_maps.clone();
    maps.metrics(page);
    guard::metrics(&guard::dropped(), page);
    tracking::metrics(page);
    let intent = teller.applied.borrow().intent.clone();
    denials::metrics(&denials::denied(&intent.policy), page);
    page.single("bowline_pods", "gauge", "Pods attached to this node.", status.pods);
}
