//! `onward demo pin`: a customer reads her card's PIN through a company that carries, composes and attacks.
//!
//! Five parties are nodes of one process, joined by TCP. The company puts a key of its own in the place of the customer's
//! whenever the bank lets it; then it composes its answer with what a third party sealed to a child key. What each party
//! received and opened is kept, and the PIN is looked for in it: what is printed was seen in this run, in each trust mode.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use onward::ok2cry::cache::{CacheLimits, DisposableKeyState, Owner};
use onward::ok2cry::{
    Direction, Jwks, KeyBody, KeyObject, Pins, Sealed, SealerTrust, TokenVerifier, TrustMode, VerifiedKey,
    context, token_claim,
};
use onward::{
    CacheClient, Exchanges, Failure, Identifier, Identity, KeyWish, Listener, LocalCache, Node, NodeError,
    Parent, Raw, Serde,
};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

use super::journey::random_tag;
use super::keys::KeyService;
use super::receipt::is_gone;
use super::search::Needle;
use super::tap;
use crate::error::{CliError, Code};
use crate::output::Output;

/// The name that the bank's API has for itself.
const API: &str = "https://bank.example/cards";
/// Who says in a token which key is a customer's.
const ISSUER: &str = "https://login.bank.example";
/// Whom the login knows as the customer.
const CUSTOMER: &str = "customer 7";
/// What the card's maker tells the company, and the company the customer.
const DELIVERY: &str = "a new card comes on Tuesday";
/// Longest life of the customer's key and of the company's child of it, in seconds.
const LIVES: (u16, u16) = (60, 30);
/// Longest time for the story in one mode, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// By what the bank believes that a key is the customer's.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Mode {
    Identity,
    Bound,
    Transitive,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Identity, Self::Bound, Self::Transitive];

    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Bound => "bound",
            Self::Transitive => "transitive",
        }
    }

    /// Why the bank believes a key.
    fn reason(self) -> &'static str {
        match self {
            Self::Identity => "the customer's identity signed it",
            Self::Bound => "a token of the bank's login names it",
            Self::Transitive => "it came along",
        }
    }

    /// Who reads the PIN: in the last mode also a company that acts, as its name warns.
    fn readers(self) -> &'static [&'static str] {
        match self {
            Self::Identity | Self::Bound => &["customer", "bank"],
            Self::Transitive => &["customer", "company", "bank"],
        }
    }
}

/// The parties in the order of the way there.
const PARTIES: [&str; 5] = ["customer", "network", "company", "maker", "bank"];

/// What a party received in the clear or opened.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    fn add(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }

    fn has(&self, needle: &Needle) -> bool {
        !needle.find(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).is_empty()
    }
}

/// A party that takes part in exchanges.
#[derive(Clone)]
struct Party {
    node: Node,
    identity: Identity,
    exchanges: Exchanges,
    seen: Seen,
}

impl Party {
    async fn start(name: &str) -> Result<Self, CliError> {
        let node = crate::client::start_node(name).await?;
        let identity = node.create_identity().await.map_err(failed)?;
        let cache = LocalCache::start(CacheLimits::default(), Owner::of_user(0));
        let cache = CacheClient::new(cache.map_err(NodeError::from).map_err(failed)?);
        let exchanges = node.exchanges(&identity, cache).await.map_err(failed)?;
        Ok(Self { node, identity, exchanges, seen: Seen::default() })
    }

    /// One whose keys, the disposable ones too, are in a key service.
    async fn start_with(keys: &KeyService, name: &str) -> Result<Self, CliError> {
        let at = keys.at(name);
        let (node, identity) = at.start_node(name).await?;
        let exchanges = node.exchanges(&identity, CacheClient::new(at.client(name))).await.map_err(failed)?;
        Ok(Self { node, identity, exchanges, seen: Seen::default() })
    }

    fn pinned(&self) -> Pins {
        Pins::identifiers([self.identity.identifier()])
    }

