//! Who may reach whom: exposures, reply grants, session grants and relay pairs, denied by default.
//!
//! A pure value: the node holds one, tells it of flows that open and close, and asks it before
//! anything from outside reaches a worker or another peer. It never hands out more than was put in,
//! and it never dials.
//!
//! Specification: docs/protocol.md §1.3.

use core::net::IpAddr;
use core::str::FromStr;
use core::time::Duration;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use foldhash::fast::RandomState;

use crate::address::{Address, AddressError, AddressRef, Kind};
use crate::flow::FlowId;

/// Seeded per process; keys come from this node alone, so that a fast hash is enough.
type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;
type HashSet<K> = std::collections::HashSet<K, RandomState>;

/// How long a reply grant outlives its last use.
pub const GRANT_LIFETIME: Duration = Duration::from_secs(60);
/// How long a relay's pair outlives the last message either way.
pub const PAIR_LIFETIME: Duration = Duration::from_secs(60);
/// Most reply grants at once; at the limit expired ones go, and without any a send is refused.
const GRANTS_MAX: usize = 65_536;
/// Most flows a session address is reachable by.
const SESSION_SCOPES_MAX: usize = 4;
/// Denials and error reports a flow may cause per second, and at once.
const DENIALS_PER_SECOND: u32 = 10_000;

/// What kind of ingress a flow is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FlowKind {
    /// A listener or connection; nobody is authenticated.
    Transport,
    /// The inside of a secure channel.
    Channel,
}

/// Why a message may be delivered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Allowed {
    /// The address itself may be reached.
    Address,
    /// The address is a reply grant for this worker.
    Grant(Address),
}

/// Policy does not let this flow reach the address. Says no more on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("refused by policy")]
pub struct Denied;

/// The rules and live state of reachability. Times are from any fixed point of a steady clock.
#[derive(Debug, Default)]
pub struct Reach {
    flows: HashMap<FlowId, Flow>,
    /// Which flow the connection worker of this number leads to.
    egresses: HashMap<u128, FlowId>,
    grants: HashMap<u128, Grant>,
    granted: HashMap<(FlowId, Address), u128>,
    sessions: HashMap<u128, Vec<FlowId>>,
    pairs: HashMap<(FlowId, FlowId), Pair>,
    secure_only: HashSet<Address>,
}

#[derive(Debug)]
struct Flow {
    kind: FlowKind,
    parent: Option<FlowId>,
    exposed: HashSet<Address>,
    dial: Vec<DialRule>,
    hop_errors: bool,
    egress: Option<u128>,
    denials: Bucket,
}

#[derive(Debug)]
struct Grant {
    flow: FlowId,
    worker: Address,
    expires: Duration,
}

/// Messages from one flow may leave by another's egress.
#[derive(Debug)]
struct Pair {
    /// `None` while both flows live; else until this time, moved on by every message either way.
    expires: Option<Duration>,
}

impl Pair {
    /// Whether the pair lasts for seven eighths of its lifetime from `now` on.
    fn outlasts(&self, now: Duration) -> bool {
        self.expires.is_none_or(|expires| expires >= now.saturating_add(PAIR_LIFETIME - PAIR_LIFETIME / 8))
    }
}

impl Reach {
    /// Registers a flow; what `parent` exposes and may dial holds for it too.
    pub fn open_flow(&mut self, id: FlowId, kind: FlowKind, parent: Option<FlowId>) {
        let flow = Flow {
            kind,
            parent,
            exposed: HashSet::default(),
            dial: Vec::new(),
            hop_errors: false,
            egress: None,
            denials: Bucket::full(),
        };
        self.flows.insert(id, flow);
    }

