//! One kind, followed: listed until a list is believed, then watched from there for as long as the server remembers where we were.
//!
//! Invariant: an object leaves the world by a DELETED event of a watch whose versions only grow, or by a whole list that is believed;
//! never by an error, a broken connection or half an answer. Events that are older than what was seen mean that the store is another
//! one than before; then the kind is listed anew. Reference: "Efficient detection of changes" and "Watch bookmarks" of the Kubernetes
//! API concepts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bowline_compile::world::{Change, ObjectKey};
use kube::Resource;
use kube::core::WatchEvent;
use kube::core::params::WatchParams;
use tokio::sync::mpsc;

use super::doubt::{Contradiction, Doubt};
use super::events::{Events, SILENCE};
use super::guard::Guards;
use super::line::Line;
use super::list::{Fresh, Listed, knows_node, list};
use super::time::{Instant, sleep, sleep_until};
use super::trouble::{Pace, Trouble, moment};
use super::version::Version;
use super::watched::{Watchable, Watched};

/// Seconds after which the server is asked to end a watch, by chance between the two; it is then taken up again where it stopped.
const WATCH_SECONDS: std::ops::Range<u32> = 200..290;

/// A watch that lasted as long was one; a shorter one counts as a failure, so that a server that ends each at once is not asked in a ring.
const LASTED: Duration = Duration::from_secs(5);

/// Trouble of one kind alone that someone has to mend: no right to list it.
const PACE: Pace = Pace { first: Duration::from_secs(1), most: Duration::from_secs(30) };

/// A kind that was there and that the server says, for so long, it has not: its definition was deleted, and its objects with it.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// A kind that guards and that the server, for so long, says is not for us: one that has just come up says so of everything.
const FORBIDDEN_AFTER: Duration = Duration::from_secs(10);

/// What may be over at any time: a list that is doubted, a version that is gone, a watch that ends as soon as it has begun.
const SHORT_PACE: Pace = Pace { first: Duration::from_millis(500), most: Duration::from_secs(3) };

/// What all nodes would do at the same time when a server goes or comes is spread over this.
const SPREAD: Duration = Duration::from_secs(1);

/// After so many refusals in a row to take up a watch, the kind is listed anew.
const RESUMES: u32 = 3;

/// Nobody wants the changes any more.
pub(super) struct Over;

/// One kind, and what is known of it.
pub(super) struct Follower<T> {
    line: Arc<Line>,
    node: Arc<str>,
    changes: mpsc::Sender<Change>,
    guards: Guards,
    /// The newest version that was seen.
    seen: Option<Version>,
    /// What the world was told there is.
    known: BTreeSet<ObjectKey>,
    doubt: Doubt,
    /// Trouble was told of, and is not over.
    troubled: bool,
    /// The server lacks the kind, and that is believed.
    absent: bool,
    kind: std::marker::PhantomData<T>,
}

/// How a watch ended.
enum Ended {
    /// As was asked, or because the server goes away.
    Done,
    /// Where we were is not to be had any more: list anew.
    Lost(Trouble),
    /// It did not begin.
    Refused(Trouble),
    /// It began, and broke.
    Broke(Trouble),
}

impl<T: Watchable> Follower<T> {
    /// A follower that knows nothing yet.
    pub(super) fn new(line: Arc<Line>, node: Arc<str>, changes: mpsc::Sender<Change>, guards: Guards) -> Self {
        let kind = std::marker::PhantomData;
        Follower {
            line,
            node,
            changes,
            guards,
            seen: None,
            known: BTreeSet::new(),
            doubt: Doubt::default(),
            troubled: false,
            absent: false,
            kind,
        }
    }

    /// Lists and watches until nobody listens.
    pub(super) async fn run(mut self) -> Over {
        let mut lost = 0;
        loop {
            let listed = self.list().await;
            if let Err(over) = self.deliver(listed).await {
                return over;
            }
            let begun = Instant::now();
            if let Err(over) = self.watch().await {
                return over;
            }
            // A server that lists what it cannot watch from is not asked in a ring.
            lost = again(begun, lost).await;
        }
    }