    /// Opens what was sealed to a key of its own, and so sees it.
    async fn open(
        &self,
        key: &onward::OwnKey,
        sealed: &Sealed,
        from: SealerTrust<'_>,
    ) -> Result<Vec<u8>, NodeError> {
        let received = self.exchanges.open(key, sealed, from, None).await?;
        self.seen.add(&received.plaintext);
        Ok(received.plaintext.to_vec())
    }

    async fn listen(&self, workers: &[String]) -> Result<Listener, CliError> {
        let listener = self.node.listen_tcp("127.0.0.1:0").await.map_err(failed)?;
        for worker in workers {
            listener.expose(worker).map_err(failed)?;
        }
        Ok(listener)
    }
}

/// The bank's login, which says in tokens which key is a customer's.
struct Login(SigningKey);

impl Login {
    fn new() -> Result<Self, CliError> {
        let mut scalar = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(scalar.as_mut()).map_err(failed)?;
        // All but one in 2^32 are scalars of the curve.
        SigningKey::from_slice(scalar.as_ref()).map(Self).map_err(failed)
    }

    fn verifier(&self) -> Result<TokenVerifier, CliError> {
        let point = self.0.verifying_key().to_sec1_point(false);
        let coordinate = |part: std::ops::Range<usize>| {
            Base64UrlUnpadded::encode_string(point.as_bytes().get(part).unwrap_or_default())
        };
        let key = json!({
            "kty": "EC", "crv": "P-256", "kid": "1", "use": "sig", "alg": "ES256",
            "x": coordinate(1..33), "y": coordinate(33..65),
        });
        let keys = Jwks::read(json!({ "keys": [key] }).to_string().as_bytes()).map_err(failed)?;
        Ok(TokenVerifier::new(ISSUER.to_owned(), API.to_owned(), keys, unix_now()))
    }

