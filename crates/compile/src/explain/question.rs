//! A question as people type it: `SRC DST[:PORT[/PROTO]]`, or `SRC DST/icmp`.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::{Family, Problem, Protocol};
use serde::{Deserialize, Serialize};

use crate::codes;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who begins.
    pub from: Whom,
    /// Who is meant.
    pub to: Whom,
    /// Destination port; where none is said, the only one that there is.
    pub port: Option<PortAsked>,
    /// What is sent.
    pub sent: Sent,
    /// The family; where none is said, the first that both ends have.
    pub family: Option<Family>,
}

/// What is sent: something of a transport protocol, which has ports, or an echo request of ICMP (of ICMPv6 between IPv6 addresses), which has
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Sent {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP or ICMPv6.
    Icmp,
}

impl From<Protocol> for Sent {
    fn from(protocol: Protocol) -> Sent {
        match protocol {
            Protocol::Tcp => Sent::Tcp,
            Protocol::Udp => Sent::Udp,
            Protocol::Sctp => Sent::Sctp,
        }
    }
}

impl Sent {
    /// The transport protocol; none of ICMP.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Sent::Tcp => Some(Protocol::Tcp),
            Sent::Udp => Some(Protocol::Udp),
            Sent::Sctp => Some(Protocol::Sctp),
            Sent::Icmp => None,
        }
    }

    /// The protocol number (IANA) between addresses of a family.
    pub fn number(self, family: Family) -> u8 {
        match (self.protocol(), family) {
            (Some(protocol), _) => protocol.number(),
            (None, Family::V4) => 1,
            (None, Family::V6) => 58,
        }
    }

    /// What people call it between addresses of a family.
    pub fn word(self, family: Family) -> &'static str {
        match (self, family) {
            (Sent::Tcp, _) => "tcp",
            (Sent::Udp, _) => "udp",
            (Sent::Sctp, _) => "sctp",
            (Sent::Icmp, Family::V4) => "icmp",
            (Sent::Icmp, Family::V6) => "icmpv6",
        }
    }
}

/// An end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// An address.
    Address(IpAddr),
    /// A name with a namespace: a pod or a service.
    Named {
        /// Which of the two, where that was said.
        kind: Option<NameKind>,
        /// The namespace.
        namespace: Arc<str>,
        /// The name.
        name: Arc<str>,
    },
    /// A node.
    Node(Arc<str>),
    /// One word: a node, or else a pod or service of this namespace.
    Word {
        /// The word.
        word: Arc<str>,
        /// The namespace that names without one are of.
        namespace: Arc<str>,
    },
}

/// What has a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// A pod.
    Pod,
    /// A service.
    Service,
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortAsked {
    /// Its number.
    Number(u16),
    /// The name that the service or the pod gives it.
    Name(Arc<str>),
}

const FIX: &str = "write NAMESPACE/POD, NAMESPACE/SERVICE, NODE or an address, and after the destination :PORT, :PORT/PROTOCOL or /icmp, \
                   e.g. shop/web-1 shop/api:8080/tcp";

fn bad(what: String, place: &str) -> Problem {
    Problem::new(codes::BAD_QUESTION, what, place, FIX)
}

impl Question {
    /// Reads a question; names without a namespace are of `namespace`.
    ///
    /// # Errors
    /// BW4101 where the text is no question.
    pub fn parse(source: &str, destination: &str, namespace: &str) -> Result<Question, Problem> {
        let from = whom(source, namespace).map_err(|what| bad(what, "SRC"))?;
        if let Some((head, family)) = without_icmp(destination) {
            let to = whom(head, namespace).map_err(|what| bad(what, "DST"))?;
            return Ok(Question { from, to, port: None, sent: Sent::Icmp, family });
        }
        let (head, tail) = split(destination);
        let to = whom(head, namespace).map_err(|what| bad(what, "DST"))?;
        let (port, protocol) = match tail {
            Some(text) => port(text).map(|(port, protocol)| (Some(port), protocol)).map_err(|what| bad(what, "DST"))?,
            None => (None, Protocol::Tcp),
        };
        Ok(Question { from, to, port, sent: protocol.into(), family: None })
    }
}