    /// A list that is believed.
    async fn list(&mut self) -> Listed<T> {
        let (mut failures, mut newest) = (0_u32, self.seen.is_none());
        let mut lacked: Option<Instant> = None;
        loop {
            let outcome = match self.ask_list(newest).await {
                Ok(listed) => self.judge(listed, newest).await,
                Err(trouble) => Err(trouble),
            };
            let trouble = match outcome {
                Ok(listed) => {
                    self.doubt.clear();
                    self.well();
                    return listed;
                }
                Err(trouble) => trouble,
            };
            let lacks = T::OPTIONAL && matches!(trouble, Trouble::Refused { code: 403 | 404, .. });
            lacked = lacks.then(|| lacked.unwrap_or_else(Instant::now));
            let patience = self.patience(&trouble);
            if lacked.zip(patience).is_some_and(|(since, patience)| since.elapsed() >= patience) {
                self.be_without(&trouble).await;
            } else {
                self.tell(&trouble);
            }
            newest |= matches!(trouble, Trouble::Expired(_) | Trouble::Doubted(_));
            self.pause(&trouble, failures).await;
            failures += 1;
        }
    }

    /// Whether there is something to lose by believing that there is no such kind.
    fn is_held(&self) -> bool {
        self.seen.is_some() || self.guards.were_there::<T>()
    }

    /// How long a server has to say steadily that it lacks the kind, or keeps it from us, until that is believed; nothing for never.
    fn patience(&self, trouble: &Trouble) -> Option<Duration> {
        match (trouble, self.is_held()) {
            (Trouble::Refused { code: 404, .. }, true) => Some(GONE_AFTER),
            (_, true) => None,
            (Trouble::Refused { code: 403, .. }, false) if T::GUARDS => Some(FORBIDDEN_AFTER),
            (_, false) => Some(Duration::ZERO),
        }
    }

    /// There is no such kind: the others must not wait for what may not exist here, and what there was is gone.
    async fn be_without(&mut self, trouble: &Trouble) {
        let change = if self.is_held() {
            tracing::warn!(kind = T::PLURAL, objects = self.known.len(), "the server has no such kind any more, so there is none of it");
            Change::Replace(T::KIND, Vec::new())
        } else {
            if !self.absent {
                tracing::info!(kind = T::PLURAL, %trouble, "not to be had of this server; it is done without");
            }
            Change::Synced(T::KIND)
        };
        self.seen = None;
        self.known.clear();
        // If nobody listens any more, the next one who tells notices.
        let _ = self.send(change).await;
        self.guards.are_there::<T>(false);
        self.guards.hear::<T>(true);
        (self.absent, self.troubled) = (true, true);
    }

    async fn ask_list(&self, newest: bool) -> Result<Listed<T>, Trouble> {
        let fresh = match &self.seen {
            Some(version) if !newest => Fresh::NotOlderThan(version),
            Some(_) | None => Fresh::Newest,
        };
        let leave = self.line.leave().await;
        let outcome = list::<T>(&self.line, fresh).await;
        leave.done(&outcome);
        outcome
    }

    /// Holds a list against what is known.
    async fn judge(&mut self, listed: Listed<T>, newest: bool) -> Result<Listed<T>, Trouble> {
        let contradiction = self.contradiction(&listed).await?;
        match contradiction {
            None => Ok(listed),
            Some((contradiction, what)) if newest && self.doubt.is_overcome(contradiction) => {
                tracing::warn!(kind = T::PLURAL, what, "the store says so steadily; it is believed");
                Ok(listed)
            }
            Some((_, what)) => Err(Trouble::Doubted(what)),
        }
    }

