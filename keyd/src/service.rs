//! The service as a value: who may do what, the store, and the record of it; no socket, no clock.
//!
//! Every operation passes three gates in this order: the state (locked or not), the policy or an operator's proof,
//! and the key's usage. What fails is told as one status, without saying which key exists; every use of a key, and
//! every refused one, is noted in the audit log.
//!
//! Specification: docs/protocol.md §7.2.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use onward_channels::ok2cry::cache::Moment;
use onward_keys::arena::{Arena, Secret};
use onward_keys::audit::{Event, Log, Note};
use onward_keys::general::request::GeneralCall;
use onward_keys::service::{
    Call, CallKind, FRAME_BYTES_MAX, KeyMeta, KeyState, NewKey, Outcome, Refusal, ServiceState,
};
use onward_keys::store::{Cost, Sealed, Store};
use onward_keys::{KeyError, KeyId, KeyUsage, Label, SignatureType, StoreError, private};
use rustix::time::ClockId;

use crate::cache::ServiceCache;
use crate::keys::change;
use crate::log::{self, AUDIT_NAMES, LogFiles};
use crate::operations::{self, Subject};
use crate::policy::{Client, Policy, Rule, Wish};
use crate::protocol_keys;
use crate::rates::{Guesses, Rate};

/// The label of the key that signs the heads of the audit log. Nobody else may use a key of this label.
pub const AUDIT_LABEL: &str = "onward-keyd/audit";

/// Bytes of a request, at most: the longest body to sign with room for the rest.
pub const REQUEST_BYTES_MAX: usize = 66_000;

/// Refused uses noted in a second, at most: a client that is refused must not fill the disk.
pub const REFUSALS_NOTED: u32 = 100;

/// A point in time: Unix milliseconds for what is written down, and the clock that never steps for rates.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Milliseconds of Unix time.
    pub unix_ms: u64,
    /// A clock that only goes forward.
    pub steady: Instant,
    /// How long the machine has run, sleep included.
    pub boot: Duration,
}

impl Now {
    /// What the clocks say.
    #[must_use]
    pub fn read() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let boot = rustix::time::clock_gettime(ClockId::Boottime);
        let boot = Duration::new(boot.tv_sec.unsigned_abs(), boot.tv_nsec.unsigned_abs() as u32);
        Self { unix_ms: unix.as_millis() as u64, steady: Instant::now(), boot }
    }

    /// The clocks of the key cache.
    #[must_use]
    pub fn moment(self) -> Moment {
        Moment { boot: self.boot, unix_ms: self.unix_ms }
    }

    pub(crate) fn seconds(self) -> u64 {
        self.unix_ms / 1000
    }

    fn hour(self) -> u8 {
        (self.seconds() / 3600 % 24) as u8
    }
}

/// Who asks on a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// As the kernel knows it.
    pub client: Client,
    /// In which unlocked period the passphrase was shown on this connection, if it was.
    pub operator: Option<u64>,
}

/// Where the service's keys, policy and log are, and what it asks of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory of the store and the log: exists, mode 0700.
    pub directory: PathBuf,
    /// The policy file.
    pub policy: PathBuf,
    /// What a guess at the passphrase of a new store costs.
    pub cost: Cost,
    /// The user the service runs as.
    pub uid: u32,
}

/// The key service.
pub struct Service {
    settings: Settings,
    arena: Arena,
    policy: Policy,
    state: State,
    /// Counts unlocked periods: an operator's proof ends with its period.
    period: u64,
    rates: HashMap<(u16, KeyId), Rate>,
    refusals: Rate,
    guesses: Guesses,
    answered: u64,
    protection: Vec<String>,
}

enum State {
    /// There is no store yet.
    Empty,
    Locked(Box<Sealed>),
    Unlocked(Box<Unlocked>),
}

struct Unlocked {
    store: Store,
    log: Log<LogFiles>,
    /// Gives keys and users their names in the log.
    log_key: Secret,
    cache: ServiceCache,
}

impl Unlocked {
    fn note(&mut self, now: Now, note: &Note) {
        self.log.note(now.unix_ms, &note.entry(self.log_key.as_bytes()));
    }
}

