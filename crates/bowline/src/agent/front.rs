//! What is asked of kube-proxy over HTTP: `/healthz` and `/livez` on one address, `/metrics` and `/proxyMode` on another.
//!
//! An address that is taken (by a kube-proxy that still runs, most likely) is a problem that `bowline status` shows, and is tried again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bowline_metrics::Page;
use bowline_model::Problem;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::AgentConfig;
use super::http::{self, Answer};
use super::ledger::Ledger;
use super::status::{Teller, Topic, mode_in_force};
use super::{health, until};

/// Clients that are answered at once on one address; the others wait in the kernel's queue.
const CLIENTS_AT_ONCE: usize = 64;
/// An address that cannot be opened is tried again after this long, as kube-proxy does it.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// What answers are made from.
#[derive(Clone)]
struct Front {
    ledger: Arc<Ledger>,
    teller: Teller,
}

/// Answers on both addresses until the end.
///
/// # Errors
/// When an address cannot be opened and the operator wants that to be the end (`bindAddressHardFail`).
pub(crate) async fn serve(
    config: &AgentConfig,
    ledger: &Arc<Ledger>,
    teller: &Teller,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let front = Front { ledger: ledger.clone(), teller: teller.clone() };
    let places =
        [(config.healthz_bind_address, Topic::Healthz, Pages::Health), (config.metrics_bind_address, Topic::Metrics, Pages::Metrics)];
    for (address, topic, kind) in places.into_iter().filter_map(|(address, topic, kind)| Some((address?, topic, kind))) {
        let opened = match http::open(address).await {
            Err(error) if config.bind_hard_fail => return Err(anyhow::Error::msg(refused(address, topic, &error))),
            opened => opened,
        };
        let front = front.clone();
        tasks.spawn(until(stop.clone(), stay(address, topic, opened, front, kind)));
    }
    Ok(())
}

/// Which pages an address has.
#[derive(Debug, Clone, Copy)]
enum Pages {
    Health,
    Metrics,
}

/// Keeps an address open, however often it has to be tried.
async fn stay(address: SocketAddr, topic: Topic, mut opened: std::io::Result<Vec<TcpListener>>, front: Front, kind: Pages) {
    loop {
        match opened {
            Ok(listeners) => {
                front.teller.house.clear(topic);
                let clients = Arc::new(Semaphore::new(CLIENTS_AT_ONCE));
                let mut all = JoinSet::new();
                for listener in listeners {
                    let front = front.clone();
                    all.spawn(http::accept(listener, clients.clone(), move |path| front.page(kind, path)));
                }
                while all.join_next().await.is_some() {}
                return;
            }
            Err(error) => front.teller.house.set(topic, refused(address, topic, &error)),
        }
        tokio::time::sleep(TRY_AGAIN).await;
        opened = http::open(address).await;
    }
}

fn refused(address: SocketAddr, topic: Topic, error: &std::io::Error) -> Problem {
    let key = if topic == Topic::Healthz { "healthzBindAddress" } else { "metricsBindAddress" };
    let fix = format!("stop what has it (a kube-proxy that still runs?), or set {key} to another address, or to none");
    Problem::new(1220, "an address of kube-proxy's cannot be opened", format!("{key} {address}"), fix).because(error.to_string())
}

impl Front {
    fn page(&self, kind: Pages, path: &str) -> Answer {
        match (kind, path) {
            (Pages::Health, "/healthz") => {
                let stays = self.teller.published.borrow().node_stays;
                health_answer(self.ledger.book().healthz(self.ledger.now(), stays))
            }
            (Pages::Health, "/livez") => health_answer(self.ledger.book().livez(self.ledger.now())),
            (Pages::Health, _) => Answer::text("404 Not Found", "there are /healthz /livez\n"),
            (Pages::Metrics, "/metrics") => Answer::new("200 OK", bowline_metrics::CONTENT_TYPE, self.metrics()),
            (Pages::Metrics, "/proxyMode") => Answer::text("200 OK", mode_in_force(&self.teller.applied.borrow()).word()),
            (Pages::Metrics, "/healthz") => Answer::text("200 OK", "ok"),
            (Pages::Metrics, _) => Answer::text("404 Not Found", "there are /metrics /proxyMode /healthz\n"),
        }
    }

    fn metrics(&self) -> String {
        let mut page = Page::with_capacity(16_384);
        let services = self.teller.applied.borrow().intent.services.clone();
        self.ledger.book().expose(&services, &mut page);
        health::metrics(&self.teller, &mut page);
        page.head("bowline_build_info", "gauge", "The version that runs.");
        page.sample("bowline_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.into_text()
    }
}

fn health_answer((good, body): (bool, String)) -> Answer {
    Answer::new(http::status(good), "application/json", body)
}
