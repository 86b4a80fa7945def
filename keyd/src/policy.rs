//! The policy: which client may do what with which key, and how often. What no rule allows is denied.
//!
//! Rules are tried in their order; the first that names the client, the key and the operation decides, with its
//! limits. A key that is to be made is matched by the label and usage that it will have.
//!
//! Nothing here can widen what a key's usage allows, and nothing here looks at a passphrase.
//!
//! Specification: docs/protocol.md §7.2.

use std::fmt::Write as _;

use onward_channels::ok2cry::cache::Quota;
use onward_keys::service::CallKind;
use onward_keys::{KeyUsage, SignatureType};
use serde::Deserialize;

/// Operations a second with one key under one rule, where the rule says nothing else.
pub const RATE_DEFAULT: u32 = 200;

/// How long an attestation may last, where the rule says nothing else: 30 days, in seconds.
pub const ATTEST_SECONDS_DEFAULT: u64 = 30 * 24 * 3600;

/// Rules of a policy, at most.
pub const RULES_MAX: usize = 1024;

/// Who asks, as the kernel knows it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Client {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// SHA-256 of the program's file; `None` if it was not looked at or could not be.
    pub exe: Option<[u8; 32]>,
}

/// What is asked for, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The operation.
    pub call: CallKind,
    /// The key's label.
    pub label: &'a str,
    /// What the key is for; nothing where there is no key: a rule that names usages is not for that.
    pub usage: Option<KeyUsage>,
    /// What is to be signed, for [`CallKind::Sign`].
    pub kind: Option<SignatureType>,
    /// Hour of the day, UTC.
    pub hour: u8,
}

/// The rules, in their order.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    cache: Vec<CacheRule>,
    operators: Vec<u32>,
}

/// One rule. What it does not name, it does not ask for; operations it has to name.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, for people.
    pub name: String,
    who: Who,
    labels: Vec<String>,
    usages: Vec<KeyUsage>,
    calls: Vec<CallKind>,
    types: Vec<SignatureType>,
    /// Operations a second with one key.
    pub rate: u32,
    /// How long an attestation may last, in seconds.
    pub attest_seconds: u64,
    /// Whether a key may agree with a public key that belongs to this store.
    pub agree_with_own: bool,
}

/// A rule for the key cache: who may use it, and what each user may have there.
#[derive(Clone, Debug)]
pub struct CacheRule {
    /// Its name, for people.
    pub name: String,
    who: Who,
    /// What each user may have.
    pub quota: Quota,
    /// Whether they may take private keys out that allow it.
    pub take: bool,
}

/// Whom a rule is for, and when.
#[derive(Clone, Debug)]
struct Who {
    uids: Vec<u32>,
    gids: Vec<u32>,
    exes: Vec<[u8; 32]>,
    hours: Option<(u8, u8)>,
}

impl Who {
    /// Why it is not for `client`; `None` if it is.
    fn objection(&self, client: &Client) -> Option<&'static str> {
        let names = |list: &[u32], number| list.is_empty() || list.contains(&number);
        if !names(&self.uids, client.uid) {
            return Some("is for other users");
        }
        if !names(&self.gids, client.gid) {
            return Some("is for other groups");
        }
        if !self.exes.is_empty() && !client.exe.is_some_and(|exe| self.exes.contains(&exe)) {
            return Some("is for other programs");
        }
        None
    }

    /// Why it is not for this hour; `None` if it is.
    fn objection_to_hour(&self, hour: u8) -> Option<&'static str> {
        match self.hours {
            Some((from, to)) if !in_hours(from, to, hour) => Some("is for other hours"),
            _ => None,
        }
    }
}

