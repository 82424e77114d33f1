//! `healthCheckNodePort`: tells load balancers over HTTP whether a service has ready endpoints on this node.
//!
//! A port is open as long as the intent in the kernel names it, so that a load balancer is never sent to a node that does not serve yet. A
//! port that somebody else has is tried again; the node serves its services meanwhile. Where `nodePortAddresses` names networks, it is open at
//! the node's addresses in them alone, as node ports are.
//! The answer has the form that kube-proxy gives it (status, JSON, and a header with the endpoints' number), which is what is parsed out there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bowline_model::intent::services::HealthCheck;
use imbl::OrdMap;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::apply::Applied;
use super::http::{self, Answer};
use super::ledger::Ledger;

/// Clients that are answered at once, over all ports; the others wait in the kernel's queue.
const CLIENTS_AT_ONCE: usize = 64;
/// A port that cannot be opened is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// What all ports have in common: their clients, and the book that says whether services are in force.
type Shared<'a> = (&'a Arc<Semaphore>, &'a Arc<Ledger>);

/// What is told on one port; changes while the port is open.
type Told = watch::Sender<HealthCheck>;

/// One open port: dropped, it closes.
struct Port {
    told: Told,
    at: BTreeSet<IpAddr>,
    _listeners: Vec<AbortOnDropHandle<()>>,
}

