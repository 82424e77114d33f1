//! Sockets: questions come in, answers go out.
//!
//! Invariant: what one client does costs bounded memory and never stops the others: connections, questions under way and
//! waiting times have limits. Reference: RFC 1035, RFC 7766 (TCP), Linux's udp(7) and ip(7).

mod handle;
mod http;
mod runtime;
mod socket;
mod tcp;
mod udp;

pub use handle::Limits;
pub use runtime::Runtime;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// Asked by the server itself.
    Inside,
}

impl Transport {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Inside => "inside",
        }
    }
}