impl Service {
    /// Reads the store and the policy; the store stays locked.
    ///
    /// # Errors
    /// [`KeyError`] of the store. A policy that cannot be read denies everything and is reported by
    /// [`Service::reload`].
    pub fn open(settings: Settings, arena: Arena, policy: Policy) -> Result<Self, KeyError> {
        let state = match Sealed::read(&settings.directory)? {
            Some(sealed) => State::Locked(Box::new(sealed)),
            None => State::Empty,
        };
        Ok(Self {
            settings,
            arena,
            policy,
            state,
            period: 0,
            rates: HashMap::new(),
            refusals: Rate::default(),
            guesses: Guesses::default(),
            answered: 0,
            protection: Vec::new(),
        })
    }

    /// Says what the process is protected by, for whoever asks for the state.
    pub fn set_protection(&mut self, lines: Vec<String>) {
        self.protection = lines;
    }

    /// Whether secrets are in memory.
    #[must_use]
    pub fn is_unlocked(&self) -> bool {
        matches!(self.state, State::Unlocked(_))
    }

    /// Does what `caller` asks, or says why not.
    pub fn answer(&mut self, now: Now, caller: &mut Caller, call: &Call<'_>) -> Result<Outcome, Refusal> {
        self.answered += 1;
        match *call {
            Call::Status => return Ok(Outcome::State(self.status())),
            Call::Unlock { passphrase, create } => {
                return self.unlock(now, caller, passphrase, create).map(|()| Outcome::Done);
            }
            Call::ChangePassphrase { passphrase, next } => {
                return self.change_passphrase(now, caller, passphrase, next).map(|()| Outcome::Done);
            }
            Call::Lock => {
                self.operates(caller)?;
                return self.lock(now).map(|()| Outcome::Done);
            }
            Call::Reload => {
                self.operates(caller)?;
                return self.reload().map(|()| Outcome::Done);
            }
            Call::List => return Ok(Outcome::Keys(self.list(now, caller))),
            Call::Public(key) => return self.public(now, caller, key).map(Outcome::Key),
            Call::Cache(request) => {
                let outcome = self.ask_cache(now, caller, request);
                if outcome.is_err() {
                    self.note(now, caller, call, 0, &outcome);
                }
                return outcome;
            }
            _ => {}
        }
        let State::Unlocked(_) = &self.state else {
            return Err(Refusal::Locked);
        };
        let (rule, outcome) = self.operate(now, caller, call);
        self.note(now, caller, call, rule, &outcome);
        outcome
    }

    /// Writes down what was noted since the last call, and a signed head where one is due.
    ///
    /// # Errors
    /// Of the system. What was answered is then not on record, and the caller locks the service.
    pub fn record(&mut self, now: Now) -> std::io::Result<()> {
        let State::Unlocked(unlocked) = &mut self.state else {
            return Ok(());
        };
        let Unlocked { store, log, cache, log_key: _ } = &mut **unlocked;
        let sign = |body: &[u8]| {
            let key = store.keys().find(|key| is_audit_key(&key.meta))?;
            Some(private::sign(key.secret.as_ref()?.as_bytes(), SignatureType::AuditSth, body))
        };
        log.write(now.unix_ms, now.boot, sign)?;
        cache.write(now, sign)
    }

    /// Ends what is over in the key cache, a little of it, and says when to come again.
    pub fn tick(&mut self, now: Now) -> Option<Duration> {
        match &mut self.state {
            State::Unlocked(unlocked) => unlocked.cache.tick(now),
            _ => None,
        }
    }

    /// Bytes of a request of `client`, at most.
    #[must_use]
    pub fn request_bytes_max(&self, now: Now, client: &Client) -> usize {
        // What was sealed to a disposable key may be longer than anything else.
        let uses_cache = self.policy.decide_cache(client, now.hour()).is_some();
        if uses_cache { FRAME_BYTES_MAX } else { REQUEST_BYTES_MAX }
    }

    /// Wipes every secret; what waits to be written is written.
    ///
    /// # Errors
    /// [`Refusal::Locked`] when it is locked already; [`Refusal::Backend`] when the store cannot be read again: the
    /// secrets are gone all the same.
    pub fn lock(&mut self, now: Now) -> Result<(), Refusal> {
        let State::Unlocked(unlocked) = &mut self.state else {
            return Err(Refusal::Locked);
        };
        let note =
            Note { event: Event::Stop, call: CallKind::Lock, key: None, rule: 0, user: self.settings.uid };
        unlocked.note(now, &note);
        unlocked.log.end();
        unlocked.cache.end(now);
        let recorded = self.record(now);
        self.rates.clear();
        let State::Unlocked(unlocked) = std::mem::replace(&mut self.state, State::Empty) else {
            return Err(Refusal::Locked);
        };
        self.state = State::Locked(Box::new(unlocked.store.lock().map_err(|_| Refusal::Backend)?));
        recorded.map_err(|_| Refusal::Backend)
    }