    /// A token that names the key with `body`, and no other.
    fn token(&self, body: &KeyBody) -> String {
        let encode = |value: Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
        let header = encode(json!({ "typ": "okc+jwt", "alg": "ES256", "kid": "1" }));
        let claims = encode(json!({
            "iss": ISSUER, "aud": API, "sub": CUSTOMER, "exp": unix_now() + 60, "okc": token_claim(body),
        }));
        let message = format!("{header}.{claims}");
        let signature: Signature = self.0.sign(message.as_bytes());
        format!("{message}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()))
    }
}

/// What one trust mode came to.
struct Scene {
    /// Which party could read the PIN.
    readers: BTreeMap<&'static str, bool>,
    second_use_refused: bool,
    destroyed: bool,
    proof_checked: bool,
    /// Whether the customer had the third party's part, too.
    composed: bool,
}

impl Scene {
    fn ok(&self, mode: Mode) -> bool {
        let expected = |(party, reads): (&&str, &bool)| mode.readers().contains(party) == *reads;
        self.readers.iter().all(expected)
            && self.second_use_refused
            && self.destroyed
            && self.proof_checked
            && self.composed
    }
}

/// Plays the story in each trust mode and prints who could read what.
///
/// # Errors
/// [`Code::DemoFailed`], after printing, when a party read what it must not, or the life of a key was not as it must be.
pub(crate) async fn pin(keyd: bool, output: Output) -> Result<(), CliError> {
    output.say(
        "a customer, a network, a company, a card maker and a bank; the company acts against the others",
    );
    let keys = match keyd {
        true => Some(KeyService::start().await?),
        false => None,
    };
    let mut scenes = Vec::new();
    for mode in Mode::ALL {
        let scene = tokio::time::timeout(PATIENCE, play(mode, keys.as_ref())).await;
        scenes.push((mode, scene.map_err(|_| failed("a party did not answer"))??));
    }
    let ok = scenes.iter().all(|(mode, scene)| scene.ok(*mode));
    output.object(&to_text(&scenes, ok), to_json(&scenes, ok))?;
    if ok {
        Ok(())
    } else {
        Err(CliError::new(Code::DemoFailed, "the demonstration did not show what it should"))
    }
}

async fn play(mode: Mode, keys: Option<&KeyService>) -> Result<Scene, CliError> {
    let secret = format!("PIN 4821 {}", random_tag()?);
    let ctx = context("GET", "/cards/7/pin", random_tag()?.as_bytes());
    let customer = match keys {
        Some(keys) => Party::start_with(keys, "client").await?,
        None => Party::start("customer").await?,
    };
    let (company, maker, bank) =
        (Party::start("company").await?, Party::start("maker").await?, Party::start("bank").await?);
    let login = Login::new()?;

    let at_bank = serve_pin(&bank, mode, &login, (&secret, ctx, &customer)).await?;
    let at_maker = serve_delivery(&maker, company.pinned(), ctx).await?;
    let at_company = carry(
        &company,
        (at_bank.name(), at_maker.name()),
        (customer.identity.identifier(), maker.pinned()),
        ctx,
    )
    .await?;
    let target: SocketAddr = at_company.local_address().parse().map_err(failed)?;
    let (network, record) = tap::start(target).await.map_err(failed)?;

    let wish = KeyWish { ttl: Some(LIVES.0), ..KeyWish::answer(API, "read pin", ctx) };
    let mut watch = customer.exchanges.watch().await.map_err(failed)?;
    let key = customer.exchanges.new_key(wish).await.map_err(failed)?;
    let token = login.token(key.body());
    let key = if mode == Mode::Bound { key.with_token(token) } else { key };
    let route = customer.node.route(&format!("tcp:{network} => pin")).map_err(failed)?;
    let shown = Raw(key.object().encode().into());
    let Serde((sealed, delivery)): Serde<(Vec<u8>, String)> = route.ask(&shown).await.map_err(failed)?;
    let sealed = Sealed::decode(&sealed).map_err(failed)?;
    let pins = bank.pinned();
    let from = match mode {
        Mode::Identity => SealerTrust::Identity(&pins),
        Mode::Bound | Mode::Transitive => SealerTrust::Anybody,
    };
    let read = customer.open(&key, &sealed, from).await.map_err(failed)?;
    let again = customer.exchanges.open(&key, &sealed, from, None).await;
    let life = customer.exchanges.life(&key, &mut watch).await;

    let needle = Needle::new(&[&secret]);
    let mut carried = Vec::new();
    record.finish().iter().for_each(|bytes| carried.extend_from_slice(bytes));
    let reads = |party: &'static str| match party {
        "customer" => customer.seen.has(&needle) && read == secret.as_bytes(),
        "network" => !needle.find(&carried).is_empty(),
        "company" => company.seen.has(&needle),
        "maker" => maker.seen.has(&needle),
        _ => bank.seen.has(&needle),
    };
    Ok(Scene {
        readers: PARTIES.into_iter().map(|party| (party, reads(party))).collect(),
        second_use_refused: is_gone(&again),
        destroyed: life.as_ref().is_ok_and(|life| life.ended.is_some()),
        proof_checked: life.is_ok_and(|life| {
            life.ended
                .is_some_and(|(state, ended)| state == DisposableKeyState::Used && ended >= life.created_ms)
        }),
        composed: delivery == DELIVERY,
    })
}

/// The bank answers with the PIN, sealed to a key that it believes to be the customer's.
async fn serve_pin(
    bank: &Party,
    mode: Mode,
    login: &Login,
    (secret, ctx, customer): (&str, [u8; 32], &Party),
) -> Result<Listener, CliError> {
    bank.seen.add(secret.as_bytes());
    let (party, pins, secret) = (bank.exchanges.clone(), customer.pinned(), secret.to_owned());
    let verifier = Arc::new(Mutex::new(login.verifier()?));
    let verify = move |object: KeyObject| -> Result<VerifiedKey, NodeError> {
        let about = (Direction::AnswerToMe, API, ctx);
        match mode {
            Mode::Identity => party.verify(object, about, TrustMode::Identity(&pins), None),
            Mode::Bound => {
                let mut verifier = verifier.lock().unwrap_or_else(PoisonError::into_inner);
                party.verify(
                    object,
                    about,
                    TrustMode::Bound { verifier: &mut verifier, subject: CUSTOMER },
                    None,
                )
            }
            Mode::Transitive => party.verify(object, about, TrustMode::Transitive, None),
        }
    };
    let sealing = bank.exchanges.clone();
    let answer = move |Serde((object, children)): Serde<(Vec<u8>, Vec<Vec<u8>>)>| {
        let verified = KeyObject::decode(&object).map_err(NodeError::from).and_then(&verify);
        let (sealing, secret) = (sealing.clone(), secret.clone());
        async move {
            // What is refused is an answer, too.
            let Ok(key) = verified else { return Ok(Serde(None)) };
            let children: Result<Vec<_>, _> = children.iter().map(|child| KeyBody::decode(child)).collect();
            let sealed = sealing.seal(key, secret.as_bytes(), None, &children?).await?;
            Ok::<_, Failure>(Serde(Some(sealed.encode())))
        }
    };
    bank.node.serve("card-pin", answer).await.map_err(failed)?;
    bank.listen(&["card-pin".to_owned()]).await
}