    /// Names the worker through which messages leave to the peer of flow `id`.
    pub fn set_egress(&mut self, id: FlowId, worker: u128) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.egress = Some(worker);
            self.egresses.insert(worker, id);
        }
    }

    /// Forgets a flow with its grants and pairs.
    pub fn close_flow(&mut self, id: FlowId) {
        if let Some(egress) = self.flows.remove(&id).and_then(|flow| flow.egress) {
            self.egresses.remove(&egress);
        }
        self.grants.retain(|_, grant| grant.flow != id);
        self.granted.retain(|(flow, _), _| *flow != id);
        self.pairs.retain(|(from, to), _| *from != id && *to != id);
    }

    /// Lets messages of a flow, and of those it is the parent of, reach `worker`.
    ///
    /// # Errors
    /// [`Denied`] when the worker is `secure_only` and the flow a transport's, or no such flow exists.
    pub fn expose(&mut self, id: FlowId, worker: &Address) -> Result<(), Denied> {
        let secure_only = self.secure_only.contains(worker);
        let flow = self.flows.get_mut(&id).ok_or(Denied)?;
        if secure_only && flow.kind == FlowKind::Transport {
            return Err(Denied);
        }
        flow.exposed.insert(worker.clone());
        Ok(())
    }

    /// Takes an exposure back.
    pub fn unexpose(&mut self, id: FlowId, worker: &Address) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.exposed.remove(worker);
        }
    }

    /// What a flow exposes, without its parent's exposures.
    pub fn exposed(&self, id: FlowId) -> impl Iterator<Item = &Address> {
        self.flows.get(&id).into_iter().flat_map(|flow| &flow.exposed)
    }

    /// Declares that `worker` answers only inside secure channels.
    ///
    /// # Errors
    /// [`Denied`] when a transport flow already exposes it.
    pub fn secure_only(&mut self, worker: &Address) -> Result<(), Denied> {
        let open = |flow: &Flow| flow.kind == FlowKind::Transport && flow.exposed.contains(worker);
        if self.flows.values().any(open) {
            return Err(Denied);
        }
        self.secure_only.insert(worker.clone());
        Ok(())
    }

    /// Lets messages of a flow name endpoints that this node then dials.
    pub fn allow_dial(&mut self, id: FlowId, rule: DialRule) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.dial.push(rule);
        }
    }

    /// The rule by which a message of flow `id` may have `endpoint` dialled; the local flow needs none.
    #[must_use]
    pub fn dial_rule(&self, id: FlowId, endpoint: AddressRef<'_>) -> Option<&DialRule> {
        self.lineage(id).flat_map(|flow| &flow.dial).find(|rule| rule.matches(endpoint))
    }

    /// Says whether errors on this flow are reported to its peer; by default only channels hear them.
    pub fn set_hop_errors(&mut self, id: FlowId, on: bool) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.hop_errors = on;
        }
    }

    /// Pairs two flows both ways for as long as both live: configured, or dialled by a matching rule.
    pub fn pair(&mut self, one: FlowId, other: FlowId) {
        self.pairs.insert((one, other), Pair { expires: None });
        self.pairs.insert((other, one), Pair { expires: None });
    }

    /// As [`Reach::pair`], for a message of `one` that was dialled through to `other` by way of `hops`:
    /// answers may pass the same hops back.
    pub fn pair_by_way_of<'a>(
        &mut self,
        one: FlowId,
        other: FlowId,
        hops: impl Iterator<Item = AddressRef<'a>>,
    ) {
        self.pair(one, other);
        if let Some(flow) = self.flows.get_mut(&other) {
            flow.exposed.extend(hops.map(AddressRef::to_owned));
        }
    }

    /// Whether a flow itself exposes an address.
    #[must_use]
    pub fn exposes(&self, id: FlowId, worker: AddressRef<'_>) -> bool {
        self.flows.get(&id).is_some_and(|flow| flow.exposed.contains(worker.encoded()))
    }

    /// Pairs for a relay: what comes by `from` may leave by `to` until [`PAIR_LIFETIME`] after `now`.
    pub fn pair_one_way(&mut self, from: FlowId, to: FlowId, now: Duration) {
        let pair = self.pairs.entry((from, to)).or_insert(Pair { expires: Some(now) });
        if let Some(expires) = &mut pair.expires {
            *expires = now.saturating_add(PAIR_LIFETIME);
        }
    }

    /// Whether messages of `from` may leave by `to` for most of a pair's lifetime yet.
    #[must_use]
    pub fn pair_is_fresh(&self, from: FlowId, to: FlowId, now: Duration) -> bool {
        self.pairs.get(&(from, to)).is_some_and(|pair| pair.outlasts(now))
    }

    /// Whether a message of `flow` may reach `address` now.
    ///
    /// # Errors
    /// [`Denied`] unless one of the rules (a) to (d) of docs/protocol.md §1.3 holds.
    pub fn check(&self, flow: FlowId, address: AddressRef<'_>, now: Duration) -> Result<Allowed, Denied> {
        if flow.is_local() {
            return Ok(Allowed::Address);
        }
        let Some(id) = address.random_id() else {
            let exposed =
                self.lineage(flow).any(|flow| flow.exposed.iter().any(|worker| worker.as_ref() == address));
            return if exposed { Ok(Allowed::Address) } else { Err(Denied) };
        };
        if let Some(to) = self.egresses.get(&id) {
            let live = |pair: &Pair| pair.expires.is_none_or(|expires| now < expires);
            return if self.pairs.get(&(flow, *to)).is_some_and(live) {
                Ok(Allowed::Address)
            } else {
                Err(Denied)
            };
        }
        if let Some(scopes) = self.sessions.get(&id) {
            let parent = self.flows.get(&flow).and_then(|flow| flow.parent);
            let inside = scopes.iter().any(|scope| *scope == flow || Some(*scope) == parent);
            return if inside { Ok(Allowed::Address) } else { Err(Denied) };
        }
        match self.grants.get(&id) {
            Some(grant) if grant.flow == flow && now < grant.expires => {
                Ok(Allowed::Grant(grant.worker.clone()))
            }
            _ => Err(Denied),
        }
    }

    /// The pair lifetime of a message that passed [`Reach::check`] to an egress moves on.
    ///
    /// Cheap to call: `true` says that [`Reach::touch_pair`] is worth taking a lock for.
    #[must_use]
    pub fn pair_wants_touch(&self, flow: FlowId, egress: u128, now: Duration) -> bool {
        self.egresses
            .get(&egress)
            .and_then(|to| self.pairs.get(&(flow, *to)))
            .is_some_and(|pair| !pair.outlasts(now))
    }

    /// Moves the end of a relay's pair on to [`PAIR_LIFETIME`] after `now`.
    pub fn touch_pair(&mut self, flow: FlowId, egress: u128, now: Duration) {
        if let Some(to) = self.egresses.get(&egress).copied() {
            self.pair_one_way(flow, to, now);
        }
    }

    /// The grant by which `flow` already reaches `worker`, if it lasts most of its lifetime yet.
    #[must_use]
    pub fn existing_grant(&self, flow: FlowId, worker: &Address, now: Duration) -> Option<u128> {
        let id = *self.granted.get(&(flow, worker.clone()))?;
        let grant = self.grants.get(&id)?;
        (grant.expires >= now.saturating_add(GRANT_LIFETIME - GRANT_LIFETIME / 8)).then_some(id)
    }

    /// Grants `flow` alone the right to answer `worker`, under the random number `fresh` or the one
    /// granted before, until [`GRANT_LIFETIME`] after `now`. Returns the number.
    ///
    /// # Errors
    /// [`Denied`] for a `secure_only` worker on a transport flow, an unknown flow, and at the limit.
    pub fn grant(
        &mut self,
        flow: FlowId,
        worker: &Address,
        fresh: u128,
        now: Duration,
    ) -> Result<u128, Denied> {
        let kind = self.flows.get(&flow).ok_or(Denied)?.kind;
        if kind == FlowKind::Transport && self.secure_only.contains(worker) {
            return Err(Denied);
        }
        let expires = now.saturating_add(GRANT_LIFETIME);
        let key = (flow, worker.clone());
        if let Some((id, grant)) = self.granted.get(&key).and_then(|id| Some((*id, self.grants.get_mut(id)?)))
            && now < grant.expires
        {
            grant.expires = expires;
            return Ok(id);
        }
        if self.grants.len() >= GRANTS_MAX {
            self.purge(now);
            if self.grants.len() >= GRANTS_MAX {
                return Err(Denied);
            }
        }
        if let Some(old) = self.granted.insert(key, fresh) {
            self.grants.remove(&old);
        }
        self.grants.insert(fresh, Grant { flow, worker: worker.clone(), expires });
        Ok(fresh)
    }

    /// Ends every grant for `worker`, because it stopped.
    pub fn revoke(&mut self, worker: &Address) {
        self.grants.retain(|_, grant| grant.worker != *worker);
        self.granted.retain(|(_, granted), _| granted != worker);
    }

    /// Drops what has expired.
    pub fn purge(&mut self, now: Duration) {
        self.grants.retain(|_, grant| now < grant.expires);
        let Self { grants, granted, .. } = self;
        granted.retain(|_, id| grants.contains_key(id));
        self.pairs.retain(|_, pair| pair.expires.is_none_or(|expires| now < expires));
    }

    /// Registers a channel's session address; flows are added by [`Reach::admit_session`].
    pub fn open_session(&mut self, session: u128) {
        self.sessions.entry(session).or_default();
    }

    /// Lets a session be reached by `flow`'s listener, or by `flow` alone if it was dialled.
    /// Says whether the number is a session's at all.
    pub fn admit_session(&mut self, session: u128, flow: FlowId) -> bool {
        let scope = self.flows.get(&flow).and_then(|flow| flow.parent).unwrap_or(flow);
        let Some(scopes) = self.sessions.get_mut(&session) else { return false };
        if !scopes.contains(&scope) {
            if scopes.len() == SESSION_SCOPES_MAX {
                scopes.remove(0);
            }
            scopes.push(scope);
        }
        true
    }

    /// Whether the number is a session's, and `flow` may already reach it.
    #[must_use]
    pub fn session_admits(&self, session: u128, flow: FlowId) -> Option<bool> {
        let scopes = self.sessions.get(&session)?;
        let parent = self.flows.get(&flow).and_then(|flow| flow.parent);
        Some(scopes.iter().any(|scope| *scope == flow || Some(*scope) == parent))
    }

    /// Ends a session's reachability.
    pub fn close_session(&mut self, session: u128) {
        self.sessions.remove(&session);
    }

    /// Whether a denial or an error on `flow` may be reported to its peer now, and in what detail.
    ///
    /// `None`: say nothing. `Some(false)`: say only "refused". `Some(true)`: say what happened.
    pub fn may_report(&mut self, flow: FlowId, now: Duration) -> Option<bool> {
        if flow.is_local() {
            return Some(true);
        }
        let told = self.lineage(flow).any(|flow| flow.hop_errors);
        let flow = self.flows.get_mut(&flow)?;
        if !flow.denials.take(now) {
            return None;
        }
        match flow.kind {
            FlowKind::Channel => Some(true),
            FlowKind::Transport if told => Some(false),
            FlowKind::Transport => None,
        }
    }

    /// A hash of every rule and right, for tests: a refused message must leave it as it was. How many denials a flow
    /// may still cause is not in it.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        let Self { flows, egresses, grants, granted, sessions, pairs, secure_only } = self;
        let flows = flows.iter().map(|(id, flow)| {
            let Flow { kind, parent, exposed, dial, hop_errors, egress, denials: _ } = flow;
            format!("{id:?} {kind:?} {parent:?} {exposed:?} {dial:?} {hop_errors} {egress:?}")
        });
        let mut lines: Vec<String> = flows
            .chain(egresses.iter().map(|entry| format!("{entry:?}")))
            .chain(grants.iter().map(|entry| format!("{entry:?}")))
            .chain(granted.iter().map(|entry| format!("{entry:?}")))
            .chain(sessions.iter().map(|entry| format!("{entry:?}")))
            .chain(pairs.iter().map(|entry| format!("{entry:?}")))
            .chain(secure_only.iter().map(|worker| format!("{worker:?}")))
            .collect();
        lines.sort_unstable();
        let mut hasher = DefaultHasher::new();
        lines.hash(&mut hasher);
        hasher.finish()
    }

    /// A flow and the flow it inherits from.
    fn lineage(&self, id: FlowId) -> impl Iterator<Item = &Flow> {
        let flow = self.flows.get(&id);
        let parent = flow.and_then(|flow| flow.parent).and_then(|parent| self.flows.get(&parent));
        flow.into_iter().chain(parent)
    }
}

