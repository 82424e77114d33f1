//! A server on loopback, an upstream that it may ask, and a client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bowline_dns::DnsError;
use bowline_dns::chain::Known;
use bowline_dns::config::{Config, Surroundings};
use bowline_dns::corefile::{NoSources, parse};
use bowline_dns::index::DnsIndex;
use bowline_dns::metrics::Metrics;
use bowline_dns::name;
use bowline_dns::server::{Limits, Runtime};
use bowline_dns::wire::{Edns, Query, Reply, decode_query, decode_reply, encode_query, encode_reply, record};
use bowline_model::intent::dns::{DnsIntent, DnsKind, DnsPort, DnsService};
use bowline_model::{Protocol, ServiceName};
use domain::base::iana::{Rcode, Rtype};
use domain::base::{Serial, Ttl};
use domain::rdata::{A, Cname, Soa};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

/// A few services.
pub(crate) fn intent() -> DnsIntent {
    let mut intent = DnsIntent::default();
    let mut add = |name: &str, kind| {
        let ports = vec![DnsPort { name: Some("http".to_owned()), protocol: Protocol::Tcp, port: 80 }];
        intent.services.insert(ServiceName::new("default", name), Arc::new(DnsService { kind, ports, endpoints: vec![] }));
    };
    add("nginx-web", DnsKind::ClusterIp(vec!["192.168.0.7".parse().unwrap(), "fd00::7".parse().unwrap()]));
    add("outside", DnsKind::ExternalName("www.example.org".to_owned()));
    add("inside", DnsKind::ExternalName("nginx-web.default.svc.cluster.local".to_owned()));
    add("circle", DnsKind::ExternalName("circle.default.svc.cluster.local".to_owned()));
    intent.namespaces.insert("default".into());
    intent
}

/// A server with its settings.
pub(crate) struct Bench {
    pub(crate) runtime: Runtime,
    pub(crate) known: watch::Sender<Known>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Bench {
    /// A server that knows nothing yet. Ports that the Corefile leaves open are chosen by the system.
    pub(crate) fn ignorant(corefile: &str) -> Bench {
        let metrics = Arc::new(Metrics::default());
        let (known, receiver) = watch::channel(Known::default());
        let mut bench = Bench { runtime: Runtime::new(Limits::new(1024, Arc::clone(&metrics)), receiver), known, metrics };
        bench.apply(corefile);
        bench
    }

    /// A server that knows the services above.
    pub(crate) fn new(corefile: &str) -> Bench {
        let bench = Bench::ignorant(corefile);
        bench.learn(intent());
        bench
    }

    pub(crate) fn learn(&self, intent: DnsIntent) {
        self.known.send_replace(Known { index: Some(Arc::new(DnsIndex::new(intent))), serial: 1 });
    }

    pub(crate) fn apply(&mut self, corefile: &str) {
        let file = parse("Corefile", corefile, &NoSources).unwrap();
        let around = Surroundings {
            default_port: 0,
            metrics: &self.metrics,
            read_file: &|path| std::fs::read_to_string(path),
            interface: &|_| Vec::new(),
        };
        let config = Config::read(&file, around).unwrap();
        // Port 0: what one got by UDP another program may have by TCP.
        let taken = |applied: &Result<(), DnsError>| matches!(applied, Err(DnsError::Listen { source, .. }) if source.kind() == std::io::ErrorKind::AddrInUse);
        let mut applied = self.runtime.apply(&config);
        for _ in 0..8 {
            if !taken(&applied) {
                break;
            }
            applied = self.runtime.apply(&config);
        }
        applied.unwrap();
    }

    /// The address to ask at, of the family of `ip`.
    pub(crate) fn at(&self, ip: &str) -> SocketAddr {
        let ip: IpAddr = ip.parse().unwrap();
        let same = self.runtime.addresses().into_iter().find(|address| address.is_ipv4() == ip.is_ipv4()).unwrap();
        SocketAddr::new(ip, same.port())
    }

    pub(crate) async fn page(&self, kind: &str, path: &str) -> (String, String) {
        let address = self.runtime.page_addresses().into_iter().find(|(name, _)| *name == kind).unwrap().1;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }
}

pub(crate) fn query(asked: &str, rtype: Rtype) -> Query {
    Query::new(name::parse(asked).unwrap(), rtype)
}

pub(crate) fn with_edns(mut query: Query, udp_bytes: u16) -> Query {
    query.edns = Some(Edns { udp_bytes, version: 0, dnssec_ok: false });
    query
}

/// Asks once over UDP; none if nothing comes.
pub(crate) async fn ask(at: SocketAddr, query: &Query) -> Option<Reply> {
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.unwrap();
    // Connected: only what comes from the address asked is taken.
    socket.connect(at).await.unwrap();
    socket.send(&encode_query(query, 4711)).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(Duration::from_secs(8), socket.recv(&mut buffer)).await.ok()?.ok()?;
    buffer.truncate(length);
    Some(decode_reply(buffer.into(), query, 4711).unwrap())
}

pub(crate) async fn send_framed(stream: &mut TcpStream, octets: &[u8]) {
    let framed = [u16::try_from(octets.len()).unwrap().to_be_bytes().as_slice(), octets].concat();
    stream.write_all(&framed).await.unwrap();
}

pub(crate) async fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let length = stream.read_u16().await.unwrap();
    let mut octets = vec![0; usize::from(length)];
    stream.read_exact(&mut octets).await.unwrap();
    octets
}