impl CacheRule {
    /// Why the rule does not decide; `None` if it does.
    fn objection(&self, client: &Client, hour: u8) -> Option<&'static str> {
        self.who.objection(client).or_else(|| self.who.objection_to_hour(hour))
    }
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError`] names the rule at fault. A word that is not known is an error: a rule that was misspelt must
    /// not quietly allow more than was meant.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let file: PolicyFile = toml::from_str(text).map_err(|error| PolicyError::Form(error.to_string()))?;
        if file.version != 1 {
            return Err(PolicyError::Version(file.version));
        }
        let rules = file.rule.len() + file.cache.len();
        if rules > RULES_MAX {
            return Err(PolicyError::TooManyRules(rules));
        }
        let rules = file.rule.into_iter().enumerate().map(|(at, rule)| rule.read(at + 1));
        let cache = file.cache.into_iter().enumerate().map(|(at, rule)| rule.read(at + 1));
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
            cache: cache.collect::<Result<_, _>>()?,
            operators: file.operators,
        })
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether everything is denied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any rule asks for a client's program.
    #[must_use]
    pub fn looks_at_programs(&self) -> bool {
        let mut all = self.rules.iter().map(|rule| &rule.who).chain(self.cache.iter().map(|rule| &rule.who));
        all.any(|who| !who.exes.is_empty())
    }

    /// Whether the user may show the passphrase; the service's own user and root always may.
    #[must_use]
    pub fn may_operate(&self, uid: u32) -> bool {
        self.operators.contains(&uid)
    }

    /// The first rule that allows `wish` to `client`, and its number, from 1.
    #[must_use]
    pub fn decide(&self, client: &Client, wish: &Wish<'_>) -> Option<(u16, &Rule)> {
        let at = self.rules.iter().position(|rule| rule.objection(client, wish).is_none())?;
        Some((u16::try_from(at + 1).ok()?, self.rules.get(at)?))
    }

    /// The first rule for the key cache that is for `client` at this hour of the day, UTC.
    #[must_use]
    pub fn decide_cache(&self, client: &Client, hour: u8) -> Option<&CacheRule> {
        self.cache.iter().find(|rule| rule.objection(client, hour).is_none())
    }

    /// Says for every rule up to the deciding one why it does or does not decide, one line each.
    #[must_use]
    pub fn explain(&self, client: &Client, wish: &Wish<'_>) -> String {
        let mut text = String::new();
        if wish.call == CallKind::Cache {
            return self.explain_cache(client, wish.hour);
        }
        for (number, rule) in (1..).zip(&self.rules) {
            let name = &rule.name;
            let Some(objection) = rule.objection(client, wish) else {
                let _ = writeln!(text, "rule {number} `{name}`: allows it, {} times a second", rule.rate);
                return text;
            };
            let _ = writeln!(text, "rule {number} `{name}`: {objection}");
        }
        text.push_str(DENIED);
        text
    }

    fn explain_cache(&self, client: &Client, hour: u8) -> String {
        let mut text = String::new();
        for (number, rule) in (1..).zip(&self.cache) {
            let name = &rule.name;
            let Some(objection) = rule.objection(client, hour) else {
                let Quota { keys_max, generates_per_second, .. } = rule.quota;
                let _ = writeln!(
                    text,
                    "cache rule {number} `{name}`: allows it, {keys_max} keys, {generates_per_second} a second"
                );
                return text;
            };
            let _ = writeln!(text, "cache rule {number} `{name}`: {objection}");
        }
        text.push_str(DENIED);
        text
    }
}

const DENIED: &str = "no rule allows it: denied\n";

impl Rule {
    /// Why the rule does not decide; `None` if it does.
    fn objection(&self, client: &Client, wish: &Wish<'_>) -> Option<&'static str> {
        if let Some(objection) = self.who.objection(client) {
            return Some(objection);
        }
        if !self.labels.is_empty() && !self.labels.iter().any(|pattern| matches(pattern, wish.label)) {
            return Some("is for keys of other labels");
        }
        if !self.usages.is_empty() && !wish.usage.is_some_and(|usage| self.usages.contains(&usage)) {
            return Some("is for keys of other usages");
        }
        if !self.calls.contains(&wish.call) {
            return Some("is for other operations");
        }
        // Signing has to be allowed type by type.
        if wish.call == CallKind::Sign && !wish.kind.is_some_and(|kind| self.types.contains(&kind)) {
            return Some("is for other types of signatures");
        }
        self.who.objection_to_hour(wish.hour)
    }
}

/// Whether a label is a pattern's: equal, or beginning with what stands before a final `*`.
fn matches(pattern: &str, label: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => label.starts_with(start),
        None => pattern == label,
    }
}

/// From the first hour until the second, which is excluded; over midnight if it is the smaller one.
fn in_hours(from: u8, to: u8, hour: u8) -> bool {
    if from <= to { (from..to).contains(&hour) } else { hour >= from || hour < to }
}

/// Why a policy is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Not TOML, or a word that is not known.
    #[error("{0}")]
    Form(String),
    /// Of another version.
    #[error("version {0} is not known here")]
    Version(u32),
    /// More rules than are taken.
    #[error("{0} rules, at most {RULES_MAX}")]
    TooManyRules(usize),
    /// A rule names what there is not.
    #[error("rule {rule}: there is no {what} `{name}`")]
    Unknown {
        /// The rule's number.
        rule: usize,
        /// What kind of name it is.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A rule says what cannot be.
    #[error("rule {rule}: {why}")]
    Senseless {
        /// The rule's number.
        rule: usize,
        /// What is wrong.
        why: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    version: u32,
    #[serde(default)]
    operators: Vec<u32>,
    #[serde(default)]
    rule: Vec<RuleFile>,
    #[serde(default)]
    cache: Vec<CacheRuleFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    name: String,
    #[serde(default)]
    uid: Vec<u32>,
    #[serde(default)]
    gid: Vec<u32>,
    #[serde(default)]
    exe: Vec<String>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    usages: Vec<String>,
    ops: Vec<String>,
    #[serde(default)]
    types: Vec<String>,
    hours: Option<(u8, u8)>,
    rate: Option<u32>,
    attest_seconds: Option<u64>,
    #[serde(default)]
    agree_with_own: bool,
}

impl RuleFile {
    fn read(self, rule: usize) -> Result<Rule, PolicyError> {
        let senseless = |why| Err(PolicyError::Senseless { rule, why });
        let calls = read_names(rule, "operation", &self.ops, CallKind::parse)?;
        if calls.is_empty() {
            return senseless("names no operation");
        }
        if let Some(call) = calls.iter().find(|call| !GRANTED.contains(call)) {
            let name = call.name().to_owned();
            return Err(PolicyError::Unknown { rule, what: "operation to be granted", name });
        }
        let read_type = |name: &str| SignatureType::ALL.into_iter().find(|kind| kind.text() == name);
        let types = read_names(rule, "type", &self.types, read_type)?;
        if types.iter().any(|kind| NEVER_SIGNED.contains(kind)) {
            return senseless("identity-change, key-attest and audit-sth are signed for no client");
        }
        if calls.contains(&CallKind::Sign) == types.is_empty() {
            return senseless("`sign` and `types` go together");
        }
        Ok(Rule {
            who: read_who(rule, self.uid, self.gid, &self.exe, self.hours)?,
            labels: self.labels,
            usages: read_names(rule, "usage", &self.usages, KeyUsage::parse)?,
            calls,
            types,
            rate: self.rate.unwrap_or(RATE_DEFAULT),
            attest_seconds: self.attest_seconds.unwrap_or(ATTEST_SECONDS_DEFAULT),
            agree_with_own: self.agree_with_own,
            name: self.name,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheRuleFile {
    name: String,
    #[serde(default)]
    uid: Vec<u32>,
    #[serde(default)]
    gid: Vec<u32>,
    #[serde(default)]
    exe: Vec<String>,
    hours: Option<(u8, u8)>,
    keys: Option<u32>,
    bytes: Option<u64>,
    rate: Option<u32>,
    #[serde(default)]
    take: bool,
}

impl CacheRuleFile {
    fn read(self, rule: usize) -> Result<CacheRule, PolicyError> {
        let default = Quota::default();
        Ok(CacheRule {
            who: read_who(rule, self.uid, self.gid, &self.exe, self.hours)?,
            quota: Quota {
                keys_max: self.keys.unwrap_or(default.keys_max),
                bytes_max: self.bytes.unwrap_or(default.bytes_max),
                generates_per_second: self.rate.unwrap_or(default.generates_per_second),
            },
            take: self.take,
            name: self.name,
        })
    }
}

fn read_who(
    rule: usize,
    uids: Vec<u32>,
    gids: Vec<u32>,
    exes: &[String],
    hours: Option<(u8, u8)>,
) -> Result<Who, PolicyError> {
    if hours.is_some_and(|(from, to)| from > 24 || to > 24) {
        return Err(PolicyError::Senseless { rule, why: "hours go from 0 to 24" });
    }
    Ok(Who { uids, gids, exes: read_names(rule, "SHA-256", exes, read_digest)?, hours })
}

fn read_names<T>(
    rule: usize,
    what: &'static str,
    names: &[String],
    read: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, PolicyError> {
    let read_one =
        |name: &String| read(name).ok_or_else(|| PolicyError::Unknown { rule, what, name: name.clone() });
    names.iter().map(read_one).collect()
}

fn read_digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(digest)
}

/// What a rule can grant. Everything else is an operator's.
const GRANTED: [CallKind; 24] = [
    CallKind::Generate,
    CallKind::Public,
    CallKind::List,
    CallKind::Sign,
    CallKind::Agree,
    CallKind::Destroy,
    CallKind::Attest,
    CallKind::Disable,
    CallKind::Enable,
    CallKind::SignRaw,
    CallKind::Verify,
    CallKind::EcdhKdf,
    CallKind::HpkeOpen,
    CallKind::Encrypt,
    CallKind::Decrypt,
    CallKind::Wrap,
    CallKind::Unwrap,
    CallKind::Mac,
    CallKind::Encapsulate,
    CallKind::Decapsulate,
    CallKind::Random,
    CallKind::Seal,
    CallKind::Open,
    CallKind::Narrow,
];

/// Signed by the service's own operations or an operator, never for a client's asking.
pub const NEVER_SIGNED: [SignatureType; 3] =
    [SignatureType::IdentityChange, SignatureType::KeyAttest, SignatureType::AuditSth];

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        version = 1
        operators = [1001]
        [[rule]]
        name = "orders by day"
        uid = [1000]
        labels = ["orders", "orders/*"]
        usages = ["channel-static"]
        ops = ["agree", "public"]
        hours = [8, 18]
        rate = 50
        [[rule]]
        name = "signers"
        gid = [7]
        exe = ["00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"]
        ops = ["sign"]
        types = ["credential"]
    "#;

    fn wish(call: CallKind) -> Wish<'static> {
        Wish { call, label: "orders/eu", usage: Some(KeyUsage::ChannelStatic), kind: None, hour: 12 }
    }

    #[test]
    fn the_first_rule_that_names_client_key_and_operation_decides() {
        let policy = Policy::parse(TEXT).unwrap();
        let client = Client { uid: 1000, gid: 7, exe: None };
        let decided = |client: &Client, wish: &Wish<'_>| policy.decide(client, wish).map(|(rule, _)| rule);
        assert_eq!(decided(&client, &wish(CallKind::Agree)), Some(1));
        assert_eq!(policy.decide(&client, &wish(CallKind::Agree)).unwrap().1.rate, 50);
        for (client, wish) in [
            (Client { uid: 1001, ..client }, wish(CallKind::Agree)),
            (client, Wish { label: "other", ..wish(CallKind::Agree) }),
            (client, Wish { usage: Some(KeyUsage::Identity), ..wish(CallKind::Agree) }),
            (client, Wish { hour: 18, ..wish(CallKind::Agree) }),
            (client, wish(CallKind::Destroy)),
        ] {
            assert_eq!(decided(&client, &wish), None, "{client:?} {wish:?}");
        }
        let digest = read_digest("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
        let signer = Client { uid: 5, gid: 7, exe: digest };
        let credential = Wish { kind: Some(SignatureType::Credential), ..wish(CallKind::Sign) };
        assert_eq!(decided(&signer, &credential), Some(2));
        assert_eq!(decided(&Client { exe: None, ..signer }, &credential), None);
        assert_eq!(decided(&Client { exe: Some([0; 32]), ..signer }, &credential), None);
        let prekey = Wish { kind: Some(SignatureType::Prekey), ..credential };
        assert_eq!(decided(&signer, &prekey), None);
        assert!(policy.may_operate(1001) && !policy.may_operate(1000));
    }

    #[test]
    fn an_explanation_says_of_each_rule_why() {
        let policy = Policy::parse(TEXT).unwrap();
        let client = Client { uid: 1001, gid: 7, exe: None };
        assert_eq!(
            policy.explain(&client, &wish(CallKind::Agree)),
            "rule 1 `orders by day`: is for other users\n\
             rule 2 `signers`: is for other programs\n\
             no rule allows it: denied\n"
        );
        let client = Client { uid: 1000, ..client };
        assert_eq!(
            policy.explain(&client, &wish(CallKind::Agree)),
            "rule 1 `orders by day`: allows it, 50 times a second\n"
        );
    }

    #[test]
    fn what_is_misspelt_or_senseless_is_refused() {
        let rule = |fields: &str| format!("version = 1\n[[rule]]\nname = \"x\"\n{fields}");
        for text in [
            "version = 2".to_owned(),
            "[[rule]]".to_owned(),
            rule(""),
            rule("ops = []"),
            rule("ops = [\"agre\"]"),
            rule("ops = [\"unlock\"]"),
            rule("ops = [\"import\"]"),
            rule("ops = [\"agree\"]\nlabel = [\"a\"]"),
            rule("ops = [\"agree\"]\nusages = [\"everything\"]"),
            rule("ops = [\"sign\"]"),
            rule("ops = [\"agree\"]\ntypes = [\"credential\"]"),
            rule("ops = [\"sign\"]\ntypes = [\"identity-change\"]"),
            rule("ops = [\"sign\"]\ntypes = [\"key-attest\"]"),
            rule("ops = [\"agree\"]\nexe = [\"00\"]"),
            rule("ops = [\"agree\"]\nhours = [8, 25]"),
            rule("ops = [\"agree\"]\nrate = -1"),
        ] {
            assert!(Policy::parse(&text).is_err(), "{text}");
        }
        assert!(Policy::parse(&rule("ops = [\"agree\"]")).is_ok());
    }

    #[test]
    fn the_key_cache_has_rules_of_its_own() {
        let text = r#"
            version = 1
            [[cache]]
            name = "orders"
            uid = [1000]
            hours = [8, 18]
            keys = 500
            rate = 20
            take = true
            [[cache]]
            name = "others"
            gid = [7]
        "#;
        let policy = Policy::parse(text).unwrap();
        let client = |uid, gid| Client { uid, gid, exe: None };
        let decided = |client, hour| policy.decide_cache(&client, hour).map(|rule| rule.name.as_str());
        assert_eq!(decided(client(1000, 7), 12), Some("orders"));
        assert_eq!(decided(client(1000, 7), 20), Some("others"));
        assert_eq!(decided(client(1001, 8), 12), None);
        let rule = policy.decide_cache(&client(1000, 7), 12).unwrap();
        let quota = Quota { keys_max: 500, generates_per_second: 20, ..Quota::default() };
        assert_eq!((rule.quota, rule.take), (quota, true));
        assert!(!policy.decide_cache(&client(1, 7), 12).unwrap().take, "off unless it is on");
        let wish = Wish { call: CallKind::Cache, ..wish(CallKind::Cache) };
        assert_eq!(
            policy.explain(&client(1000, 8), &Wish { hour: 20, ..wish }),
            "cache rule 1 `orders`: is for other hours\ncache rule 2 `others`: is for other groups\n\
             no rule allows it: denied\n"
        );
        assert_eq!(
            policy.explain(&client(1000, 8), &wish),
            "cache rule 1 `orders`: allows it, 500 keys, 20 a second\n"
        );
        for fields in ["ops = [\"cache\"]", "kesy = 5", "exe = [\"00\"]", "hours = [8, 25]"] {
            let text = format!("version = 1\n[[cache]]\nname = \"x\"\n{fields}");
            assert!(Policy::parse(&text).is_err(), "{text}");
        }
        // A rule for keys of the store allows nothing here.
        let text = "version = 1\n[[rule]]\nname = \"x\"\nops = [\"cache\"]";
        assert!(Policy::parse(text).is_err());
    }

    #[test]
    fn hours_may_go_over_midnight() {
        assert!(in_hours(22, 6, 23) && in_hours(22, 6, 5) && !in_hours(22, 6, 6) && !in_hours(22, 6, 21));
        assert!(in_hours(0, 24, 23) && !in_hours(8, 8, 8));
    }
}
