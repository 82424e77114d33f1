//! The one line to the API server that the watches of all kinds share, and its pace.
//!
//! Invariant: while the server does not serve, one question at a time is put to it by this node, however many kinds wait, and the next not
//! before the pace allows it. The first good answer lets all go on. So a server that returns meets from each node at most one question
//! in two to three seconds and a half, and then eight resumed watches.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use tokio::sync::watch;

use super::time::{Instant, sleep_until, timeout};
use super::trouble::{Pace, Trouble, moment};

/// How long the beginning of an answer may take. The server itself gives up after a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);

/// How long the explanation of a refusal is waited for, and how much of it is read.
const EXPLANATION: (Duration, usize) = (Duration::from_secs(5), 64 << 10);

/// While the server does not serve. The longest is what a change may have to wait after its return.
const PACE: Pace = Pace { first: Duration::from_millis(500), most: Duration::from_millis(3500) };

/// The line.
pub(super) struct Line {
    client: Client,
    away: Mutex<Option<Away>>,
    turn: tokio::sync::Mutex<()>,
    outage: watch::Sender<Outage>,
}

/// Why the server does not serve; none while it does.
pub(crate) type Outage = Option<String>;

/// Since when, and how it went since.
#[derive(Debug, Clone, Copy)]
struct Away {
    since: Instant,
    failures: u32,
    not_before: Instant,
}

/// Leave to put one question. While the server does not serve, nobody else has it.
pub(super) struct Leave<'a> {
    line: &'a Line,
    turn: Option<tokio::sync::MutexGuard<'a, ()>>,
}

impl Line {
    /// A line over which nothing went yet.
    pub(super) fn new(client: Client) -> Line {
        Line { client, away: Mutex::new(None), turn: tokio::sync::Mutex::new(()), outage: watch::Sender::new(None) }
    }

    /// Tells when the server goes away, why, and when it serves again.
    pub(super) fn outage(&self) -> watch::Receiver<Outage> {
        self.outage.subscribe()
    }

    fn away(&self) -> Option<Away> {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a question may be put.
    pub(super) async fn leave(&self) -> Leave<'_> {
        if self.away().is_none() {
            return Leave { line: self, turn: None };
        }
        let turn = self.turn.lock().await;
        match self.away() {
            Some(away) => {
                sleep_until(away.not_before).await;
                Leave { line: self, turn: Some(turn) }
            }
            None => Leave { line: self, turn: None },
        }
    }

    /// Puts a question; the answer is one of success, with its body still to come.
    pub(super) async fn ask(&self, request: Request<Vec<u8>>) -> Result<Response<Body>, Trouble> {
        let sent = timeout(ANSWER_WITHIN, self.client.send(request.map(Body::from))).await;
        let answer = match sent {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Trouble::Unreachable(causes(&error))),
            Err(_) => return Err(Trouble::Unreachable(format!("nothing came for {} s", ANSWER_WITHIN.as_secs()))),
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (head, body) = answer.into_parts();
        let (within, bytes) = EXPLANATION;
        let explanation = match timeout(within, Limited::new(body, bytes).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Default::default(),
        };
        Err(Trouble::refused(head.status, &head.headers, &explanation))
    }

    fn failed(&self, trouble: &Trouble, in_turn: bool) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let failures = away.map_or(0, |away| away.failures);
        let delay = PACE.delay(failures);
        // Those who were told to wait as long do not come back together.
        let delay = trouble.retry_after().map_or(delay, |asked| delay.max(asked + moment(asked)));
        match &mut *away {
            // What was under way when the first one failed says nothing new.
            Some(away) if !in_turn => away.not_before = away.not_before.max(now + trouble.retry_after().unwrap_or_default()),
            Some(away) => (away.failures, away.not_before) = (failures.saturating_add(1), now + delay),
            None => {
                tracing::warn!(%trouble, "the API server does not serve; what is in force stays");
                *away = Some(Away { since: now, failures: 1, not_before: now + delay });
            }
        }
        let why = Some(trouble.to_string());
        self.outage.send_if_modified(|said| {
            let is_new = *said != why;
            *said = why;
            is_new
        });
    }

    fn served(&self) {
        let mut held = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(away) = held.take() {
            self.outage.send_replace(None);
            let away_ms = u64::try_from(away.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(away_ms, failures = away.failures, "the API server serves again");
        }
    }
}

impl Leave<'_> {
    /// Says how it went; the next may ask.
    pub(super) fn done<T>(self, outcome: &Result<T, Trouble>) {
        match outcome {
            Err(trouble) if trouble.is_of_server() => self.line.failed(trouble, self.turn.is_some()),
            Ok(_) | Err(_) => self.line.served(),
        }
    }
}

/// An error with what caused it: the outer words seldom say enough.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}
