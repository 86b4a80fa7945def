//! A channel as its users see it: one address, one flow and one peer, whichever session carries it.
//!
//! A session ends by age; the line goes on. It moves to the next session only when that one is ready at both ends,
//! and the one before still opens what was under way for a while. It seals and opens nothing itself, and never
//! decides whether a session may take its place: the handshake has proved that, or the line was lost.
//!
//! Specification: docs/protocol.md §3.4.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use onward_channels::identity::{Identifier, IdentityError, KnownHistories, Trust, VerifiedPeer};
use onward_channels::{CloseCode, HandshakeId, Mode, Predecessor};
use onward_routing::{Address, FlowId, Route};

use crate::channel::{Accepting, ChannelOptions};
use crate::identity::Identity;
use crate::secure::{Session, Tick};

/// Replaced sessions of one line that drain at once, however fast a peer begins others; the oldest gives way.
const DRAINING_MAX: usize = 8;

/// A channel over sessions that follow each other.
pub(crate) struct Line {
    /// Which channel of the node; its encryptor's number.
    pub(crate) id: u128,
    pub(crate) peer: Identifier,
    pub(crate) flow: FlowId,
    pub(crate) encryptor: Address,
    /// How this end opened it, so that it can again; `None` if the peer did.
    pub(crate) intent: Option<Intent>,
    /// Whom it accepts.
    trust: Arc<Trust>,
    state: Mutex<State>,
}

/// What this end opened a channel with.
pub(crate) struct Intent {
    pub(crate) identity: Identity,
    pub(crate) route: Route,
    pub(crate) trust: Arc<Trust>,
    pub(crate) options: ChannelOptions,
    /// The mode of handshakes for the next sessions: after a resumption, whose ticket is spent, that of the channel
    /// which was resumed.
    pub(crate) renewal_mode: Mode,
}

/// A handshake for a line's next session, under way as long as this lives.
pub(crate) struct Renewal(Arc<Line>);

impl Renewal {
    pub(crate) fn line(&self) -> &Arc<Line> {
        &self.0
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.state().renewing = false;
    }
}

/// A session with what ends together with it.
#[derive(Clone)]
pub(crate) struct Carrier {
    pub(crate) session: Arc<Session>,
    /// The listener that accepted it, which counts it until it ends.
    pub(crate) accepted: Option<(Arc<Accepting>, HandshakeId)>,
}

struct State {
    /// What the peer has shown in its last handshake.
    shown: Box<VerifiedPeer>,
    /// How many handshakes of the node had taught histories when that was last checked.
    checked: u64,
    /// What leaves is sealed by it.
    current: Carrier,
    /// Ready, but its peer has not used it yet.
    next: Option<Carrier>,
    /// Replaced; each opens what was under way until its time.
    draining: Vec<(Carrier, Duration)>,
    /// A handshake for the next session runs.
    renewing: bool,
    /// When the current session was found lost, and when the next attempt to replace it may begin.
    lost: Option<(Duration, Duration)>,
    /// How often another session took over.
    moves: u64,
    closed: bool,
}

/// What became of a session offered to a line.
pub(crate) enum Offered {
    /// It carries the line now. Of the sessions that drain, this one had to give way.
    Moved(Option<Carrier>),
    /// The line was closed meanwhile: forget the session.
    Closed,
}

impl Line {
    pub(crate) fn new(
        id: u128,
        shown: VerifiedPeer,
        flow: FlowId,
        intent: Option<Intent>,
        trust: Arc<Trust>,
        current: Carrier,
    ) -> Arc<Self> {
        let peer = shown.identifier();
        let state = State {
            shown: Box::new(shown),
            checked: 0,
            current,
            next: None,
            draining: Vec::new(),
            renewing: false,
            lost: None,
            moves: 0,
            closed: false,
        };
        let encryptor = Address::random(id);
        Arc::new(Self { id, peer, flow, encryptor, intent, trust, state: Mutex::new(state) })
    }