/// ICMP by its name, and the family that the name says.
pub(crate) fn icmp(text: &str) -> Option<Option<Family>> {
    match text {
        "icmp" | "ICMP" => Some(None),
        "icmpv6" | "ICMPv6" => Some(Some(Family::V6)),
        _ => None,
    }
}

/// The end before `/icmp` or `/icmpv6`, if that is what the text closes with, and the family that is said by it. After a port it is no end.
fn without_icmp(text: &str) -> Option<(&str, Option<Family>)> {
    let (head, last) = text.rsplit_once('/')?;
    let family = icmp(last)?;
    let head = head.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(head);
    (head.parse::<IpAddr>().is_ok() || !head.contains(':')).then_some((head, family))
}

/// The end, and the port after it. A bare IPv6 address has none: with a port it stands in brackets.
fn split(text: &str) -> (&str, Option<&str>) {
    if text.parse::<IpAddr>().is_ok() {
        return (text, None);
    }
    if let Some((head, tail)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (head, tail.strip_prefix(':').or(Some(tail).filter(|tail| !tail.is_empty())));
    }
    text.split_once(':').map_or((text, None), |(head, tail)| (head, Some(tail)))
}

/// An end of a connection.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn whom(text: &str, namespace: &str) -> Result<Whom, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Whom::Address(address.to_canonical()));
    }
    let parts: Vec<&str> = text.split('/').collect();
    if let Some(part) = parts.iter().find(|part| !is_name(part)) {
        return Err(format!("`{}` is no name and no address", part.escape_debug()));
    }
    let named = |kind, namespace: &str, name: &str| Whom::Named { kind, namespace: namespace.into(), name: name.into() };
    match *parts {
        ["node", name] => Ok(Whom::Node(name.into())),
        [word] => Ok(Whom::Word { word: word.into(), namespace: namespace.into() }),
        // As kubectl takes them; a namespace of such a name is told by three parts.
        ["pod", name] => Ok(named(Some(NameKind::Pod), namespace, name)),
        ["svc" | "service", name] => Ok(named(Some(NameKind::Service), namespace, name)),
        [namespace, name] => Ok(named(None, namespace, name)),
        ["pod", namespace, name] => Ok(named(Some(NameKind::Pod), namespace, name)),
        ["svc" | "service", namespace, name] => Ok(named(Some(NameKind::Service), namespace, name)),
        _ => Err(format!("`{}` has too many parts", text.escape_debug())),
    }
}

fn is_name(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !text.is_empty() && text.len() <= 253 && text.bytes().all(known)
}