/// A token bucket of [`DENIALS_PER_SECOND`].
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    filled: Duration,
}

impl Bucket {
    fn full() -> Self {
        Self { tokens: DENIALS_PER_SECOND, filled: Duration::ZERO }
    }

    fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled);
        let earned = passed.as_micros().saturating_mul(DENIALS_PER_SECOND.into()) / 1_000_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(DENIALS_PER_SECOND);
            self.filled = now;
        }
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }
}

/// Which endpoints messages of a flow may have dialled: `tcp:HOST:PORT`, where HOST may be `*` or
/// `*.suffix` and PORT may be `*`, or `queue:NAME/MAILBOX`, where MAILBOX may be `*`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DialRule {
    kind: Kind,
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Host {
    Named(String),
    Suffix(String),
    Any,
    /// All mailboxes of a queue.
    Mailboxes(String),
}

impl DialRule {
    /// Whether the rule covers an endpoint by name.
    #[must_use]
    pub fn matches(&self, endpoint: AddressRef<'_>) -> bool {
        if endpoint.kind() != self.kind {
            return false;
        }
        let Some((host, port)) = endpoint.value().rsplit_once(':') else {
            return match &self.host {
                Host::Named(name) => name == endpoint.value(),
                Host::Mailboxes(queue) => {
                    endpoint.value().split_once('/').is_some_and(|(name, _)| name == queue)
                }
                Host::Suffix(_) | Host::Any => false,
            };
        };
        let host_matches = match &self.host {
            Host::Named(name) => name == host,
            Host::Suffix(suffix) => host.ends_with(suffix.as_str()) && host.len() > suffix.len(),
            Host::Any => true,
            Host::Mailboxes(_) => false,
        };
        host_matches && self.port.is_none_or(|wanted| port.parse() == Ok(wanted))
    }