/// Follows what is in the kernel until the end.
pub(crate) async fn serve(mut applied: watch::Receiver<Applied>, ledger: Arc<Ledger>, stop: CancellationToken) {
    let clients = Arc::new(Semaphore::new(CLIENTS_AT_ONCE));
    let mut open: BTreeMap<u16, Port> = BTreeMap::new();
    loop {
        let (wanted, at) = {
            let applied = applied.borrow_and_update();
            (applied.intent.services.health_checks.clone(), addresses(&applied))
        };
        let missing = follow(&mut open, &wanted, &at, (&clients, &ledger)).await;
        let again = async {
            if missing {
                tokio::time::sleep(TRY_AGAIN).await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = applied.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// Where ports are open: the node's addresses that take node ports, or the unspecified one, which means all of both families.
fn addresses(applied: &Applied) -> BTreeSet<IpAddr> {
    let networks = &applied.intent.services.node_port_addresses;
    if networks.is_empty() {
        return BTreeSet::from([Ipv4Addr::UNSPECIFIED.into()]);
    }
    let own = applied.host.links.iter().flat_map(|link| &link.addresses).map(|address| address.addr());
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    own.chain(loopback).filter(|address| networks.iter().any(|network| network.contains(address))).collect()
}

/// Opens and closes ports until they are those wanted; gives whether some could not be opened.
async fn follow(open: &mut BTreeMap<u16, Port>, wanted: &OrdMap<u16, HealthCheck>, at: &BTreeSet<IpAddr>, shared: Shared<'_>) -> bool {
    open.retain(|number, port| wanted.contains_key(number) && port.at == *at);
    let mut missing = false;
    for (number, check) in wanted {
        if let Some(port) = open.get(number) {
            port.told.send_if_modified(|told| {
                let differs = *told != *check;
                told.clone_from(check);
                differs
            });
            continue;
        }
        match listen(at, *number).await {
            Ok(listeners) => {
                open.insert(*number, start(listeners, check.clone(), at.clone(), shared));
            }
            Err(error) => {
                missing = true;
                tracing::warn!(port = number, service = %check.service, %error, "health check port cannot be opened; it is tried again");
            }
        }
    }
    missing
}

/// At all of the addresses, or at none.
async fn listen(at: &BTreeSet<IpAddr>, number: u16) -> std::io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in at {
        listeners.extend(http::open(SocketAddr::new(*address, number)).await?);
    }
    Ok(listeners)
}

fn start(listeners: Vec<TcpListener>, check: HealthCheck, at: BTreeSet<IpAddr>, (clients, ledger): Shared<'_>) -> Port {
    let (told, reads) = watch::channel(check);
    let ledger = ledger.clone();
    let page = move |_: &str| response(&reads.borrow(), ledger.book().health(ledger.now()).healthy);
    let run = |listener| AbortOnDropHandle::new(tokio::spawn(http::accept(listener, clients.clone(), page.clone())));
    Port { _listeners: listeners.into_iter().map(run).collect(), at, told }
}

/// A node whose services are not as they should be takes no new traffic, whatever endpoints it has, as kube-proxy has it.
fn response(check: &HealthCheck, healthy: bool) -> Answer {
    let count = check.local_endpoints;
    let service = serde_json::json!({"namespace": &*check.service.namespace, "name": &*check.service.name});
    let body = serde_json::json!({"service": service, "localEndpoints": count, "serviceProxyHealthy": healthy}).to_string();
    let mut answer = Answer::new(http::status(count > 0 && healthy), "application/json", body);
    answer.headers.push_str(&format!("X-Load-Balancing-Endpoint-Weight: {count}\r\n"));
    answer
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use bowline_model::ServiceName;
    use bowline_model::intent::Intent;
    use bowline_model::intent::services::ServicesIntent;

    fn applied(port: u16, local_endpoints: Option<usize>) -> Applied {
        let check = |local_endpoints| (port, HealthCheck { service: ServiceName::new("shop", "web"), local_endpoints });
        let services = ServicesIntent { health_checks: local_endpoints.map(check).into_iter().collect(), ..ServicesIntent::default() };
        Applied { intent: Arc::new(Intent { services: Arc::new(services), ..Intent::default() }), ..Applied::default() }
    }

    /// A port that nobody has at the moment.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    async fn get(address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: n1\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Asks until the answer begins so; an empty beginning waits for the port to close.
    async fn until(port: u16, beginning: &str) -> String {
        let asked = async {
            loop {
                match get(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
                    Ok(text) if !beginning.is_empty() && text.starts_with(beginning) => return text,
                    Err(_) if beginning.is_empty() => return String::new(),
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), asked).await.expect(beginning)
    }

    #[tokio::test]
    async fn a_port_tells_of_the_endpoints_and_closes_with_the_service() {
        let port = free_port();
        let (to, from) = watch::channel(applied(port, Some(2)));
        let server = tokio::spawn(serve(from, Ledger::open(&[]), CancellationToken::new()));
        let text = until(port, "HTTP/1.1 200 OK").await;
        let body = r#"{"localEndpoints":2,"service":{"name":"web","namespace":"shop"},"serviceProxyHealthy":true}"#;
        assert!(text.ends_with(body) && text.contains("X-Load-Balancing-Endpoint-Weight: 2\r\n"), "{text}");
        assert!(get(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.unwrap().starts_with("HTTP/1.1 200 OK"));
        to.send_replace(applied(port, Some(0)));
        assert!(until(port, "HTTP/1.1 503 Service Unavailable").await.contains(r#""localEndpoints":0"#));
        to.send_replace(applied(port, None));
        until(port, "").await;
        to.send_replace(applied(port, Some(1)));
        until(port, "HTTP/1.1 200 OK").await;
        drop(to);
        tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_tried_again() {
        let taken = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut open = BTreeMap::new();
        let wanted = applied(port, Some(1)).intent.services.health_checks.clone();
        let clients = Arc::new(Semaphore::new(1));
        let ledger = Ledger::open(&[]);
        let at = addresses(&Applied::default());
        assert!(follow(&mut open, &wanted, &at, (&clients, &ledger)).await);
        drop(taken);
        assert!(!follow(&mut open, &wanted, &at, (&clients, &ledger)).await);
        assert!(open.contains_key(&port));
    }

    #[tokio::test]
    async fn a_port_is_open_where_node_ports_are() {
        let port = free_port();
        let within = |networks: &[&str]| {
            let mut applied = applied(port, Some(1));
            let services = Arc::make_mut(&mut Arc::make_mut(&mut applied.intent).services);
            services.node_port_addresses = networks.iter().map(|network| network.parse().unwrap()).collect();
            applied
        };
        let (to, from) = watch::channel(within(&["127.0.0.0/8", "10.0.0.0/8"]));
        let server = tokio::spawn(serve(from, Ledger::open(&[]), CancellationToken::new()));
        until(port, "HTTP/1.1 200 OK").await;
        assert!(get(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.is_err(), "it is open at the other family");
        to.send_replace(within(&["::1/128"]));
        until(port, "").await;
        let v6 = async {
            while get(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await.is_err() {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(10), v6).await.unwrap();
        drop(to);
        tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
    }

    #[test]
    fn endpoints_do_not_help_where_services_are_not_in_force() {
        let check = HealthCheck { service: ServiceName::new("shop", "web"), local_endpoints: 2 };
        for (healthy, code) in [(true, "200 OK"), (false, "503 Service Unavailable")] {
            let answer = response(&check, healthy);
            assert_eq!(answer.status, code);
            assert!(answer.body.contains(r#""localEndpoints":2,"#) && answer.body.contains(&format!(r#""serviceProxyHealthy":{healthy}"#)));
        }
    }
}