    async fn contradiction(&self, listed: &Listed<T>) -> Result<Option<(Contradiction, String)>, Trouble> {
        if let Some(seen) = self.seen.as_ref().filter(|seen| listed.version.is_older_than(seen)) {
            let what = format!("version {} of the list is older than {seen}, which was seen before", listed.version);
            return Ok(Some((Contradiction::Older, what)));
        }
        let keys: BTreeSet<ObjectKey> = listed.items.iter().map(Watched::key).collect();
        let own = ObjectKey::new(bowline_compile::world::Kind::Node, "", self.node.clone());
        let stranger = |what: String| Some((Contradiction::Stranger, what));
        if T::KIND == own.kind {
            return Ok(if keys.contains(&own) { None } else { stranger(format!("the cluster has no node {}", self.node)) });
        }
        let gone = self.known.difference(&keys).count();
        if gone == 0 && !keys.is_empty() {
            return Ok(None);
        }
        let leave = self.line.leave().await;
        let knows = knows_node(&self.line, &self.node).await;
        leave.done(&knows);
        let lacks = format!("the list lacks {gone} of {} objects, and the cluster has no node {}", self.known.len(), self.node);
        Ok(if knows? { None } else { stranger(lacks) })
    }

    async fn deliver(&mut self, listed: Listed<T>) -> Result<(), Over> {
        self.known = listed.items.iter().map(Watched::key).collect();
        self.absent = false;
        // Before the world knows of them: who ends in between has not forgotten them.
        self.guards.are_there::<T>(!self.known.is_empty());
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for object in listed.items {
            match object.into_decoded() {
                Ok(object) => good.push(object),
                Err(unreadable) => bad.push(Change::Unreadable(unreadable)),
            }
        }
        tracing::debug!(kind = T::PLURAL, objects = self.known.len(), version = %listed.version, "listed");
        self.seen = Some(listed.version);
        // The list first: it clears what was wrong before, and what is wrong now comes after it.
        self.send(Change::Replace(T::KIND, good)).await?;
        for change in bad {
            self.send(change).await?;
        }
        Ok(())
    }

    /// Watches until the kind has to be listed anew.
    async fn watch(&mut self) -> Result<(), Over> {
        let mut failures = 0_u32;
        loop {
            let begun = Instant::now();
            let ended = self.watch_once().await;
            self.guards.hear::<T>(false);
            let ended = ended?;
            if begun.elapsed() >= LASTED {
                failures = 0;
            }
            match ended {
                Ended::Lost(trouble) => {
                    tracing::info!(kind = T::PLURAL, %trouble, "to be listed anew");
                    return Ok(());
                }
                Ended::Refused(trouble) => {
                    self.tell(&trouble);
                    self.pause(&trouble, failures).await;
                    failures += 1;
                    if failures >= RESUMES && !trouble.is_of_server() {
                        return Ok(());
                    }
                }
                Ended::Broke(trouble) => {
                    self.tell(&trouble);
                    failures = again(begun, failures).await;
                    if failures >= RESUMES && matches!(trouble, Trouble::Unreadable(_)) {
                        return Ok(());
                    }
                }
                Ended::Done if begun.elapsed() >= Duration::from_secs(u64::from(WATCH_SECONDS.start)) => {}
                Ended::Done => failures = again(begun, failures).await,
            }
        }
    }

    async fn watch_once(&mut self) -> Result<Ended, Over> {
        let Some(since) = self.seen.clone() else { return Ok(Ended::Lost(Trouble::Expired("nothing was seen yet".to_owned()))) };
        let seconds = rand::random_range(WATCH_SECONDS);
        let params = WatchParams { timeout: Some(seconds), ..WatchParams::default() };
        let path = Watched::<T>::url_path(&(), None);
        let request = match kube::core::Request::new(path.as_str()).watch(&params, since.as_str()) {
            Ok(request) => request,
            Err(error) => return Ok(Ended::Refused(Trouble::Unreadable(error.to_string()))),
        };
        let leave = self.line.leave().await;
        let outcome = self.line.ask(request).await;
        leave.done(&outcome);
        let mut events = match outcome {
            Ok(answer) => Events::<T>::new(answer.into_body()),
            Err(trouble @ Trouble::Expired(_)) => return Ok(Ended::Lost(trouble)),
            Err(trouble) => return Ok(Ended::Refused(trouble)),
        };
        self.well();
        self.guards.hear::<T>(true);
        let until = Instant::now() + Duration::from_secs(u64::from(seconds)) + SILENCE;
        loop {
            let next = tokio::select! {
                next = events.next() => next,
                () = sleep_until(until) => Err(Trouble::Broken("the server does not end it".to_owned())),
            };
            match next {
                Ok(Some(event)) => {
                    if let Some(ended) = self.take(event).await? {
                        return Ok(ended);
                    }
                }
                Ok(None) => return Ok(Ended::Done),
                Err(trouble) => return Ok(Ended::Broke(trouble)),
            }
        }
    }