    /// Whether an address that the endpoint's name resolved to may be dialled.
    ///
    /// Loopback, link-local and private addresses only where the rule names the host itself, since a
    /// foreign name may resolve to anything.
    #[must_use]
    pub fn permits(&self, resolved: IpAddr) -> bool {
        let named_address = matches!(&self.host, Host::Named(name)
            if name == "localhost" || name.trim_matches(['[', ']']).parse() == Ok(resolved));
        named_address || is_global(resolved)
    }
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || shared
                || a == 0)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_global(v4.into()),
            None => {
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || v6.is_unique_local()
                    || v6.is_unicast_link_local())
            }
        },
    }
}

impl FromStr for DialRule {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (kind, rest) = text.split_once(':').ok_or(AddressError::Host)?;
        let kind = match kind {
            "tcp" => Kind::Tcp,
            "udp" => Kind::Udp,
            "unix" => {
                let address = Address::from_parts(Kind::Unix, rest)?;
                return Ok(Self {
                    kind: Kind::Unix,
                    host: Host::Named(address.value().to_owned()),
                    port: None,
                });
            }
            "queue" => {
                // Any mailbox stands for all of them, so the grammar of addresses checks the name.
                let name = rest.strip_suffix("/*");
                let probe = name.map_or_else(|| rest.to_owned(), |name| format!("{name}/{}", "a".repeat(32)));
                let address = Address::from_parts(Kind::Queue, &probe)?;
                let host = match name {
                    Some(name) => Host::Mailboxes(name.to_owned()),
                    None => Host::Named(address.value().to_owned()),
                };
                return Ok(Self { kind: Kind::Queue, host, port: None });
            }
            _ => return Err(AddressError::Host),
        };
        let (host, port) = rest.rsplit_once(':').ok_or(AddressError::Port)?;
        // Wildcards stand for a label and a port, so the grammar of addresses checks the rest.
        let (probe_host, parsed) = match host.strip_prefix('*') {
            Some("") => ("any".to_owned(), Host::Any),
            Some(suffix) => (format!("any{suffix}"), Host::Suffix(suffix.to_owned())),
            None => (host.to_owned(), Host::Named(host.to_owned())),
        };
        let probe_port = if port == "*" { "1" } else { port };
        Address::from_parts(kind, &format!("{probe_host}:{probe_port}"))?;
        Ok(Self { kind, host: parsed, port: port.parse().ok() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);
    const LISTENER: FlowId = flow(1);
    const ONE: FlowId = flow(2);
    const TWO: FlowId = flow(3);

    const fn flow(n: u8) -> FlowId {
        FlowId::from_number(n as u128)
    }

    fn name(text: &str) -> Address {
        text.parse().unwrap()
    }

    /// A listener with two connections and their egress workers 20 and 30.
    fn reach() -> Reach {
        let mut reach = Reach::default();
        reach.open_flow(LISTENER, FlowKind::Transport, None);
        for (id, egress) in [(ONE, 20), (TWO, 30)] {
            reach.open_flow(id, FlowKind::Transport, Some(LISTENER));
            reach.set_egress(id, egress);
        }
        reach
    }

    #[test]
    fn n1_2_nothing_is_reachable_unless_exposed() {
        let mut reach = reach();
        let bank = name("bank");
        assert_eq!(reach.check(FlowId::LOCAL, bank.as_ref(), NOW), Ok(Allowed::Address));
        assert_eq!(reach.check(ONE, bank.as_ref(), NOW), Err(Denied));
        reach.expose(LISTENER, &bank).unwrap();
        assert_eq!(reach.check(ONE, bank.as_ref(), NOW), Ok(Allowed::Address));
        reach.unexpose(LISTENER, &bank);
        assert_eq!(reach.check(ONE, bank.as_ref(), NOW), Err(Denied));
        assert_eq!(reach.check(flow(9), bank.as_ref(), NOW), Err(Denied), "an unknown flow reaches nothing");
    }

    #[test]
    fn n1_6_a_grant_serves_one_flow_until_it_expires() {
        let mut reach = reach();
        let bank = name("bank");
        assert_eq!(reach.grant(ONE, &bank, 7, NOW), Ok(7));
        let address = Address::random(7);
        assert_eq!(reach.check(ONE, address.as_ref(), NOW), Ok(Allowed::Grant(bank.clone())));
        assert_eq!(reach.check(TWO, address.as_ref(), NOW), Err(Denied), "other flow");
        assert_eq!(reach.check(ONE, bank.as_ref(), NOW), Err(Denied), "the worker's name stays closed");
        assert_eq!(reach.check(ONE, Address::random(8).as_ref(), NOW), Err(Denied), "wrong number");
        let later = NOW + GRANT_LIFETIME - Duration::from_secs(1);
        assert_eq!(reach.grant(ONE, &bank, 9, later), Ok(7), "a stream keeps its address");
        assert!(reach.check(ONE, address.as_ref(), NOW + GRANT_LIFETIME).is_ok());
        assert_eq!(reach.check(ONE, address.as_ref(), later + GRANT_LIFETIME), Err(Denied), "expired");
        reach.revoke(&bank);
        assert_eq!(reach.check(ONE, address.as_ref(), NOW), Err(Denied), "the worker stopped");
    }

    #[test]
    fn n1_6_a_secure_only_worker_stays_off_transports() {
        let mut reach = reach();
        let pin = name("pin");
        reach.secure_only(&pin).unwrap();
        assert_eq!(reach.expose(LISTENER, &pin), Err(Denied));
        assert_eq!(reach.grant(ONE, &pin, 7, NOW), Err(Denied));
        let channel = flow(5);
        reach.open_flow(channel, FlowKind::Channel, None);
        assert_eq!(reach.expose(channel, &pin), Ok(()));
        assert_eq!(reach.grant(channel, &pin, 7, NOW), Ok(7));
        reach.expose(LISTENER, &name("open")).unwrap();
        assert_eq!(reach.secure_only(&name("open")), Err(Denied));
    }

    #[test]
    fn n1_7_a_peer_reaches_another_peer_only_by_a_pair() {
        let mut reach = reach();
        let to_two = Address::random(30);
        assert_eq!(reach.check(ONE, to_two.as_ref(), NOW), Err(Denied));
        reach.pair(ONE, TWO);
        assert!(reach.check(ONE, to_two.as_ref(), NOW).is_ok());
        assert!(reach.check(TWO, Address::random(20).as_ref(), NOW).is_ok());
        let third = flow(6);
        reach.open_flow(third, FlowKind::Transport, Some(LISTENER));
        assert_eq!(reach.check(third, to_two.as_ref(), NOW), Err(Denied), "a third peer has no share in it");
        reach.close_flow(ONE);
        reach.open_flow(ONE, FlowKind::Transport, Some(LISTENER));
        assert_eq!(reach.check(ONE, to_two.as_ref(), NOW), Err(Denied), "the pair ended with its flow");
    }

    #[test]
    fn answers_to_a_dialled_message_pass_the_hops_it_passed() {
        let mut reach = reach();
        let hop = name("hop");
        reach.pair_by_way_of(ONE, TWO, [hop.as_ref()].into_iter());
        assert!(reach.exposes(TWO, hop.as_ref()) && !reach.exposes(ONE, hop.as_ref()));
        assert!(
            reach.check(TWO, hop.as_ref(), NOW).is_ok()
                && reach.check(TWO, Address::random(20).as_ref(), NOW).is_ok()
        );
        assert_eq!(reach.check(TWO, name("bank").as_ref(), NOW), Err(Denied));
    }

    #[test]
    fn a_relays_pair_lasts_as_long_as_it_is_used() {
        let mut reach = reach();
        let back = Address::random(20);
        reach.pair_one_way(TWO, ONE, NOW);
        assert!(reach.check(TWO, back.as_ref(), NOW).is_ok());
        assert_eq!(reach.check(ONE, Address::random(30).as_ref(), NOW), Err(Denied), "one way only");
        let later = NOW + PAIR_LIFETIME / 2;
        assert!(reach.pair_wants_touch(TWO, 20, later) && !reach.pair_wants_touch(TWO, 20, NOW));
        reach.touch_pair(TWO, 20, later);
        assert!(reach.check(TWO, back.as_ref(), NOW + PAIR_LIFETIME).is_ok());
        assert_eq!(reach.check(TWO, back.as_ref(), later + PAIR_LIFETIME), Err(Denied));
    }

    #[test]
    fn n1_4_dial_rules_match_names_and_guard_what_they_resolve_to() {
        let rule = |text: &str| text.parse::<DialRule>().unwrap();
        let matches = |rule: &DialRule, text: &str| rule.matches(name(text).as_ref());
        assert!(matches(&rule("tcp:a.example:1"), "tcp:a.example:1"));
        assert!(!matches(&rule("tcp:a.example:1"), "tcp:a.example:2"));
        assert!(!matches(&rule("tcp:a.example:1"), "udp:a.example:1"));
        assert!(matches(&rule("tcp:*.example:*"), "tcp:b.example:9"));
        assert!(!matches(&rule("tcp:*.example:*"), "tcp:badexample:9"));
        assert!(matches(&rule("unix:control"), "unix:control"));
        let loopback = IpAddr::from([127, 0, 0, 1]);
        for private in [
            [127, 0, 0, 1],
            [10, 1, 1, 1],
            [192, 168, 0, 1],
            [169, 254, 169, 254],
            [100, 64, 0, 1],
            [0, 0, 0, 0],
        ] {
            assert!(!rule("tcp:*:*").permits(private.into()));
            assert!(!rule("tcp:a.example:1").permits(private.into()), "a name may resolve to anything");
        }
        assert!(!rule("tcp:*:*").permits("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!rule("tcp:*:*").permits("fd00::1".parse().unwrap()));
        assert!(rule("tcp:127.0.0.1:22").permits(loopback) && rule("tcp:*:*").permits([9, 9, 9, 9].into()));
        assert!("tcp:A:1".parse::<DialRule>().is_err() && "ftp:a:1".parse::<DialRule>().is_err());
        let (one, other) =
            (format!("queue:cards/{}", "a".repeat(32)), format!("queue:cards/{}", "b".repeat(32)));
        let (all, exact) = (rule("queue:cards/*"), rule(&one));
        assert!(matches(&all, &one) && matches(&all, &other) && matches(&exact, &one));
        assert!(!matches(&exact, &other) && !matches(&all, &one.replace("cards", "others")));
        for wrong in ["queue:cards", "queue:*", "queue:*/*", "queue:cards/b", "queue:/*"] {
            assert!(wrong.parse::<DialRule>().is_err(), "{wrong}");
        }
        let mut reach = reach();
        let ssh = name("tcp:127.0.0.1:22");
        assert!(reach.dial_rule(ONE, ssh.as_ref()).is_none());
        reach.allow_dial(LISTENER, rule("tcp:127.0.0.1:22"));
        assert!(reach.dial_rule(ONE, ssh.as_ref()).is_some());
    }

    #[test]
    fn a_session_is_reached_by_the_listener_its_handshake_came_by() {
        let mut reach = reach();
        reach.open_session(50);
        let session = Address::random(50);
        assert_eq!(reach.check(ONE, session.as_ref(), NOW), Err(Denied));
        assert!(reach.admit_session(50, ONE));
        assert!(reach.check(TWO, session.as_ref(), NOW).is_ok(), "same listener");
        let dialled = flow(8);
        reach.open_flow(dialled, FlowKind::Transport, None);
        assert_eq!(reach.check(dialled, session.as_ref(), NOW), Err(Denied));
        reach.close_session(50);
        assert_eq!(reach.check(ONE, session.as_ref(), NOW), Err(Denied));
        assert!(!reach.admit_session(50, ONE));
    }

    #[test]
    fn reports_are_rationed_and_say_little_on_transports() {
        let mut reach = reach();
        assert_eq!(reach.may_report(FlowId::LOCAL, NOW), Some(true));
        assert_eq!(reach.may_report(ONE, NOW), None);
        reach.set_hop_errors(LISTENER, true);
        let told = (0..DENIALS_PER_SECOND * 2).filter(|_| reach.may_report(ONE, NOW).is_some()).count();
        assert_eq!(told, DENIALS_PER_SECOND as usize - 1, "one went before they were reported");
        assert_eq!(reach.may_report(ONE, NOW + Duration::from_secs(1)), Some(false));
        let channel = flow(5);
        reach.open_flow(channel, FlowKind::Channel, None);
        assert_eq!(reach.may_report(channel, NOW), Some(true));
    }
}