pub(crate) async fn ask_tcp(at: SocketAddr, query: &Query) -> Reply {
    let mut stream = TcpStream::connect(at).await.unwrap();
    send_framed(&mut stream, &encode_query(query, 4712)).await;
    decode_reply(read_framed(&mut stream).await.into(), query, 4712).unwrap()
}

/// The reply in one line: code, TC, data of the answer section.
pub(crate) fn show(reply: &Reply) -> String {
    let tc = if reply.tc { " tc" } else { "" };
    let data: Vec<String> = reply.answer.iter().map(|record| record.data().to_string()).collect();
    format!("{}{tc} {}", reply.rcode, data.join(" ")).trim_end().to_owned()
}

/// An upstream with answers of its own, that counts what it is asked.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) async fn start() -> Upstream {
        // A port that is free for both: the kernel gives one that is free for the first.
        let (udp, address, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = udp.local_addr().unwrap();
            match TcpListener::bind(address).await {
                Ok(tcp) => break (udp, address, tcp),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{address}: {error}"),
            }
        };
        let asked = Arc::new(AtomicUsize::new(0));
        tokio::spawn(answer_udp(udp, Arc::clone(&asked)));
        tokio::spawn(answer_tcp(tcp, Arc::clone(&asked)));
        Upstream { address, asked }
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(query: &Query) -> Option<Reply> {
    let text = name::display(&query.name);
    let own = |data: &str| record(query.name.clone(), 60, A::new(data.parse().unwrap()));
    let mut reply = Reply { ra: true, ..Reply::empty(Rcode::NOERROR) };
    let label = text.split('.').next().unwrap();
    match label {
        "slow" => return None,
        "www" => {
            let target = name::parse("web.example.net").unwrap();
            reply.answer.push(record(query.name.clone(), 300, Cname::new(target.clone())));
            reply.answer.push(record(target, 60, A::new([203, 0, 113, 7].into())));
        }
        "big" => reply.answer = (0..100).map(|i| own(&format!("10.0.0.{i}"))).collect(),
        "fail" => return Some(Reply::empty(Rcode::SERVFAIL)),
        "nx" => {
            let zone = name::parse("example.org").unwrap();
            let [a, b, c, d] = [1, 1, 1, 20].map(Ttl::from_secs);
            reply = Reply::empty(Rcode::NXDOMAIN);
            reply.authority.push(record(zone.clone(), 900, Soa::new(zone.clone(), zone, Serial(1), a, b, c, d)));
        }
        _ => reply.answer.push(own("203.0.113.1")),
    }
    Some(reply)
}

async fn answer_udp(socket: UdpSocket, asked: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        let query = decode_query(&buffer[..length]).unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        let Some(reply) = answer(&query) else { continue };
        let mut octets = Vec::new();
        if name::display(&query.name).starts_with("forged.") {
            // Somebody guesses: a wrong id, then the right id for another name.
            let forged = Reply { answer: vec![record(query.name.clone(), 60, A::new([6, 6, 6, 6].into()))], ..reply.clone() };
            encode_reply(&Query { id: query.id.wrapping_add(1), ..query.clone() }, &forged, 512, &mut octets);
            socket.send_to(&octets, client).await.unwrap();
            encode_reply(&Query { name: name::parse("other.example.org").unwrap(), ..query.clone() }, &forged, 512, &mut octets);
            socket.send_to(&octets, client).await.unwrap();
        }
        encode_reply(&query, &reply, usize::from(query.udp_bytes()), &mut octets);
        socket.send_to(&octets, client).await.unwrap();
    }
}

async fn answer_tcp(listener: TcpListener, asked: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut octets = vec![0; usize::from(length)];
                stream.read_exact(&mut octets).await.unwrap();
                let query = decode_query(&octets).unwrap();
                asked.fetch_add(1, Ordering::SeqCst);
                let Some(reply) = answer(&query) else { continue };
                encode_reply(&query, &reply, 65_535, &mut octets);
                send_framed(&mut stream, &octets).await;
            }
        });
    }
}