/// The maker tells the company when a card comes, sealed to the company's child key.
async fn serve_delivery(maker: &Party, company: Pins, ctx: [u8; 32]) -> Result<Listener, CliError> {
    let party = maker.clone();
    let answer = move |Raw(object): Raw| {
        let (party, company) = (party.clone(), company.clone());
        async move {
            party.seen.add(&object);
            let about = (Direction::AnswerToMe, API, ctx);
            let key = party.exchanges.verify(
                KeyObject::decode(&object)?,
                about,
                TrustMode::Identity(&company),
                None,
            )?;
            let sealed = party.exchanges.seal(key, DELIVERY.as_bytes(), None, &[]).await?;
            Ok::<_, Failure>(Raw(sealed.encode().into()))
        }
    };
    maker.node.serve("delivery", answer).await.map_err(failed)?;
    maker.listen(&["delivery".to_owned()]).await
}

/// The company forwards the customer's key, after it has tried its own, and adds what the maker says.
async fn carry(
    company: &Party,
    (bank, maker): (&str, &str),
    (customer, made_by): (Identifier, Pins),
    ctx: [u8; 32],
) -> Result<Listener, CliError> {
    let route = |text: String| company.node.route(&text).map_err(failed);
    let to_bank = route(format!("{bank} => card-pin"))?;
    let to_maker = route(format!("{maker} => delivery"))?;
    let party = company.clone();
    let answer = move |Raw(shown): Raw| {
        let (party, to_bank, to_maker, made_by) =
            (party.clone(), to_bank.clone(), to_maker.clone(), made_by.clone());
        async move {
            party.seen.add(&shown);
            let theirs = KeyObject::decode(&shown)?;
            let own = KeyWish { ttl: Some(LIVES.0), ..KeyWish::answer(API, "read pin", ctx) };
            let own = party.exchanges.new_key(own).await?;
            let own = match &theirs.extensions.token {
                Some(token) => own.with_token(token.clone()),
                None => own,
            };
            let asked = Serde((own.object().encode(), Vec::<Vec<u8>>::new()));
            let Serde(sealed): Serde<Option<Vec<u8>>> = to_bank.ask(&asked).await?;
            let stolen = match sealed {
                Some(sealed) => {
                    Some(party.open(&own, &Sealed::decode(&sealed)?, SealerTrust::Anybody).await?)
                }
                None => None,
            };

            let child = KeyWish {
                ttl: Some(LIVES.1),
                parent: Some(Parent { body: &theirs.body, client: customer }),
                ..KeyWish::answer(API, "delivery", ctx)
            };
            let child = party.exchanges.new_key(child).await?;
            let Raw(said) = to_maker.ask(&Raw(child.object().encode().into())).await?;
            let said = party.open(&child, &Sealed::decode(&said)?, SealerTrust::Identity(&made_by)).await?;
            let sealed = match stolen {
                // Nobody notices: what was read is sealed again, to the true key.
                Some(pin) => {
                    let about = (Direction::AnswerToMe, API, ctx);
                    let key = party.exchanges.verify(theirs, about, TrustMode::Transitive, None)?;
                    party.exchanges.seal(key, &pin, None, &[]).await?.encode()
                }
                None => {
                    let asked = Serde((shown.to_vec(), vec![child.body().encode()]));
                    let Serde(sealed): Serde<Option<Vec<u8>>> = to_bank.ask(&asked).await?;
                    sealed.ok_or_else(|| Failure::new("the bank refused the customer's key"))?
                }
            };
            party.seen.add(&sealed);
            Ok::<_, Failure>(Serde((sealed, String::from_utf8_lossy(&said).into_owned())))
        }
    };
    company.node.serve("pin", answer).await.map_err(failed)?;
    company.listen(&["pin".to_owned()]).await
}