/// `PORT` or `PORT/PROTOCOL`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn port(text: &str) -> Result<(PortAsked, Protocol), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if icmp(protocol).is_some() {
        return Err("ICMP has no ports".to_owned());
    }
    let protocol = protocol.parse::<Protocol>().map_err(|error| error.to_string())?;
    if port.bytes().all(|b| b.is_ascii_digit()) {
        let number = port.parse::<u16>().ok().filter(|number| *number != 0);
        return number.map(|number| (PortAsked::Number(number), protocol)).ok_or_else(|| format!("port `{port}` is not one of 1 to 65535"));
    }
    if is_name(port) && port.len() <= 63 && !port.contains('.') {
        return Ok((PortAsked::Name(port.into()), protocol));
    }
    Err(format!("`{}` is no port", port.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kind: Option<NameKind>, namespace: &str, name: &str) -> Whom {
        Whom::Named { kind, namespace: namespace.into(), name: name.into() }
    }

    fn read(text: &str) -> Result<(Whom, Option<PortAsked>, Sent), String> {
        Question::parse("n1", text, "default").map(|q| (q.to, q.port, q.sent)).map_err(|problem| problem.what)
    }

    #[test]
    fn ends_and_ports_of_every_form() {
        let number = |number| Some(PortAsked::Number(number));
        let word = || Whom::Word { word: "web".into(), namespace: "default".into() };
        let address = |text: &str| Whom::Address(text.parse().unwrap());
        for (text, to, port, protocol) in [
            ("shop/api:8080", named(None, "shop", "api"), number(8080), Protocol::Tcp),
            ("shop/api:53/udp", named(None, "shop", "api"), number(53), Protocol::Udp),
            ("shop/api:http/TCP", named(None, "shop", "api"), Some(PortAsked::Name("http".into())), Protocol::Tcp),
            ("shop/api", named(None, "shop", "api"), None, Protocol::Tcp),
            ("svc/shop/api:1", named(Some(NameKind::Service), "shop", "api"), number(1), Protocol::Tcp),
            ("svc/api:1", named(Some(NameKind::Service), "default", "api"), number(1), Protocol::Tcp),
            ("pod/api-0", named(Some(NameKind::Pod), "default", "api-0"), None, Protocol::Tcp),
            ("pod/shop/api-0.x:65535/sctp", named(Some(NameKind::Pod), "shop", "api-0.x"), number(65535), Protocol::Sctp),
            ("node/n1:22", Whom::Node("n1".into()), number(22), Protocol::Tcp),
            ("web:80", word(), number(80), Protocol::Tcp),
            ("10.0.0.1:80", address("10.0.0.1"), number(80), Protocol::Tcp),
            ("fd42::1", address("fd42::1"), None, Protocol::Tcp),
            ("[fd42::1]", address("fd42::1"), None, Protocol::Tcp),
            ("[fd42::1]:80/udp", address("fd42::1"), number(80), Protocol::Udp),
            ("::ffff:10.0.0.1", address("10.0.0.1"), None, Protocol::Tcp),
        ] {
            assert_eq!(read(text), Ok((to, port, protocol.into())), "{text}");
        }
    }

    #[test]
    fn icmp_stands_where_a_port_would() {
        let address = |text: &str| Whom::Address(text.parse().unwrap());
        let v6 = Some(Family::V6);
        for (text, to, family) in [
            ("shop/api/icmp", named(None, "shop", "api"), None),
            ("shop/api/icmpv6", named(None, "shop", "api"), v6),
            ("pod/shop/api/icmp", named(Some(NameKind::Pod), "shop", "api"), None),
            ("node/n1/ICMP", Whom::Node("n1".into()), None),
            ("n1/icmp", Whom::Word { word: "n1".into(), namespace: "default".into() }, None),
            ("10.0.0.1/icmp", address("10.0.0.1"), None),
            ("fd42::1/icmpv6", address("fd42::1"), v6),
            ("[fd42::1]/icmp", address("fd42::1"), None),
        ] {
            let question = Question::parse("n1", text, "default").unwrap();
            assert_eq!((question.to, question.port, question.sent, question.family), (to, None, Sent::Icmp, family), "{text}");
        }
        // With a port it can only be a name.
        assert_eq!(read("shop/icmp:80"), Ok((named(None, "shop", "icmp"), Some(PortAsked::Number(80)), Sent::Tcp)));
    }

    #[test]
    fn what_is_no_question_says_what_is_wrong() {
        for (text, what) in [
            ("", "`` is no name and no address"),
            ("shop/", "`` is no name and no address"),
            ("Shop/api:80", "`Shop` is no name and no address"),
            ("shop/a\u{1b}[2J:80", "`a\\u{1b}[2J` is no name and no address"),
            ("a/b/c:80", "`a/b/c` has too many parts"),
            ("shop/api:0", "port `0` is not one of 1 to 65535"),
            ("shop/api:65536", "port `65536` is not one of 1 to 65535"),
            ("shop/api:", "port `` is not one of 1 to 65535"),
            ("shop/api:80/icmp", "ICMP has no ports"),
            ("[fd42::1]:80/icmpv6", "ICMP has no ports"),
            ("shop/api:80/igmp", "unknown protocol `igmp`: use TCP, UDP or SCTP"),
            ("/icmp", "`` is no name and no address"),
            ("shop/api:UP", "`UP` is no port"),
            ("[fd42::1]80x!", "`80x!` is no port"),
        ] {
            assert_eq!(read(text).unwrap_err(), what, "{text}");
        }
    }
}
