//! The thread that cuts: it looks over the connections after each change that closes, so that the thread that writes rules never waits
//! for that, however many connections there are. It also hands over to connection tracking what has begun without it.
//!
//! Invariant: work comes here when the rules that it is about are in the kernel, never before: what is cut cannot come up again by the
//! rules of before. Work that waits is done together with what comes after it. The address of a pod that is gone is nobody's until what
//! speaks of it is cut ([`Reaper::uncut`]).

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bowline_kernel::bpf::{Epoch, HandedOver, Which};
use bowline_kernel::conntrack::{ConntrackError, Tuple};
use bowline_model::intent::Intent;
use tokio::sync::watch;

use super::apply::Applied;
use super::reap::{Cut, Work};

/// Pause before work is tried again that failed by chance.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How often the connections that began without the stack are looked over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Names of pods' links.
type Names = BTreeSet<Arc<str>>;

/// The thread's handle. Dropping it ends the thread, when what waits is done.
pub(super) struct Reaper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Option<Work>,
    /// The stack is to be asked again for everything.
    forget: bool,
    /// Work is under way.
    at_work: bool,
    /// Its pods.
    running: Names,
    /// There may be flows that are held.
    holds: bool,
    /// The intent that is in the kernel, or is being written.
    newest: Arc<Intent>,
    stop: bool,
}

/// What the thread does next.
enum Task {
    Cut(Work),
    HandOver(Which),
}

fn advance(epoch: &Epoch) {
    if let Err(error) = epoch.advance() {
        tracing::warn!(%error, "the fast path cannot be told of a change");
    }
}

