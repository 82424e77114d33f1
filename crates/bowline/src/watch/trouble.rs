//! What can go wrong between the agent and the API server, and how long to wait after it.
//!
//! Invariant: trouble is never an answer. Whatever is in force stays, and the question is put again.
//! Reference: "API concepts" of the Kubernetes documentation (410 Gone, 429 and Retry-After), RFC 9110 section 10.2.3.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use kube::core::Status;

/// The longest that a server may ask to be left alone.
const RETRY_AFTER_AT_MOST: Duration = Duration::from_secs(60);

/// Why a question has no answer that can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nobody answered: refused, no way, no such name, not trusted, or silent for too long.
    Unreachable(String),
    /// The answer began and did not end.
    Broken(String),
    /// What came is not what was asked for.
    Unreadable(String),
    /// The server said no.
    Refused {
        /// HTTP status.
        code: u16,
        /// What it said.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The server no longer has, or never had, the version that was asked for.
    Expired(String),
    /// The list contradicts what is known.
    Doubted(String),
}

impl Trouble {
    /// The refusal in an answer whose body was `body`.
    pub(super) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Trouble {
        let said = serde_json::from_slice::<Status>(body).ok();
        let details = said.as_ref().and_then(|status| status.details.as_ref());
        let by_header = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        let by_body = details.map(|details| u64::from(details.retry_after_seconds)).filter(|seconds| *seconds > 0);
        let retry_after = by_header.or(by_body).map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_AT_MOST));
        let message = said.as_ref().map_or_else(|| status.to_string(), |said| short(&said.message));
        let too_large = said.is_some_and(|said| is_too_large(&said));
        if status == StatusCode::GONE || too_large {
            return Trouble::Expired(message);
        }
        Trouble::Refused { code: status.as_u16(), message, retry_after }
    }

    /// What an ERROR event of a watch means.
    pub(super) fn of_event(status: &Status) -> Trouble {
        if status.code == StatusCode::GONE.as_u16() || is_too_large(status) {
            return Trouble::Expired(short(&status.message));
        }
        Trouble::Refused { code: status.code, message: short(&status.message), retry_after: None }
    }

    /// Whether no other question would fare better now: then all kinds wait together, and one asks for all.
    pub(super) fn is_of_server(&self) -> bool {
        match self {
            Trouble::Unreachable(_) | Trouble::Broken(_) | Trouble::Unreadable(_) => true,
            Trouble::Refused { code, .. } => matches!(code, 401 | 429 | 500..),
            Trouble::Expired(_) | Trouble::Doubted(_) => false,
        }
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Trouble::Refused { retry_after, .. } => *retry_after,
            Trouble::Unreachable(_) | Trouble::Broken(_) | Trouble::Unreadable(_) | Trouble::Expired(_) | Trouble::Doubted(_) => None,
        }
    }
}

/// A server whose cache has not come that far yet says so with a cause of this name, and with code 504.
fn is_too_large(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
}

fn short(text: &str) -> String {
    text.chars().take(300).collect()
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unreachable(why) => write!(f, "no answer: {why}"),
            Trouble::Broken(why) => write!(f, "the answer broke off: {why}"),
            Trouble::Unreadable(why) => write!(f, "the answer cannot be read: {why}"),
            Trouble::Refused { code, message, .. } => write!(f, "refused with {code}: {message}"),
            Trouble::Expired(why) => write!(f, "the version is not to be had: {why}"),
            Trouble::Doubted(why) => write!(f, "not believed: {why}"),
        }
    }
}

/// Delays that double from `first` to `most`, each between a half and the whole of it, so that many nodes do not ask in step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The first delay.
    pub(super) first: Duration,
    /// The longest.
    pub(super) most: Duration,
}

impl Pace {
    /// The delay after so many failures before this one.
    pub(super) fn delay(self, failures: u32) -> Duration {
        let whole = self.first.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.most);
        whole.mul_f64(rand::random_range(0.5..1.0))
    }
}

/// A moment up to `most`: for what many nodes would else do at the same time.
pub(super) fn moment(most: Duration) -> Duration {
    most.mul_f64(rand::random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    fn refused(code: u16, retry_after: Option<&str>, body: &str) -> Trouble {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
        }
        Trouble::refused(StatusCode::from_u16(code).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn refusals_are_told_apart() {
        let overload = refused(429, Some("7"), r#"{"kind":"Status","status":"Failure","message":"too many","code":429}"#);
        assert_eq!(overload.retry_after(), Some(Duration::from_secs(7)));
        assert!(overload.is_of_server());
        assert_eq!(refused(503, Some("86400"), "").retry_after(), Some(RETRY_AFTER_AT_MOST), "a server cannot send us away for a day");
        let by_body = r#"{"kind":"Status","status":"Failure","code":504,"details":{"retryAfterSeconds":1,"causes":[{"reason":"ResourceVersionTooLarge","message":"m"}]}}"#;
        assert!(matches!(refused(504, None, by_body), Trouble::Expired(_)), "a version of the future is not to be had either");
        assert!(matches!(refused(410, None, "not even JSON"), Trouble::Expired(_)));
        assert!(!refused(403, None, "{}").is_of_server(), "one kind may be forbidden while others are not");
        assert!(refused(401, None, "").is_of_server());
    }

    #[test]
    fn delays_double_and_stay_between_half_and_whole() {
        let pace = Pace { first: Duration::from_millis(500), most: Duration::from_secs(4) };
        for (failures, whole_ms) in [(0, 500), (1, 1000), (2, 2000), (3, 4000), (4, 4000), (40, 4000), (u32::MAX, 4000)] {
            for _ in 0..50 {
                let delay = pace.delay(failures);
                let whole = Duration::from_millis(whole_ms);
                assert!(delay >= whole / 2 && delay <= whole, "{delay:?} after {failures} failures");
            }
        }
    }
}
