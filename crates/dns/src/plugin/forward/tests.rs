//! What the directive says, and the order of the upstreams; real exchanges are tested end to end.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use super::*;
use crate::corefile::{NoSources, parse};

fn options(text: &str) -> Result<ForwardOptions, String> {
    let file = parse("f", &format!(". {{\n{text}\n}}"), &NoSources).unwrap();
    let read_file = |path: &str| match path {
        "/etc/resolv.conf" => Ok("search x\nnameserver 10.0.0.2\nnameserver fd00::2 # x\nnameserver fe80::1%eth0\n".to_owned()),
        _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
    };
    read(&file.blocks[0].directives[0], &read_file).map_err(|error| error.to_string())
}

#[test]
fn upstreams_are_read() {
    let to = |text: &str| options(text).unwrap().to.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(to("forward . 1.1.1.1 [::1]:5353 fd00::1 dns://10.0.0.1:54"), "1.1.1.1:53 [::1]:5353 [fd00::1]:53 10.0.0.1:54");
    assert_eq!(to("forward . /etc/resolv.conf"), "10.0.0.2:53 [fd00::2]:53");
}

#[test]
fn options_are_read() {
    let text = "forward example.org 1.1.1.1 {\nexcept a.example.org 10.0.0.0/8\nforce_tcp\nexpire 20s\nmax_fails 0\npolicy sequential\n\
                health_check 2s no_rec domain example.org\nmax_concurrent 7\nnext NXDOMAIN\nfailover SERVFAIL REFUSED\n}";
    let options = options(text).unwrap();
    assert!(options.force_tcp && !options.health_recursion);
    assert_eq!((options.max_fails, options.max_concurrent, options.policy), (0, Some(7), Policy::Sequential));
    assert_eq!((options.expire.as_secs(), options.health_interval.as_secs()), (20, 2));
    assert_eq!(options.next, [Rcode::NXDOMAIN]);
    let forward = Forward::new(options, &Metrics::default());
    let takes = |name: &str| forward.takes(&name::parse(name).unwrap());
    assert!(takes("b.Example.org") && takes("example.org"));
    assert!(!takes("x.a.example.org") && !takes("1.0.0.10.in-addr.arpa") && !takes("example.com"));
}

#[test]
fn errors_say_what_to_do() {
    for (text, expected) in [
        ("forward .", "f:2: `forward` wants a zone and one or more upstreams"),
        ("forward . tls://1.1.1.1", "f:2: `tls://1.1.1.1`: upstreams are asked over UDP and TCP only"),
        ("forward . dns.example", "f:2: `dns.example` is no address of an upstream"),
        ("forward . /gone", "f:2: cannot read /gone"),
        ("forward . 1.1.1.1 {\npolicy best\n}", "f:3: `best` is no policy; write random"),
        ("forward . 1.1.1.1 {\nfoo\n}", "f:3: `forward` has no option `foo`; known are: except"),
        ("forward . 1.1.1.1 {\nforce_tcp\nprefer_udp\n}", "f:2: `force_tcp` and `prefer_udp` exclude each other"),
    ] {
        let error = options(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn policies_order() {
    let order = |forward: &Forward| forward.order().unwrap().iter().map(|u| u.address().ip().to_string()).collect::<Vec<_>>().join(" ");
    let make = |policy: &str| {
        Forward::new(options(&format!("forward . 1.0.0.1 1.0.0.2 1.0.0.3 {{\npolicy {policy}\n}}")).unwrap(), &Metrics::default())
    };
    let sequential = make("sequential");
    assert_eq!([order(&sequential), order(&sequential)], ["1.0.0.1 1.0.0.2 1.0.0.3"; 2]);
    let robin = make("round_robin");
    assert_eq!([order(&robin), order(&robin)], ["1.0.0.1 1.0.0.2 1.0.0.3", "1.0.0.2 1.0.0.3 1.0.0.1"]);
    let random = make("random");
    let orders: std::collections::BTreeSet<String> = (0..200).map(|_| order(&random)).collect();
    assert_eq!(orders.len(), 6);
}