    /// Takes one event in; what it says of the watch's end.
    async fn take(&mut self, event: WatchEvent<Watched<T>>) -> Result<Option<Ended>, Over> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                if let Some(ended) = self.advance(object.meta().resource_version.as_deref()) {
                    return Ok(Some(ended));
                }
                self.known.insert(object.key());
                self.guards.are_there::<T>(true);
                self.send(object.into_change()).await?;
            }
            WatchEvent::Deleted(object) => {
                if let Some(ended) = self.advance(object.meta().resource_version.as_deref()) {
                    return Ok(Some(ended));
                }
                self.known.remove(&object.key());
                self.guards.are_there::<T>(!self.known.is_empty());
                self.send(Change::Delete(object.key())).await?;
            }
            WatchEvent::Bookmark(bookmark) => return Ok(self.advance(Some(&bookmark.metadata.resource_version))),
            WatchEvent::Error(status) => {
                let trouble = Trouble::of_event(&status);
                return Ok(Some(if matches!(trouble, Trouble::Expired(_)) { Ended::Lost(trouble) } else { Ended::Broke(trouble) }));
            }
        }
        Ok(None)
    }

    /// Goes on to an event's version; the versions of one store only grow.
    fn advance(&mut self, version: Option<&str>) -> Option<Ended> {
        let Some(version) = version.and_then(Version::new) else {
            return Some(Ended::Lost(Trouble::Expired("an event has no resourceVersion".to_owned())));
        };
        if let Some(seen) = self.seen.as_ref().filter(|seen| version.is_older_than(seen)) {
            return Some(Ended::Lost(Trouble::Expired(format!("an event of version {version} came after {seen}"))));
        }
        self.seen = Some(version);
        None
    }

    /// Waits after a question that failed. What concerns the whole server is paced where all kinds wait together.
    async fn pause(&self, trouble: &Trouble, failures: u32) {
        match trouble {
            trouble if trouble.is_of_server() => {}
            Trouble::Refused { code: 403 | 404, .. } if self.absent => {
                sleep(moment(Duration::from_secs(T::ABSENT_SECONDS))).await;
            }
            Trouble::Doubted(_) | Trouble::Expired(_) => sleep(SHORT_PACE.delay(failures)).await,
            Trouble::Refused { .. } | Trouble::Unreachable(_) | Trouble::Broken(_) | Trouble::Unreadable(_) => {
                sleep(PACE.delay(failures)).await;
            }
        }
    }

    fn tell(&mut self, trouble: &Trouble) {
        // The line tells of the server once for all kinds.
        if trouble.is_of_server() {
            tracing::debug!(kind = T::PLURAL, %trouble, "watch interrupted");
            return;
        }
        if std::mem::replace(&mut self.troubled, true) {
            return;
        }
        tracing::warn!(kind = T::PLURAL, %trouble, "watch interrupted; what is in force stays");
    }

    fn well(&mut self) {
        if std::mem::take(&mut self.troubled) {
            tracing::info!(kind = T::PLURAL, "watch resumed");
        }
    }

    async fn send(&self, change: Change) -> Result<(), Over> {
        self.changes.send(change).await.map_err(|_| Over)
    }
}

/// Waits before a watch that ended before its time is taken up again; how many short ones there were in a row.
async fn again(begun: Instant, failures: u32) -> u32 {
    if begun.elapsed() >= LASTED {
        sleep(moment(SPREAD)).await;
        return 0;
    }
    sleep(SHORT_PACE.delay(failures)).await;
    failures.saturating_add(1)
}