    /// The session that seals what leaves.
    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.state().current.session)
    }

    pub(crate) fn moves(&self) -> u64 {
        self.state().moves
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// What a peer needs to replace the session with this `hs_id`, if this listener accepted it and the peer uses it:
    /// the current one or, where this end has not noticed yet, the next.
    pub(crate) fn predecessor(&self, accepting: &Arc<Accepting>, hs_id: &[u8; 32]) -> Option<Predecessor> {
        let state = self.state();
        let carriers = std::iter::once(&state.current).chain(&state.next);
        let is_it = |carrier: &&Carrier| {
            let by_it = carrier.accepted.as_ref().is_some_and(|(by, _)| Arc::ptr_eq(by, accepting));
            by_it && carrier.session.is(hs_id)
        };
        carriers.into_iter().find(is_it)?.session.predecessor()
    }

    /// The peer has proved its identity anew.
    pub(crate) fn show(&self, shown: VerifiedPeer) {
        *self.state().shown = shown;
    }

    /// Checks again what time, or one of the `learned` histories, may have ended of what the peer has shown.
    ///
    /// # Errors
    /// Why the peer is not accepted any more.
    pub(crate) fn check_again(
        &self,
        unix: u64,
        learned: u64,
        known: &RwLock<KnownHistories>,
    ) -> Result<(), IdentityError> {
        let mut state = self.state();
        if state.checked == learned && unix < state.shown.valid_until() {
            return Ok(());
        }
        state.checked = learned;
        let known = known.read().unwrap_or_else(PoisonError::into_inner);
        state.shown.check_again(unix, &self.trust, &known)
    }

    /// A handshake that may begin now, unless one is under way.
    pub(crate) fn begin_renewal(self: &Arc<Self>) -> Option<Renewal> {
        let mut state = self.state();
        let begins = !state.closed && !state.renewing;
        state.renewing |= begins;
        begins.then(|| Renewal(Arc::clone(self)))
    }

    /// Whether a lost session is tried to be replaced at `now`: every `again`, for no longer than `patience`.
    pub(crate) fn tries_again(&self, now: Duration, again: Duration, patience: Duration) -> Option<bool> {
        let mut state = self.state();
        let (since, next) = *state.lost.get_or_insert((now, now));
        if now.saturating_sub(since) >= patience {
            return None;
        }
        if now < next {
            return Some(false);
        }
        state.lost = Some((since, now + again));
        Some(true)
    }

    /// Keeps a session that both ends have proved to be the next, until the peer uses it.
    pub(crate) fn expect(&self, next: Carrier) -> Option<Carrier> {
        let mut state = self.state();
        if state.closed { Some(next) } else { state.next.replace(next) }
    }

    /// The next session, once the peer has used it, or has replaced it again.
    pub(crate) fn take_used(&self, replaced: Option<&[u8; 32]>) -> Option<Carrier> {
        let is_used = |next: &mut Carrier| {
            next.session.was_used() || replaced.is_some_and(|hs_id| next.session.is(hs_id))
        };
        self.state().next.take_if(is_used)
    }

    /// The next session, if its own `tick` says that it is over: its peer never used it.
    pub(crate) fn take_expired(
        &self,
        tick: impl FnOnce(&Arc<Session>) -> Option<Tick>,
    ) -> Option<(Carrier, CloseCode)> {
        let next = Arc::clone(&self.state().next.as_ref()?.session);
        // Not under the lock: what the session has to send may come back to this line.
        let Some(Tick::Close(code) | Tick::Ended(code)) = tick(&next) else { return None };
        let is_it = |carrier: &mut Carrier| Arc::ptr_eq(&carrier.session, &next);
        Some((self.state().next.take_if(is_it)?, code))
    }

    /// Moves to another session; the one before drains until `until`.
    pub(crate) fn move_to(&self, carrier: Carrier, until: Duration) -> Offered {
        let mut state = self.state();
        if state.closed {
            return Offered::Closed;
        }
        let left = std::mem::replace(&mut state.current, carrier);
        left.session.replace();
        state.draining.push((left, until));
        state.lost = None;
        state.moves += 1;
        let too_many = state.draining.len() > DRAINING_MAX;
        Offered::Moved(too_many.then(|| state.draining.remove(0).0))
    }

    /// Whether the peer may not know yet that the line has moved.
    pub(crate) fn is_unheard(&self) -> bool {
        let state = self.state();
        !state.draining.is_empty() && !state.current.session.was_used()
    }

    /// Takes out the sessions whose time to drain is over.
    pub(crate) fn drained(&self, now: Duration) -> Vec<Carrier> {
        let is_over = |(carrier, until): &mut (Carrier, Duration)| now >= *until || carrier.session.is_over();
        self.state().draining.extract_if(.., is_over).map(|(carrier, _)| carrier).collect()
    }

    /// Closes the line for good and hands out all its sessions, the current one first; empty if it was closed.
    pub(crate) fn close(&self) -> Vec<Carrier> {
        let mut state = self.state();
        if std::mem::replace(&mut state.closed, true) {
            return Vec::new();
        }
        let draining = std::mem::take(&mut state.draining);
        let next = state.next.take();
        let current = state.current.clone();
        std::iter::once(current).chain(next).chain(draining.into_iter().map(|(carrier, _)| carrier)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a channel that its peer closed with this code may be opened again by this end: the peer lost or outlived
/// it, or wants to see newer credentials.
pub(crate) fn may_return(code: CloseCode) -> bool {
    matches!(
        code,
        CloseCode::Idle
            | CloseCode::Lifetime
            | CloseCode::Internal
            | CloseCode::Credential
            | CloseCode::Shutdown
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use onward_keys::{
        Answer, KeyId, KeyInfo, KeyUsage, PublicHalf, SharedSecret, Signature, SignatureType, SoftwareVault,
        Vault,
    };

    use super::*;
    use crate::channel::Peer;
    use crate::limits::Limits;
    use crate::node::Node;

    /// A vault in which one agreement panics, counted from 1.
    #[derive(Debug)]
    struct Fragile {
        whole: SoftwareVault,
        agreements: AtomicUsize,
        breaks_at: usize,
    }

    impl Vault for Fragile {
        fn generate(&self, usage: KeyUsage) -> Answer<'_, KeyId> {
            self.whole.generate(usage)
        }

        fn public(&self, key: KeyId) -> Answer<'_, PublicHalf> {
            self.whole.public(key)
        }

        fn sign<'a>(&'a self, key: KeyId, kind: SignatureType, body: &'a [u8]) -> Answer<'a, Signature> {
            self.whole.sign(key, kind, body)
        }

        fn agree<'a>(&'a self, key: KeyId, peer: &'a [u8; 32]) -> Answer<'a, SharedSecret> {
            let number = self.agreements.fetch_add(1, Ordering::Relaxed) + 1;
            assert_ne!(number, self.breaks_at, "broken on purpose");
            self.whole.agree(key, peer)
        }

        fn list(&self) -> Answer<'_, Vec<KeyInfo>> {
            self.whole.list()
        }

        fn delete(&self, key: KeyId) -> Answer<'_, ()> {
            self.whole.delete(key)
        }

        fn protection(&self) -> &str {
            self.whole.protection()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_handshake_that_panics_is_not_the_last_of_its_line_and_keeps_no_place() {
        // Both ends are here, and each handshake takes an agreement of the responder and then one of the initiator.
        for breaks_at in [3, 4] {
            let mut limits = Limits::default();
            let profile = &mut limits.channels.profile;
            (profile.soft_age, profile.renew_again) = (Duration::from_secs(1), Duration::from_secs(1));
            profile.handshake = Duration::from_secs(3);
            let whole = SoftwareVault::ephemeral();
            let vault = Arc::new(Fragile { whole, agreements: AtomicUsize::new(0), breaks_at });
            let node = Node::builder("n").limits(limits).vault(vault).start().await.unwrap();
            let alice = node.create_identity().await.unwrap();
            let bob = node.create_identity().await.unwrap();
            let trust = Trust::pinned([alice.identifier()]);
            let listener = node.accept_channels("bank", &bob, trust).unwrap();
            let peer = Peer::Identity(bob.identifier());
            let channel = node.open_channel(&alice, "bank".parse().unwrap(), peer).await.unwrap();
            let began = Instant::now();
            while channel.renewals() == 0 {
                assert!(began.elapsed() < Duration::from_secs(30), "never again after {breaks_at}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            while listener.half_open() > 0 {
                assert!(began.elapsed() < Duration::from_secs(60), "its place is not free after {breaks_at}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