    /// Reads the policy again; a file that cannot be read leaves the rules as they are.
    ///
    /// # Errors
    /// [`Refusal::Backend`].
    pub fn reload(&mut self) -> Result<(), Refusal> {
        self.policy = crate::files::read_policy(&self.settings).map_err(|_| Refusal::Backend)?;
        // Rates belong to rules by their numbers.
        self.rates.clear();
        Ok(())
    }

    /// Whether any rule asks for a client's program.
    #[must_use]
    pub fn looks_at_programs(&self) -> bool {
        self.policy.looks_at_programs()
    }

    fn status(&self) -> ServiceState {
        let keys = self.metas().filter(|meta| meta.state != KeyState::Destroyed).count();
        ServiceState {
            unlocked: self.is_unlocked(),
            keys: keys as u32,
            rules: self.policy.len() as u32,
            clients: 0,
            answered: self.answered,
            protection: self.protection.clone(),
        }
    }

    fn metas(&self) -> Box<dyn Iterator<Item = &KeyMeta> + '_> {
        match &self.state {
            State::Empty => Box::new(std::iter::empty()),
            State::Locked(sealed) => Box::new(sealed.keys()),
            State::Unlocked(unlocked) => Box::new(unlocked.store.keys().map(|key| &key.meta)),
        }
    }

    fn meta(&self, key: KeyId) -> Option<&KeyMeta> {
        match &self.state {
            State::Unlocked(unlocked) => unlocked.store.key(key).map(|key| &key.meta),
            _ => self.metas().find(|meta| meta.id == key),
        }
    }

    fn is_operator(&self, caller: &Caller) -> bool {
        self.is_unlocked() && caller.operator == Some(self.period)
    }

    /// Whether the caller may lock and reload: the users who may show the passphrase.
    fn operates(&self, caller: &Caller) -> Result<(), Refusal> {
        let uid = caller.client.uid;
        let may = uid == 0 || uid == self.settings.uid || self.policy.may_operate(uid);
        if may { Ok(()) } else { Err(Refusal::Denied) }
    }

    fn unlock(
        &mut self,
        now: Now,
        caller: &mut Caller,
        passphrase: &[u8],
        create: bool,
    ) -> Result<(), Refusal> {
        self.operates(caller)?;
        self.guesses.check(now.steady)?;
        let opened = match &self.state {
            State::Unlocked(unlocked) => unlocked.store.check(passphrase).map(|()| None),
            State::Locked(sealed) => sealed.unlock(passphrase, &self.arena).map(Some),
            State::Empty if create => {
                let Settings { directory, cost, .. } = &self.settings;
                Store::create(directory, passphrase, *cost, &self.arena).map(Some)
            }
            State::Empty => return Err(Refusal::Locked),
        };
        match opened {
            Ok(opened) => {
                self.guesses = Guesses::default();
                if let Some(store) = opened {
                    self.begin(now, caller, store)?;
                }
                caller.operator = Some(self.period);
                Ok(())
            }
            Err(KeyError::Store { source: StoreError::WrongPassphrase, .. }) => {
                self.guesses.wrong(now.steady);
                Err(Refusal::Denied)
            }
            Err(_) => Err(Refusal::Backend),
        }
    }

    /// Takes another passphrase from whoever shows the present one.
    fn change_passphrase(
        &mut self,
        now: Now,
        caller: &mut Caller,
        passphrase: &[u8],
        next: &[u8],
    ) -> Result<(), Refusal> {
        if !self.is_unlocked() {
            return Err(Refusal::Locked);
        }
        self.unlock(now, caller, passphrase, false)?;
        let State::Unlocked(unlocked) = &mut self.state else {
            return Err(Refusal::Locked);
        };
        unlocked.store.change_passphrase(next).map_err(|_| Refusal::Backend)
    }

    /// Begins an unlocked period: the log goes on where it ended.
    fn begin(&mut self, now: Now, caller: &Caller, mut store: Store) -> Result<(), Refusal> {
        let known = store.keys().find(|key| is_audit_key(&key.meta)).map(|key| key.meta.public.clone());
        let signer = match known {
            Some(signer) => signer,
            None => {
                let new = NewKey {
                    usage: KeyUsage::AuditSigning,
                    label: AUDIT_LABEL,
                    expires: None,
                    extractable: false,
                };
                protocol_keys::generate(&mut store, now, self.settings.uid, &new)?.public
            }
        };
        let signer = <[u8; 32]>::try_from(signer).map_err(|_| Refusal::Backend)?;
        let log_key = store.derive(&Label::new("audit/log")).map_err(|_| Refusal::Backend)?;
        let directory = &self.settings.directory;
        let log = LogFiles::open(directory, AUDIT_NAMES, log_key.as_bytes(), |_| ())
            .and_then(|log| log::write_signer(directory, &signer).map(|()| log))
            .map_err(|_| Refusal::Backend)?;
        let cache_key = store.derive(&Label::new("cache/log")).map_err(|_| Refusal::Backend)?;
        let cache = ServiceCache::begin(now, directory, &self.arena, cache_key, signer);
        let cache = cache.map_err(|_| Refusal::Backend)?;
        let user = caller.client.uid;
        let mut unlocked = Unlocked { store, log, log_key, cache };
        unlocked.note(now, &Note { event: Event::Start, call: CallKind::Unlock, key: None, rule: 0, user });
        self.state = State::Unlocked(Box::new(unlocked));
        self.period += 1;
        Ok(())
    }

    fn list(&self, now: Now, caller: &Caller) -> Vec<KeyMeta> {
        let operator = self.is_operator(caller);
        let may = |meta: &&KeyMeta| {
            let wish = wish(now, CallKind::List, meta, None);
            operator || (!is_audit_key(meta) && self.policy.decide(&caller.client, &wish).is_some())
        };
        self.metas().filter(may).cloned().collect()
    }

    fn public(&self, now: Now, caller: &Caller, key: KeyId) -> Result<KeyMeta, Refusal> {
        let meta = self.meta(key).ok_or(Refusal::Denied)?;
        let wish = wish(now, CallKind::Public, meta, None);
        let may = self.is_operator(caller) || self.policy.decide(&caller.client, &wish).is_some();
        if may { Ok(meta.clone()) } else { Err(Refusal::Denied) }
    }

    fn ask_cache(&mut self, now: Now, caller: &Caller, request: &[u8]) -> Result<Outcome, Refusal> {
        let rule = self.policy.decide_cache(&caller.client, now.hour()).cloned();
        if rule.is_none() {
            self.operates(caller)?;
        }
        let State::Unlocked(unlocked) = &mut self.state else {
            return Err(Refusal::Locked);
        };
        unlocked.cache.answer(now, caller.client.uid, rule.as_ref(), request).map(Outcome::Bytes)
    }

    /// What needs the store open. Answers with the number of the rule that decided, 0 for none.
    fn operate(&mut self, now: Now, caller: &Caller, call: &Call<'_>) -> (u16, Result<Outcome, Refusal>) {
        let permit = match self.permit(now, caller, call) {
            Ok(permit) => permit,
            Err(refusal) => return (0, Err(refusal)),
        };
        let State::Unlocked(unlocked) = &mut self.state else {
            return (0, Err(Refusal::Locked));
        };
        let store = &mut unlocked.store;
        let user = caller.client.uid;
        let outcome = match *call {
            Call::Generate(ref new) => match new.usage.general() {
                Some(general) => operations::generate(store, now, &permit, user, new, general),
                None => protocol_keys::generate(store, now, user, new),
            }
            .map(Outcome::Key),
            Call::Import { key: ref new, id, secret } => match new.usage.general() {
                Some(general) => operations::insert(store, now, user, new, general, id, secret),
                None => protocol_keys::import(store, now, user, new, id, secret),
            }
            .map(Outcome::Key),
            Call::General(ref call) => operations::operate(store, now, user, call),
            Call::Sign { key, kind, body } => protocol_keys::sign(store, now, &permit, key, kind, body),
            Call::Attest { key, body } => protocol_keys::attest(store, now, &permit, key, body),
            Call::Agree { key, peer } => protocol_keys::agree(store, now, &permit, key, peer),
            Call::Destroy(key) => change(store.destroy(key)),
            Call::Disable(key) => change(store.set_active(key, false)),
            Call::Enable(key) => protocol_keys::enable(store, key),
            _ => Err(Refusal::BadArguments),
        };
        (permit.rule, outcome)
    }

    /// Asks the policy, unless the caller has shown the passphrase, and counts the use against the rule's rate.
    fn permit(&mut self, now: Now, caller: &Caller, call: &Call<'_>) -> Result<Permit, Refusal> {
        let operator = self.is_operator(caller);
        let subjects = operations::subjects(call, |key| self.meta(key)).ok_or(Refusal::Denied)?;
        // The log's own key signs the log and nothing else, whoever asks.
        if subjects.iter().any(|subject| subject.label == AUDIT_LABEL) {
            return Err(Refusal::Denied);
        }
        if operator {
            return Ok(Permit::OPERATOR);
        }
        let kind = if let Call::Sign { kind, .. } = call { Some(*kind) } else { None };
        let decide = |subject: &Subject| {
            let Subject { label, usage, .. } = subject;
            let wish = Wish { call: call.kind(), label, usage: *usage, kind, hour: now.hour() };
            self.policy.decide(&caller.client, &wish).map(|decided| (subject.id, decided))
        };
        let decided = subjects.iter().map(decide).collect::<Option<Vec<_>>>();
        // The key that does it is the one whose uses are counted.
        let (id, (number, rule)) = decided.and_then(|all| all.into_iter().next()).ok_or(Refusal::Denied)?;
        let permit = Permit::of(number, rule);
        let rate = self.rates.entry((number, id)).or_default();
        if rate.take(now.steady, rule.rate) { Ok(permit) } else { Err(Refusal::Rate) }
    }

    fn note(
        &mut self,
        now: Now,
        caller: &Caller,
        call: &Call<'_>,
        rule: u16,
        outcome: &Result<Outcome, Refusal>,
    ) {
        let (event, key) = match outcome {
            Ok(Outcome::Key(meta)) => (Event::Created, Some(meta.id)),
            Ok(_) if call.kind() == CallKind::Destroy => (Event::Destroyed, named_key(call)),
            Ok(_) => (Event::Used, named_key(call)),
            Err(_) if self.refusals.take(now.steady, REFUSALS_NOTED) => (Event::FailedUse, named_key(call)),
            Err(_) => return,
        };
        if let State::Unlocked(unlocked) = &mut self.state {
            unlocked.note(now, &Note { event, call: call.kind(), key, rule, user: caller.client.uid });
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("unlocked", &self.is_unlocked()).finish_non_exhaustive()
    }
}

