//! Watches over HTTP: one JSON event a line, for as long as the client listens.
//!
//! Invariant: with a selector, an object that comes into view is `ADDED` and one that leaves it `DELETED`, whatever
//! happened in the store. Reference: "Efficient detection of changes", "Watch bookmarks" and "Streaming lists" of the
//! Kubernetes API concepts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{Answer, Call, Context, full, render};
use crate::error::ApiError;
use crate::selector::{FieldSelector, Selector};
use crate::store::{Event, EventKind, Watch};

/// Watches end after an hour, if the client does not say otherwise, so that clients meet it now and then.
const LONGEST: Duration = Duration::from_secs(3600);

struct Following {
    watch: Watch,
    call: Call,
    labels: Selector,
    fields: FieldSelector,
    bookmarks: Option<Interval>,
    /// Whether the client asked for a bookmark that ends the initial events.
    mark_initial: bool,
    until: Instant,
    ended: bool,
}

impl Context {
    pub(super) fn follow(&self, call: &Call) -> Result<Answer, ApiError> {
        let (labels, mut fields) = call.query.selectors()?;
        if let Some(name) = &call.target.name {
            fields = FieldSelector::parse(&format!("metadata.name={name}")).map_err(ApiError::bad_request)?;
        }
        let initial = call.query.given("sendInitialEvents").map(|_| call.query.flag("sendInitialEvents"));
        let since = match (initial, call.query.given("resourceVersion")) {
            (Some(true), _) | (None, None | Some("0")) => None,
            (Some(false), None | Some("0")) => Some(self.store.revision()),
            (_, Some(version)) => {
                let number = version.parse::<u64>();
                Some(number.map_err(|_| ApiError::bad_request(format!("resourceVersion {version:?} is not one of this server's")))?)
            }
        };
        let watch = match self.store.watch(&call.resource.id, call.target.namespace.as_deref(), since) {
            Ok(watch) => watch,
            // An event and not an answer of code 410: that is what clients know to start over for.
            Err(fault @ ApiError::Expired { .. }) => {
                let mut line = String::new();
                write_line(&mut line, EventKind::Error, &fault.to_status());
                return Ok(full(StatusCode::OK, "application/json", line));
            }
            Err(fault) => return Err(fault),
        };
        let wants_bookmarks = call.query.flag("allowWatchBookmarks");
        let timeout = call.query.number("timeoutSeconds")?.map_or(LONGEST, Duration::from_secs).min(LONGEST);
        let following = Following {
            watch,
            labels,
            fields,
            bookmarks: wants_bookmarks.then(|| ticks(self.bookmark_interval)),
            mark_initial: initial == Some(true) && wants_bookmarks,
            until: Instant::now() + timeout,
            ended: false,
            call: call.clone(),
        };
        let lines = futures::stream::unfold(following, |mut following| async move {
            let line = following.next_line().await?;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), following))
        });
        let mut answer = Response::new(StreamBody::new(lines).boxed_unsync());
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        Ok(answer)
    }
}

fn ticks(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

impl Following {
    /// The next lines, several at once when there are; `None` ends the answer.
    async fn next_line(&mut self) -> Option<String> {
        loop {
            if self.ended {
                return None;
            }
            let event = tokio::select! {
                biased;
                event = self.watch.next() => Some(event),
                () = tick(self.bookmarks.as_mut()) => None,
                () = tokio::time::sleep_until(self.until) => return None,
            };
            let mut lines = String::new();
            match event {
                Some(event) => self.write(event, &mut lines),
                None => write_line(&mut lines, EventKind::Bookmark, &render::bookmark(&self.call, self.watch.revision(), Value::Null)),
            }
            while lines.len() < 64 << 10 && !self.ended {
                let Some(event) = self.watch.next_ready() else { break };
                self.write(event, &mut lines);
            }
            if !lines.is_empty() {
                return Some(lines);
            }
        }
    }

    fn write(&mut self, event: Event, lines: &mut String) {
        match event.kind {
            EventKind::Error => {
                self.ended = true;
                write_line(lines, EventKind::Error, &event.object);
            }
            EventKind::Bookmark => {
                if self.mark_initial {
                    let end = json!({"k8s.io/initial-events-end": "true"});
                    write_line(lines, EventKind::Bookmark, &render::bookmark(&self.call, event.revision, end));
                }
            }
            EventKind::Added | EventKind::Modified | EventKind::Deleted => {
                if let Some((kind, object)) = self.view(&event) {
                    write_line(lines, kind, &render::one(&self.call, &object));
                }
            }
        }
    }

    /// What an event is to one who sees through the selectors.
    fn view(&self, event: &Event) -> Option<(EventKind, Arc<Value>)> {
        let sees = |object: &Value| self.labels.matches(object) && self.fields.matches(object);
        let was = event.previous.as_deref().is_some_and(sees);
        let is = sees(&event.object);
        let kind = match (event.kind, was, is) {
            (EventKind::Deleted, true, _) | (EventKind::Modified, true, false) => EventKind::Deleted,
            (EventKind::Modified, true, true) => EventKind::Modified,
            (EventKind::Added | EventKind::Modified, false, true) => EventKind::Added,
            _ => return None,
        };
        Some((kind, Arc::clone(&event.object)))
    }
}

fn write_line(lines: &mut String, kind: EventKind, object: &Value) {
    lines.push_str(&json!({"type": kind.as_str(), "object": object}).to_string());
    lines.push('\n');
}