/// Hands connections over. That it fails is said once, for as long as it does: where there is no room, it is tried every second.
///
/// Gives those that connection tracking was told of; none where it failed, and it may have been told of some.
fn hand_over(epoch: &Epoch, which: Which, refused: &AtomicBool) -> Option<Vec<Tuple>> {
    match epoch.hand_over(which) {
        Ok(HandedOver { told, .. }) => {
            if refused.swap(false, Ordering::Relaxed) {
                tracing::info!("connections that began without the stack are handed over to it again");
            }
            if !told.is_empty() {
                tracing::debug!(told = told.len(), "connections made known to connection tracking");
            }
            Some(told)
        }
        Err(error) if !refused.swap(true, Ordering::Relaxed) => {
            tracing::warn!(%error, "connections that began without the stack cannot be handed over to it");
            None
        }
        Err(_) => None,
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_cutting(&self) -> bool {
        let state = self.lock();
        state.at_work || state.waiting.is_some()
    }

    fn uncut(&self) -> Arc<Names> {
        let state = self.lock();
        Arc::new(state.running.iter().chain(state.waiting.iter().flat_map(Work::pods)).cloned().collect())
    }

    /// Waits for something to do; none at the end. Every so often there is a look over what has begun without the stack.
    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        let since = Instant::now();
        loop {
            if let Some(work) = state.waiting.take() {
                state.at_work = true;
                state.running = work.pods().clone();
                // Part of a cut.
                state.forget = false;
                return Some(Task::Cut(work));
            }
            if state.stop {
                return None;
            }
            if std::mem::take(&mut state.forget) {
                return Some(Task::HandOver(Which::All));
            }
            let left = LOOK_EVERY.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Some(Task::HandOver(Which::Grown));
            }
            state = self.bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The work under way is done; there may be flows that are held, or there are none.
    fn done(&self, holds: bool) {
        let mut state = self.lock();
        state.holds = holds;
        state.at_work = false;
        state.running.clear();
    }

    /// Puts work back in front of what came meanwhile, and waits a little.
    fn again(&self, mut work: Work) {
        let mut state = self.lock();
        if let Some(later) = state.waiting.take() {
            work.join(later);
        }
        state.waiting = Some(work);
        state.at_work = false;
        state.running.clear();
        let calm = self.bell.wait_timeout_while(state, AGAIN_AFTER, |state| !state.stop);
        drop(calm);
    }
}

impl Reaper {
    /// Starts the thread in the network namespace of the caller. Who looks at `applied` is told of pods that are done with.
    ///
    /// What the fast path carries without connection tracking is made known to it for a cut, and a new epoch begins before and after: before, so that
    /// nothing more begins by the rules of before; after, so that nothing is carried that connection tracking knows no longer. To make it known takes
    /// a wait for all processors, and to look over what is known one for the whole table: they go on beside each other, and then what was made known
    /// is looked over by itself.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(applied: watch::Sender<Applied>, epoch: Epoch) -> io::Result<Reaper> {
        let own = epoch.clone();
        let refused = Arc::<AtomicBool>::default();
        let still = refused.clone();
        let cut = move |work: &Work, newest: &dyn Fn() -> Arc<Intent>| {
            advance(&own);
            let (known, told) = std::thread::scope(|scope| {
                let handing = scope.spawn(|| hand_over(&own, Which::All, &refused));
                let known = work.cut(newest);
                advance(&own);
                (known, handing.join().unwrap_or_default())
            });
            let mut done = known?;
            match told.as_deref() {
                Some([]) => return Ok(done),
                Some(told) => done.cut += work.cut_of(told, newest)?,
                // Whatever it was told of is in the table.
                None => {
                    let more = work.cut(newest)?;
                    done = Cut { cut: done.cut + more.cut, let_go: done.let_go + more.let_go, holds: more.holds };
                }
            }
            advance(&own);
            Ok(done)
        };
        Reaper::start_with(applied, cut, move |which| drop(hand_over(&epoch, which, &still)))
    }

    fn start_with<C, H>(applied: watch::Sender<Applied>, mut cut: C, mut hand_over: H) -> io::Result<Reaper>
    where
        C: FnMut(&Work, &dyn Fn() -> Arc<Intent>) -> Result<Cut, ConntrackError> + Send + 'static,
        H: FnMut(Which) + Send + 'static,
    {
        // Those of an agent before.
        let state = State { holds: true, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), bell: Condvar::new() });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("reaper".into()).spawn(move || {
            while let Some(task) = own.next() {
                let work = match task {
                    Task::Cut(work) => work,
                    Task::HandOver(which) => {
                        hand_over(which);
                        continue;
                    }
                };
                // What failed half-way may have begun to hold some.
                let mut holds = true;
                match cut(&work, &|| own.lock().newest.clone()) {
                    Ok(done) => {
                        let Cut { cut, let_go, .. } = done;
                        holds = done.holds;
                        if cut > 0 {
                            tracing::info!(cut, revision = work.revision(), "connections cut that the change no longer allows");
                        }
                        if let_go > 0 {
                            tracing::info!(let_go, revision = work.revision(), "flows let go that the change allows again");
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "connections cannot be looked over after a change");
                        if error.may_retry() && !own.lock().stop {
                            own.again(work);
                            continue;
                        }
                    }
                }
                own.done(holds);
                applied.send_modify(|applied| (applied.uncut, applied.cutting) = (own.uncut(), own.is_cutting()));
            }
        })?;
        Ok(Reaper { shared, thread: Some(thread) })
    }

    /// Has the stack asked for the connections that it does not know, too: routes or links have changed. Does not wait.
    pub(super) fn forget(&self) {
        self.shared.lock().forget = true;
        self.shared.bell.notify_one();
    }

    /// Says what is about to be written. From then on nothing is cut that it allows.
    pub(super) fn expect(&self, newest: &Arc<Intent>) {
        self.shared.lock().newest = newest.clone();
    }

    /// Hands work over whose rules are written. Does not wait.
    pub(super) fn post(&self, work: Option<Work>) {
        let Some(work) = work else { return };
        let mut state = self.shared.lock();
        // What is under way may begin to hold some.
        if work.only_opens() && !state.holds && !state.at_work && state.waiting.is_none() {
            return;
        }
        match &mut state.waiting {
            Some(waiting) => waiting.join(work),
            none => *none = Some(work),
        }
        drop(state);
        self.shared.bell.notify_one();
    }

    /// Whether connections are still to be looked over that a change of before may no longer allow.
    pub(super) fn is_cutting(&self) -> bool {
        self.shared.is_cutting()
    }

    /// Links of pods that are gone, of whose connections some may live on.
    pub(super) fn uncut(&self) -> Arc<Names> {
        self.shared.uncut()
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_model::intent::pods::{PodIntent, PodsIntent};
    use bowline_model::intent::policy::PolicyIntent;
    use bowline_model::{Dual, MacAddr};
    use std::sync::mpsc;

    fn intent(revision: u64, pods: &[(&str, &str)]) -> Arc<Intent> {
        let pod = |(name, ip): &(&str, &str)| {
            let host_ifname: Arc<str> = Arc::from(*name);
            let mac = MacAddr([2, 0, 0, 0, 0, 1]);
            let ips = Dual::first_of([ip.parse().unwrap()]);
            let pod = PodIntent { pod: None, host_ifname: host_ifname.clone(), mac, host_mac: mac, ips, host_ports: Vec::new() };
            (host_ifname, Arc::new(pod))
        };
        let pods = PodsIntent { pods: pods.iter().map(pod).collect() };
        Arc::new(Intent { revision, pods: Arc::new(pods), ..Intent::default() })
    }

    /// A reaper whose every cut says what it is about and then waits for leave.
    struct Stage {
        reaper: Reaper,
        begun: mpsc::Receiver<(u64, Vec<String>, u64)>,
        leave: mpsc::Sender<Result<Cut, ConntrackError>>,
        applied: watch::Receiver<Applied>,
        kernel: watch::Sender<Applied>,
    }

    fn stage() -> Stage {
        let (tell, begun) = mpsc::channel();
        let (leave, wait) = mpsc::channel();
        let (kernel, applied) = watch::channel(Applied::default());
        let cut = move |work: &Work, newest: &dyn Fn() -> Arc<Intent>| {
            let pods = work.pods().iter().map(ToString::to_string).collect();
            tell.send((work.revision(), pods, newest().revision)).unwrap();
            wait.recv().unwrap()
        };
        Stage { reaper: Reaper::start_with(kernel.clone(), cut, |_| {}).unwrap(), begun, leave, applied, kernel }
    }

    impl Stage {
        /// What the kernel thread does with an intent.
        fn write(&self, old: &Arc<Intent>, new: &Arc<Intent>) {
            self.reaper.expect(new);
            self.reaper.post(Work::between(old, new, false));
            self.kernel.send_modify(|applied| {
                applied.intent = new.clone();
                (applied.uncut, applied.cutting) = (self.reaper.uncut(), self.reaper.is_cutting());
            });
        }

        fn begun(&self) -> (u64, Vec<String>, u64) {
            self.begun.recv_timeout(Duration::from_secs(10)).unwrap()
        }

        fn is_let_go(&self, name: &str) -> bool {
            self.applied.borrow().lets_go_of(name)
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nobody_waits_for_a_cut_but_the_address_of_the_pod_that_is_gone() {
        let stage = stage();
        let all =
            [intent(1, &[("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")]), intent(2, &[("b", "10.0.0.2"), ("c", "10.0.0.3")])];
        let [first, second] = &all;
        let (third, fourth) = (intent(3, &[("c", "10.0.0.3")]), intent(4, &[]));
        stage.write(first, second);
        assert_eq!(stage.begun(), (2, names(&["a"]), 2));
        // The cut goes on; rules are written all the while, and what they ask for waits and is done in one.
        stage.write(second, &third);
        stage.write(&third, &fourth);
        assert!(!stage.is_let_go("a") && !stage.is_let_go("b") && !stage.is_let_go("c"));
        stage.leave.send(Ok(Cut { cut: 1, ..Cut::default() })).unwrap();
        assert_eq!(stage.begun(), (4, names(&["b", "c"]), 4));
        assert!(stage.is_let_go("a") && !stage.is_let_go("b"), "the first cut is done, the second is not");
        assert!(stage.applied.borrow().cutting, "what waits is not done");
        stage.leave.send(Ok(Cut::default())).unwrap();
        drop(stage.reaper);
        assert!(!stage.applied.borrow().cutting);
        assert!(stage.applied.borrow().lets_go_of("b") && stage.applied.borrow().lets_go_of("c"));
    }

    #[test]
    fn what_failed_by_chance_is_done_again_with_what_came_after_it() {
        let stage = stage();
        let (first, second, third) = (intent(1, &[("a", "10.0.0.1"), ("b", "10.0.0.2")]), intent(2, &[("b", "10.0.0.2")]), intent(3, &[]));
        stage.write(&first, &second);
        assert_eq!(stage.begun(), (2, names(&["a"]), 2));
        stage.write(&second, &third);
        stage.leave.send(Err(ConntrackError::Socket { operation: "list", source: io::Error::other("full") })).unwrap();
        assert_eq!(stage.begun(), (3, names(&["a", "b"]), 3));
        assert!(!stage.is_let_go("a"));
        let refused = ConntrackError::Refused { operation: "list", errno: 1 };
        stage.leave.send(Err(refused)).unwrap();
        drop(stage.reaper);
        assert!(stage.applied.borrow().lets_go_of("a"), "a kernel that never answers does not keep addresses for ever");
    }

    #[test]
    fn a_change_that_opens_is_looked_at_only_where_flows_may_be_held() {
        let with = |revision: u64, links: &[&str]| {
            let pods = links.iter().map(|link| (Arc::from(*link), Arc::default())).collect();
            let policy = Arc::new(PolicyIntent { pods, ..PolicyIntent::default() });
            Arc::new(Intent { revision, policy, ..Intent::default() })
        };
        let stage = stage();
        let intents: Vec<_> =
            [&[][..], &["a"], &["a", "b"], &["a", "b", "c"]].iter().zip(1..).map(|(links, revision)| with(revision, links)).collect();
        let [first, second, third, fourth] = intents.as_slice() else { panic!("four of them") };
        stage.write(first, second);
        assert_eq!(stage.begun().0, 2, "an agent before may have held some");
        stage.write(second, third);
        stage.leave.send(Ok(Cut { holds: false, ..Cut::default() })).unwrap();
        assert_eq!(stage.begun().0, 3, "the look that was under way may have begun to hold some");
        stage.leave.send(Ok(Cut { holds: false, ..Cut::default() })).unwrap();
        let mut applied = stage.applied.clone();
        while applied.borrow_and_update().cutting {
            while !applied.has_changed().unwrap() {
                std::thread::yield_now();
            }
        }
        stage.write(third, fourth);
        assert!(!stage.reaper.is_cutting(), "none is held");
        stage.write(fourth, third);
        assert_eq!(stage.begun().0, 3);
        stage.leave.send(Ok(Cut { holds: true, ..Cut::default() })).unwrap();
        while stage.reaper.is_cutting() {
            std::thread::yield_now();
        }
        stage.write(third, fourth);
        assert_eq!(stage.begun().0, 4, "one may be let go");
        stage.leave.send(Ok(Cut::default())).unwrap();
    }

    #[test]
    fn a_change_that_only_adds_is_no_work() {
        let (first, second) = (intent(1, &[("a", "10.0.0.1")]), intent(2, &[("a", "10.0.0.1"), ("b", "10.0.0.2")]));
        assert!(Work::between(&first, &second, false).is_none());
        assert!(Work::between(&second, &first, false).is_some());
        assert!(Work::between(&first, &second, true).is_some(), "rules had to be repaired");
        assert!(Work::between(&Intent::default(), &first, false).is_some(), "nothing is known of before");
    }
}