/// What the deciding rule allows beyond the operation itself.
pub(crate) struct Permit {
    rule: u16,
    /// It is no rule's: the passphrase was shown.
    pub(crate) operator: bool,
    pub(crate) attest_seconds: u64,
    pub(crate) agree_with_own: bool,
}

impl Permit {
    const OPERATOR: Self = Self { rule: 0, operator: true, attest_seconds: u64::MAX, agree_with_own: true };

    fn of(number: u16, rule: &Rule) -> Self {
        Self {
            rule: number,
            operator: false,
            attest_seconds: rule.attest_seconds,
            agree_with_own: rule.agree_with_own,
        }
    }
}

fn is_audit_key(meta: &KeyMeta) -> bool {
    meta.label == AUDIT_LABEL && meta.state == KeyState::Active
}

fn wish<'a>(now: Now, call: CallKind, meta: &'a KeyMeta, kind: Option<SignatureType>) -> Wish<'a> {
    Wish { call, label: &meta.label, usage: Some(meta.usage), kind, hour: now.hour() }
}

pub(crate) fn named_key(call: &Call<'_>) -> Option<KeyId> {
    match *call {
        Call::General(ref call) => call.key(),
        Call::Public(key)
        | Call::Sign { key, .. }
        | Call::Attest { key, .. }
        | Call::Agree { key, .. }
        | Call::Destroy(key)
        | Call::Disable(key)
        | Call::Enable(key) => Some(key),
        _ => None,
    }
}

pub(crate) fn new_key<'a>(call: &'a Call<'a>) -> Option<&'a NewKey<'a>> {
    match call {
        Call::General(GeneralCall::Unwrap { new, .. }) => Some(new),
        Call::Generate(new) | Call::Import { key: new, .. } => Some(new),
        _ => None,
    }
}
