//! The server as its clients see it: over real sockets on loopback, with an upstream of the test's own.
#![allow(clippy::disallowed_methods, reason = "it drives processes and keeps time")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod bench;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use bench::{Bench, Upstream, ask, ask_tcp, intent, query, read_framed, send_framed, show, with_edns};
use bowline_dns::wire::{decode_reply, encode_query};
use domain::base::iana::{OptRcode, Rtype};
use tokio::net::{TcpStream, UdpSocket};

const WEB: &str = "nginx-web.default.svc.cluster.local";

fn corefile(upstream: &Upstream, more: &str) -> String {
    format!(
        ". {{\nbind 127.0.0.1 ::1\nerrors\nkubernetes cluster.local 192.168.0.0/16\nforward . {}\ncache 30\nloadbalance\n{more}\n}}",
        upstream.address
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_names_over_both_transports_and_families() {
    let upstream = Upstream::start().await;
    let bench = Bench::new(&corefile(&upstream, ""));
    for ip in ["127.0.0.1", "::1"] {
        let at = bench.at(ip);
        assert_eq!(show(&ask(at, &query(WEB, Rtype::A)).await.unwrap()), "NOERROR 192.168.0.7");
        assert_eq!(show(&ask_tcp(at, &query(WEB, Rtype::AAAA)).await), "NOERROR fd00::7");
    }
    let at = bench.at("127.0.0.1");
    let mixed = ask(at, &with_edns(query("NGINX-web.Default.SVC.cluster.LOCAL", Rtype::A), 1232)).await.unwrap();
    assert_eq!(mixed.answer[0].owner().to_string(), "NGINX-web.Default.SVC.cluster.LOCAL");
    assert!(mixed.aa && mixed.ra);
    let ptr = ask(at, &query("7.0.168.192.in-addr.arpa", Rtype::PTR)).await.unwrap();
    assert_eq!(show(&ptr), "NOERROR nginx-web.default.svc.cluster.local.");
    let missing = ask(at, &query("gone.default.svc.cluster.local", Rtype::A)).await.unwrap();
    assert!(missing.rcode == OptRcode::NXDOMAIN && missing.authority.len() == 1);
    assert_eq!(upstream.count(), 0);
    bench.runtime.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_names_are_forwarded_and_cached() {
    let upstream = Upstream::start().await;
    let bench = Bench::new(&corefile(&upstream, ""));
    let at = bench.at("127.0.0.1");
    for _ in 0..3 {
        let reply = ask(at, &query("www.Example.org", Rtype::A)).await.unwrap();
        assert_eq!(show(&reply), "NOERROR web.example.net. 203.0.113.7");
        assert!(reply.answer.iter().all(|record| record.ttl().as_secs() <= 30));
    }
    assert_eq!(upstream.count(), 1);
    for _ in 0..2 {
        assert_eq!(show(&ask(at, &query("nx.example.org", Rtype::A)).await.unwrap()), "NXDOMAIN");
        assert_eq!(show(&ask(at, &query("fail.example.org", Rtype::A)).await.unwrap()), "SERVFAIL");
    }
    assert_eq!(upstream.count(), 3);
    assert_eq!(show(&ask(at, &query("forged.example.org", Rtype::A)).await.unwrap()), "NOERROR 203.0.113.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_are_followed() {
    let upstream = Upstream::start().await;
    let bench = Bench::new(&corefile(&upstream, ""));
    let at = bench.at("127.0.0.1");
    let outside = ask(at, &query("outside.default.svc.cluster.local", Rtype::A)).await.unwrap();
    assert_eq!(show(&outside), "NOERROR www.example.org. web.example.net. 203.0.113.7");
    let inside = ask(at, &query("inside.default.svc.cluster.local", Rtype::A)).await.unwrap();
    assert_eq!(show(&inside), "NOERROR nginx-web.default.svc.cluster.local. 192.168.0.7");
    let alone = ask(at, &query("outside.default.svc.cluster.local", Rtype::CNAME)).await.unwrap();
    assert_eq!(show(&alone), "NOERROR www.example.org.");
    let circle = ask(at, &query("circle.default.svc.cluster.local", Rtype::A)).await.unwrap();
    assert_eq!(circle.rcode, OptRcode::SERVFAIL);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_replies_are_cut_over_udp_and_whole_over_tcp() {
    let upstream = Upstream::start().await;
    let bench = Bench::new(&corefile(&upstream, ""));
    let at = bench.at("127.0.0.1");
    let cut = ask(at, &query("big.example.org", Rtype::A)).await.unwrap();
    assert!(cut.tc && cut.answer.len() < 100);
    let whole = ask_tcp(at, &query("big.example.org", Rtype::A)).await;
    assert!(!whole.tc && whole.answer.len() == 100);
    let fits = ask(at, &with_edns(query("big.example.org", Rtype::A), 4096)).await.unwrap();
    assert!(!fits.tc && fits.answer.len() == 100);
    let orders: BTreeSet<String> = [show(&ask_tcp(at, &query("big.example.org", Rtype::A)).await), show(&whole)].into();
    assert_eq!(orders.len(), 2, "answers are shuffled");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_overtake_each_other_on_a_connection() {
    let upstream = Upstream::start().await;
    let bench = Bench::new(&corefile(&upstream, ""));
    let mut stream = TcpStream::connect(bench.at("127.0.0.1")).await.unwrap();
    let questions = [query("slow.example.org", Rtype::A), query("www.example.org", Rtype::A), query(WEB, Rtype::A)];
    for (id, question) in (1..).zip(&questions) {
        send_framed(&mut stream, &encode_query(question, id)).await;
    }
    let mut ids = Vec::new();
    for _ in 0..2 {
        let octets = read_framed(&mut stream).await;
        let id = u16::from_be_bytes([octets[0], octets[1]]);
        ids.push(id);
        decode_reply(octets.into(), &questions[usize::from(id) - 1], id).unwrap();
    }
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_come_from_the_address_asked() {
    let bench = Bench::new(". {\nkubernetes cluster.local\n}");
    for ip in ["127.0.0.1", "127.0.0.2", "127.9.9.9", "::1"] {
        let reply = ask(bench.at(ip), &query(WEB, Rtype::A)).await;
        assert_eq!(show(&reply.unwrap()), "NOERROR 192.168.0.7", "{ip}");
    }
    let ns = ask(bench.at("127.0.0.2"), &query("ns.dns.cluster.local", Rtype::A)).await.unwrap();
    assert_eq!(show(&ns), "NOERROR 127.0.0.2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_is_passed_over() {
    let upstream = Upstream::start().await;
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let text = format!(". {{\nbind 127.0.0.1\nforward . {dead} {} {{\npolicy sequential\n}}\nprometheus 127.0.0.1:0\n}}", upstream.address);
    let bench = Bench::new(&text);
    let at = bench.at("127.0.0.1");
    for _ in 0..4 {
        assert_eq!(show(&ask(at, &query("www.example.org", Rtype::A)).await.unwrap()), "NOERROR web.example.net. 203.0.113.7");
    }
    let only_dead = format!(". {{\nbind 127.0.0.1\nforward . {dead}\n}}");
    let bench = Bench::new(&only_dead);
    assert_eq!(show(&ask(bench.at("127.0.0.1"), &query("www.example.org", Rtype::A)).await.unwrap()), "SERVFAIL");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_waits_for_the_first_snapshot() {
    let upstream = Upstream::start().await;
    let bench = Bench::ignorant(&corefile(&upstream, "health 127.0.0.1:0\nready 127.0.0.1:0\nprometheus 127.0.0.1:0"));
    let at = bench.at("127.0.0.1");
    assert_eq!(show(&ask(at, &query(WEB, Rtype::A)).await.unwrap()), "SERVFAIL");
    assert_eq!(show(&ask(at, &query("a.example.org", Rtype::A)).await.unwrap()), "NOERROR 203.0.113.1");
    assert_eq!(bench.page("health", "/health").await, ("HTTP/1.1 200 OK".to_owned(), "OK".to_owned()));
    assert_eq!(bench.page("ready", "/ready").await, ("HTTP/1.1 503 Service Unavailable".to_owned(), "kubernetes".to_owned()));
    bench.learn(intent());
    assert_eq!(bench.page("ready", "/ready").await, ("HTTP/1.1 200 OK".to_owned(), "OK".to_owned()));
    assert_eq!(show(&ask(at, &query(WEB, Rtype::A)).await.unwrap()), "NOERROR 192.168.0.7");
    assert!(bench.page("ready", "/other").await.0.contains("404"));
    let (_, metrics) = bench.page("prometheus", "/metrics").await;
    for wanted in [
        r#"coredns_dns_requests_total{server="dns://127.0.0.1:0",zone=".",view="",proto="udp",family="1",type="A"} 3"#,
        r#"coredns_dns_responses_total{server="dns://127.0.0.1:0",zone=".",view="",rcode="SERVFAIL",plugin="kubernetes"} 1"#,
        r#"coredns_dns_responses_total{server="dns://127.0.0.1:0",zone=".",view="",rcode="NOERROR",plugin="forward"} 1"#,
        &format!(r#"coredns_forward_responses_total{{to="{}",rcode="NOERROR"}} 1"#, upstream.address),
        r#"coredns_cache_entries{server="dns://127.0.0.1:0",type="success",zones=".",view=""} 1"#,
    ] {
        assert!(metrics.contains(wanted), "{wanted} is missing in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_listeners_and_changes_answers() {
    let upstream = Upstream::start().await;
    let mut bench = Bench::new(&corefile(&upstream, ""));
    let before = bench.at("127.0.0.1");
    bench.apply(". {\nbind 127.0.0.1\nhosts {\n10.1.1.1 www.example.org\n}\n}");
    assert_eq!(bench.at("127.0.0.1"), before);
    assert_eq!(show(&ask(before, &query("www.example.org", Rtype::A)).await.unwrap()), "NOERROR 10.1.1.1");
    assert_eq!(bench.runtime.addresses().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_zone_answers_and_strangers_are_refused() {
    let bench = Bench::new(
        "a.test b.a.test {\nbind 127.0.0.1\nhosts {\n10.0.0.1 x.a.test\n}\n}\nc.a.test {\nbind 127.0.0.1\nhosts {\n10.0.0.2 x.c.a.test\n}\n}",
    );
    let at = bench.at("127.0.0.1");
    assert_eq!(show(&ask(at, &query("x.a.test", Rtype::A)).await.unwrap()), "NOERROR 10.0.0.1");
    assert_eq!(show(&ask(at, &query("x.c.a.test", Rtype::A)).await.unwrap()), "NOERROR 10.0.0.2");
    assert_eq!(show(&ask(at, &query("x.test", Rtype::A)).await.unwrap()), "REFUSED");
    let mut chaos = query("version.bind", Rtype::TXT);
    chaos.class = domain::base::iana::Class::CH;
    assert_eq!(show(&ask(at, &chaos).await.unwrap()), "REFUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_get_their_due() {
    let bench = Bench::new(". {\nbind 127.0.0.1\nkubernetes cluster.local\n}");
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(bench.at("127.0.0.1")).await.unwrap();
    let good = encode_query(&query(WEB, Rtype::A), 9);
    let mut response = good.clone();
    response[2] |= 0x80;
    let mut truncated = good.clone();
    truncated.truncate(good.len() - 2);
    let mut status = good.clone();
    status[2] = 0x10;
    let mut future = encode_query(&with_edns(query(WEB, Rtype::A), 1232), 9);
    let version_at = future.len() - 5;
    future[version_at] = 1;
    // Those that must stay unanswered come first: an answer to one of them would be read in the place of the next.
    for (octets, rcode) in
        [(&response, None), (&good[..5].to_vec(), None), (&truncated, Some(1)), (&status, Some(4)), (&future, Some(0)), (&good, Some(0))]
    {
        socket.send(octets).await.unwrap();
        let Some(rcode) = rcode else { continue };
        let mut buffer = [0; 512];
        let length = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((buffer[1], buffer[3] & 0xf), (9, rcode), "{octets:?}");
        if octets == &future {
            // BADVERS is 16: its upper bits stand in the OPT record.
            assert_eq!(buffer[length - 6], 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_ask_at_once() {
    let upstream = Upstream::start().await;
    let bench = Bench::new(&corefile(&upstream, ""));
    let at = bench.at("127.0.0.1");
    let asking: Vec<_> = (0..300)
        .map(|i| tokio::spawn(async move { show(&ask(at, &query(&format!("n{}.example.org", i % 150), Rtype::A)).await.unwrap()) }))
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), "NOERROR 203.0.113.1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarding_loop_is_found() {
    let port = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path().join("Corefile");
    std::fs::write(&conf, format!("example.org {{\nbind 127.0.0.1\nloop\nforward . 127.0.0.1:{port}\n}}")).unwrap();
    let args = bowline_dns::Args { conf, feed: directory.path().join("none.sock"), port };
    let ended = tokio::time::timeout(Duration::from_secs(20), bowline_dns::run(args)).await.unwrap();
    let error = ended.unwrap_err().to_string();
    assert!(error.starts_with("a forwarding loop for zone example.org.:"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_is_content() {
    if Command::new("dig").arg("-v").output().is_err() {
        println!("skipped: dig is not installed (Debian's package bind9-dnsutils)");
        return;
    }
    let upstream = Upstream::start().await;
    let bench = Bench::new(&corefile(&upstream, ""));
    let at = bench.at("127.0.0.1");
    let port = at.port().to_string();
    let dig = |args: &'static [&'static str]| {
        let port = port.clone();
        tokio::task::spawn_blocking(move || {
            let output = Command::new("dig").args(["@127.0.0.1", "-p", &port, "+time=3"]).args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
    };
    assert_eq!(dig(&["-t", "A", WEB, "+short"]).await.unwrap(), "192.168.0.7\n");
    assert_eq!(dig(&["-x", "192.168.0.7", "+short"]).await.unwrap(), "nginx-web.default.svc.cluster.local.\n");
    assert_eq!(dig(&["www.example.org", "+short", "+tcp"]).await.unwrap(), "web.example.net.\n203.0.113.7\n");
    let srv = dig(&["SRV", "_http._tcp.nginx-web.default.svc.cluster.local"]).await.unwrap();
    assert!(srv.contains("0 50 80 nginx-web.default.svc.cluster.local."), "{srv}");
    assert!(srv.contains("ADDITIONAL: 3") && srv.contains("EDNS: version: 0"), "{srv}");
    let missing = dig(&["gone.default.svc.cluster.local"]).await.unwrap();
    assert!(missing.contains("status: NXDOMAIN") && missing.contains("hostmaster.cluster.local."), "{missing}");
    let complaints = ["not available", "malformed", "extra bytes", "Truncated"];
    assert!(!complaints.iter().any(|complaint| srv.contains(complaint) || missing.contains(complaint)), "{srv}{missing}");
}
