//! `/healthz`, `/livez`, `/readyz` and `/metrics` over HTTP.
//!
//! Alive means that this answers; it never depends on the API server. Ready means that pods can come: every input
//! has been listed once and is in the kernel, and the runtime knows of the plugin.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use bowline_model::Problem;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::status::Teller;

/// A client that takes longer is cut off.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest request line that is read.
const LINE_MAX_BYTES: u64 = 4096;

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
    let stop = stop.clone();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            if let Ok((stream, _)) = accepted {
                let teller = teller.clone();
                tokio::spawn(async move { tokio::time::timeout(PATIENCE, answer(stream, &teller)).await });
            }
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, teller: &Teller) -> std::io::Result<()> {
    let (from, mut to) = stream.split();
    let mut line = String::new();
    tokio::io::AsyncReadExt::take(BufReader::new(from), LINE_MAX_BYTES).read_line(&mut line).await?;
    let path = line.split(' ').nth(1).unwrap_or_default();
    let (status, body) = page(path, teller);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    to.write_all(head.as_bytes()).await?;
    to.write_all(body.as_bytes()).await
}

fn page(path: &str, teller: &Teller) -> (&'static str, String) {
    match path {
        "/healthz" | "/livez" => ("200 OK", "ok\n".to_owned()),
        "/readyz" => match teller.ready() {
            Ok(()) => ("200 OK", "ok\n".to_owned()),
            Err(why) => ("503 Service Unavailable", format!("{why}\n")),
        },
        "/metrics" => ("200 OK", metrics(teller)),
        _ => ("404 Not Found", "there are /healthz /livez /readyz /metrics\n".to_owned()),
    }
}

/// Prometheus text: labels are bounded, never a pod or an address.
fn metrics(teller: &Teller) -> String {
    let status = teller.status();
    let mut text = String::new();
    let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    gauge(
        "bowline_agent_ready",
        "gauge",
        "Pods can come: all is listed, written and installed.",
        f64::from(u8::from(teller.ready().is_ok())),
    );
    gauge("bowline_agent_problems", "gauge", "Problems that someone must act on.", status.problems.len() as f64);
    gauge("bowline_intent_revision", "gauge", "Revision of the intent that was compiled last.", status.revision as f64);
    gauge("bowline_applied_revision", "gauge", "Revision of the intent that is in the kernel.", status.applied_revision as f64);
    gauge("bowline_kernel_writes_total", "counter", "Kernel objects written or removed since the start.", status.written_total as f64);
    gauge("bowline_apply_last_seconds", "gauge", "Time of the last change from intent to kernel.", status.last_us as f64 / 1e6);
    gauge("bowline_pods", "gauge", "Pods attached to this node.", status.pods as f64);
    text
}