fn to_json(scenes: &[(Mode, Scene)], ok: bool) -> Value {
    let readers: BTreeMap<_, _> = scenes.iter().map(|(mode, scene)| (mode.name(), &scene.readers)).collect();
    let all = |holds: fn(&Scene) -> bool| scenes.iter().all(|(_, scene)| holds(scene));
    json!({
        "ok": ok,
        "readers": readers,
        "second_use_refused": all(|scene| scene.second_use_refused),
        "destroyed": all(|scene| scene.destroyed),
        "proof_checked": all(|scene| scene.proof_checked),
        "composed": all(|scene| scene.composed),
    })
}

fn to_text(scenes: &[(Mode, Scene)], ok: bool) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Who could read the PIN, by what the bank believes that a key is the customer's:");
    let _ = writeln!(text, "  {:<12}{}  because", "", PARTIES.map(|party| format!("{party:>10}")).concat());
    for (mode, scene) in scenes {
        let reads = PARTIES.map(|party| if scene.readers.get(party) == Some(&true) { "reads" } else { "-" });
        let reads = reads.map(|word| format!("{word:>10}")).concat();
        let _ = writeln!(text, "  {:<12}{reads}  {}", mode.name(), mode.reason());
    }
    let _ = writeln!(text);
    let _ = writeln!(
        text,
        "The company put its own key in the place of the customer's. Where nobody vouches for a key it"
    );
    let _ = writeln!(text, "read the PIN and nobody noticed: Transitive is for those who only listen.");
    let _ = writeln!(text);
    let shown = |what: &str, holds: fn(&Scene) -> bool| {
        let holds = scenes.iter().all(|(_, scene)| holds(scene));
        format!("  {:<22}{}\n", what, if holds { "yes" } else { "NO" })
    };
    text.push_str("The customer's key, in every mode:\n");
    text.push_str(&shown("opened once", |scene| scene.readers.get("customer") == Some(&true)));
    text.push_str(&shown("a second use refused", |scene| scene.second_use_refused));
    text.push_str(&shown("destroyed", |scene| scene.destroyed));
    text.push_str(&shown("its life proved", |scene| scene.proof_checked));
    text.push_str(&shown("a third party's part", |scene| scene.composed));
    text.push('\n');
    text.push_str(if ok { "ok\n" } else { "NOT ok\n" });
    text
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::new(Code::DemoFailed, format!("the story broke off: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(mode: Mode) -> Scene {
        Scene {
            readers: PARTIES.into_iter().map(|party| (party, mode.readers().contains(&party))).collect(),
            second_use_refused: true,
            destroyed: true,
            proof_checked: true,
            composed: true,
        }
    }

    #[test]
    fn whoever_reads_without_being_meant_to_is_noticed_and_so_is_a_life_that_is_not_as_it_must_be() {
        let spoiled: [fn(&mut Scene); 5] = [
            |scene| scene.second_use_refused = false,
            |scene| scene.destroyed = false,
            |scene| scene.proof_checked = false,
            |scene| scene.composed = false,
            |scene| {
                scene.readers.insert("network", true);
            },
        ];
        for mode in Mode::ALL {
            assert!(scene(mode).ok(mode));
            for spoil in spoiled {
                let mut scene = scene(mode);
                spoil(&mut scene);
                assert!(!scene.ok(mode));
            }
        }
        // That Transitive stops nobody who acts is part of what is shown.
        assert!(!scene(Mode::Identity).ok(Mode::Transitive) && !scene(Mode::Transitive).ok(Mode::Bound));
    }
}
