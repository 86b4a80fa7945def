//! `onward ok2cry`: keys for one exchange, what is sealed to them, and what became of them.
//!
//! A key's private half is in the key service from its beginning to its end, so `new` and `open` can be commands of their
//! own. What is secret comes by standard input or a file, and leaves by standard output or a file.

mod inspect;
mod proof;

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use onward::ok2cry::cache::{CacheLimits, CacheRefusal, Owner};
use onward::ok2cry::{
    Direction, ExchangeError, JsonSchema, KeyObject, OBJECT_BYTES_MAX, Pins, Policy, SCHEMA_BYTES_MAX,
    SEALED_BYTES_MAX, Schema, Sealed, SealerTrust, TrustMode, context,
};
use onward::{
    CacheClient, CacheError, Exchanges, IdentityError, KeyError, KeyWish, LocalCache, Node, NodeError,
    Refusal,
};
use serde_json::json;

use super::key::{hex, now};
use super::keyd::{failed, service_client, service_dir};
use crate::args::{
    Believed, ExchangeAbout, ExchangeDirection, NewExchange, Ok2cryCommand, OpenExchange, SealExchange,
};
use crate::armour::{self, Label};
use crate::client;
use crate::error::{CliError, Code};
use crate::input;
use crate::output::Output;
use crate::own_keys::{self, OwnRecord};
use crate::state::State;

pub(crate) async fn run(state: &State, command: Ok2cryCommand, output: Output) -> Result<(), CliError> {
    match command {
        Ok2cryCommand::New(new) => make(state, &new, output).await,
        Ok2cryCommand::Seal(seal) => self::seal(state, &seal, output).await,
        Ok2cryCommand::Open(open) => self::open(state, &open, output).await,
        Ok2cryCommand::Inspect { file } => inspect::run(file.as_deref(), output),
        Ok2cryCommand::Proof { which, out, at } => {
            proof::run(state, &which, out.as_deref(), &at, output).await
        }
    }
}

async fn make(state: &State, new: &NewExchange, output: Output) -> Result<(), CliError> {
    let what = "no disposable key was made";
    let ttl = new.ttl.map(seconds).transpose()?;
    let schema = schema(new.schema.as_deref())?.map(|schema| schema.digest());
    let service = service_dir(state, &new.at);
    let cache = cache_in(&service)?;
    // Before a node is started for it: a service that is away or locked is said at once.
    let signer = cache.status().await.map_err(|error| refused(what, error.into()))?.signer;
    let party = Party::start(state, new.identity.as_deref(), cache).await?;
    let (direction, ctx) = about(&new.about);
    let wish = KeyWish {
        policy: new.policy,
        direction,
        ttl,
        schema,
        ..KeyWish::answer(&new.about.audience, &new.purpose, ctx)
    };
    let key = party.exchanges.new_key(wish).await.map_err(|error| refused(what, error))?;
    own_keys::keep(state, &OwnRecord::new(&key, &signer, &service))?;
    party.end().await;
    let text = armour::write(Label::Shown, &key.object().encode());
    let body = key.body();
    let left = body.exp().saturating_sub(now());
    output.say(&format!("key {} opens once, within {left} s; show the other end the lines", body.key_id));
    let value = json!({
        "id": body.key_id.to_string(),
        "policy": body.policy.name(),
        "ends": body.exp(),
        "signer": party.identifier,
        "object": text,
    });
    hand_out(new.out.as_deref(), &text, value, output)
}

async fn seal(state: &State, seal: &SealExchange, output: Output) -> Result<(), CliError> {
    let object = decode_shown(&input::read(Some(&seal.object), TEXT_BYTES_MAX)?)?;
    let schema = schema(seal.schema.as_deref())?;
    let pins = pins(state, &seal.believed)?;
    let mode = pins.as_ref().map_or(TrustMode::Transitive, TrustMode::Identity);
    // Whoever seals asks no cache.
    let cache = LocalCache::start(CacheLimits::default(), Owner::of_user(0));
    let cache = cache.map_err(|error| CliError::new(Code::Internal, "there is no cache").because(error))?;
    let party = Party::start(state, seal.identity.as_deref(), CacheClient::new(cache)).await?;
    let (direction, ctx) = about(&seal.about);
    let key = party.exchanges.verify(object, (direction, &seal.about.audience, ctx), mode, None);
    let key = key.map_err(|error| refused("the key is not one to seal to", error))?;
    // Only now: nobody is asked for a secret that cannot be sealed.
    let plaintext = input::read(seal.file.as_deref(), PLAINTEXT_BYTES_MAX)?;
    let id = key.body().key_id;
    let sealed = party.exchanges.seal(key, &plaintext, as_schema(&schema), &[]).await;
    let sealed = sealed.map_err(|error| refused("nothing was sealed", error))?;
    party.end().await;
    let text = armour::write(Label::Sealed, &sealed.encode());
    let value = json!({ "id": id.to_string(), "signer": party.identifier, "sealed": text });
    hand_out(seal.out.as_deref(), &text, value, output)
}

async fn open(state: &State, open: &OpenExchange, output: Output) -> Result<(), CliError> {
    let sealed = decode_sealed(&input::read(open.file.as_deref(), TEXT_BYTES_MAX)?)?;
    let pins = pins(state, &open.believed)?;
    let from = pins.as_ref().map_or(SealerTrust::Anybody, SealerTrust::Identity);
    let schema = schema(open.schema.as_deref())?;
    let record = own_keys::find(state, sealed.key_id)?;
    let key = record.key()?;
    let cache = cache_in(open.at.service.as_deref().unwrap_or(record.service()))?;
    // A file that cannot be made must not cost the key.
    let out = open.out.as_deref().map(NewFile::beside).transpose()?;
    let party = Party::start(state, None, cache).await?;
    let received = party.exchanges.open(&key, &sealed, from, as_schema(&schema)).await;
    let received = received.map_err(|error| refused("it was not opened", error))?;
    party.end().await;
    let sealer = received.sealer.map(|sealer| sealer.to_string());
    output.say(&format!(
        "opened; key {} is gone; sealed by {}",
        sealed.key_id,
        sealer.as_deref().unwrap_or("somebody")
    ));
    if let Some(out) = out {
        let path = out.keep(&received.plaintext)?;
        return output.object(
            &format!("{} bytes in {}", received.plaintext.len(), path.display()),
            json!({ "id": sealed.key_id.to_string(), "sealer": sealer, "out": path }),
        );
    }
    if !output.is_json() {
        return output.write(&received.plaintext);
    }
    let content = std::str::from_utf8(&received.plaintext);
    let digits = content.is_err().then(|| hex(&received.plaintext));
    output.object(
        "",
        json!({
            "id": sealed.key_id.to_string(),
            "sealer": sealer,
            "content": content.ok(),
            "content_hex": digits,
        }),
    )
}

/// An identity's part in exchanges, with the node that it needs.
struct Party {
    node: Node,
    exchanges: Exchanges,
    identifier: String,
}

impl Party {
    async fn start(state: &State, name: Option<&str>, cache: CacheClient) -> Result<Self, CliError> {
        let what = "the identity cannot take part in exchanges";
        let (node, identity) = match name {
            Some(name) => {
                let node = client::start_node_with(state, "ok2cry", name).await?;
                let identity = client::identity(state, &node, name).await?;
                (node, identity)
            }
            None => {
                let node = client::start_node("ok2cry").await?;
                let identity = node.create_identity().await;
                (node, identity.map_err(|error| CliError::node(Code::Identity, what, error))?)
            }
        };
        let exchanges = node.exchanges(&identity, cache).await.map_err(|error| refused(what, error))?;
        Ok(Self { node, exchanges, identifier: identity.identifier().to_string() })
    }

    async fn end(&self) {
        self.node.shutdown(END).await;
    }
}

/// The cache of the key service in `directory`.
fn cache_in(directory: &Path) -> Result<CacheClient, CliError> {
    Ok(CacheClient::new(service_client(directory, "onward")?))
}

/// Which way the secret goes, and the request that it is about.
fn about(about: &ExchangeAbout) -> (Direction, [u8; 32]) {
    let direction = match about.direction {
        ExchangeDirection::Answer => Direction::AnswerToMe,
        ExchangeDirection::Request => Direction::RequestToMe,
    };
    let ctx = match &about.request {
        Some(request) => context(&request.method, &request.resource, request.id.as_bytes()),
        None => context("", "", b""),
    };
    (direction, ctx)
}

/// Whose signature counts; `None` for whatever came along.
fn pins(state: &State, believed: &Believed) -> Result<Option<Pins>, CliError> {
    if believed.trust_any {
        return Ok(None);
    }
    if believed.trust.is_empty() {
        return Err(CliError::new(Code::TrustMissing, "nobody's signature is trusted"));
    }
    let peers = believed.trust.iter().map(|peer| client::resolve_peer(state, peer));
    Ok(Some(Pins::identifiers(peers.collect::<Result<Vec<_>, _>>()?)))
}

fn schema(file: Option<&Path>) -> Result<Option<JsonSchema>, CliError> {
    let Some(path) = file else { return Ok(None) };
    let schema = JsonSchema::read(&input::read(file, SCHEMA_BYTES_MAX)?);
    schema.map(Some).map_err(|error| {
        CliError::new(Code::Input, format!("{} is no schema that can be used", path.display()))
            .because(error)
            .help("a JSON schema of draft 2020-12 that refers to no other document")
    })
}

fn as_schema(schema: &Option<JsonSchema>) -> Option<&dyn Schema> {
    schema.as_ref().map(|schema| schema as &dyn Schema)
}

fn seconds(time: Duration) -> Result<u16, CliError> {
    let whole = u16::try_from(time.as_secs()).ok();
    let whole = whole.filter(|seconds| (1..=onward::ok2cry::TTL_SECONDS_MAX).contains(seconds));
    whole.ok_or_else(|| CliError::new(Code::Usage, format!("a key lives 1 s to 15 m, not {time:?}")))
}

/// What a party shows others of its key, from a text or as it is encoded.
fn decode_shown(bytes: &[u8]) -> Result<KeyObject, CliError> {
    let object = match armour::read(bytes) {
        Some((Label::Shown, bytes)) => KeyObject::decode(&bytes),
        Some(_) => return Err(other("it is no disposable key")),
        None => KeyObject::decode(bytes),
    };
    object.map_err(|error| match bytes.starts_with(PEM) {
        true => other("it is a public key alone, which says neither for whom it is nor until when")
            .help("give what `onward ok2cry new` printed, which has the public key in it"),
        false => other("it is no disposable key").because(error),
    })
}

fn decode_sealed(bytes: &[u8]) -> Result<Sealed, CliError> {
    let sealed = match armour::read(bytes) {
        Some((Label::Sealed, bytes)) => Sealed::decode(&bytes),
        Some(_) => return Err(other("it is nothing sealed")),
        None => Sealed::decode(bytes),
    };
    sealed.map_err(|error| other("it is nothing sealed").because(error))
}

fn other(sentence: &str) -> CliError {
    CliError::new(Code::Input, sentence).help("onward ok2cry inspect shows what it is")
}

/// A file that is there, beside the one whose place it takes when it has its content. Only its owner may read it.
struct NewFile<'a> {
    file: tempfile::NamedTempFile,
    path: &'a Path,
}

impl<'a> NewFile<'a> {
    fn beside(path: &'a Path) -> Result<Self, CliError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let file = tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new(".")));
        Ok(Self { file: file.map_err(|error| unwritable(path, error))?, path })
    }

    fn keep(mut self, bytes: &[u8]) -> Result<&'a Path, CliError> {
        let written = self.file.write_all(bytes).and_then(|()| self.file.as_file().sync_all());
        written.map_err(|error| unwritable(self.path, error))?;
        self.file.persist(self.path).map_err(|error| unwritable(self.path, error.error))?;
        Ok(self.path)
    }
}

/// Prints what the other end is to get, or writes it into a file.
fn hand_out(
    out: Option<&Path>,
    text: &str,
    value: serde_json::Value,
    output: Output,
) -> Result<(), CliError> {
    let Some(path) = out else { return output.object(text, value) };
    write_out(path, text.as_bytes())?;
    output.object(&format!("{}", path.display()), value)
}

fn write_out(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    NewFile::beside(path)?.keep(bytes).map(|_| ())
}

fn unwritable(path: &Path, error: std::io::Error) -> CliError {
    CliError::new(Code::Output, format!("{} cannot be written", path.display())).because(error)
}

/// What a node, a cache or the key service said.
fn refused(what: &str, error: NodeError) -> CliError {
    let code = match error {
        NodeError::Cache(CacheError::Service(KeyError::Refused(Refusal::Denied)))
        | NodeError::Cache(CacheError::Refused(CacheRefusal::Overload | CacheRefusal::Denied)) => {
            return CliError::new(Code::KeyRefused, what).because(error).help(
                "a rule `[[cache]]` in the policy of the key service says who may have how many disposable keys",
            );
        }
        NodeError::Cache(CacheError::Service(error)) | NodeError::Vault(error) => return failed(what, error),
        NodeError::Exchange(ExchangeError::Signer(IdentityError::KeyService(error))) => {
            return failed(what, error);
        }
        NodeError::Exchange(ExchangeError::OtherSchema) => {
            return CliError::new(Code::Exchange, what)
                .because(error)
                .help("give the schema that the key was made with: --schema FILE, or none");
        }
        NodeError::Exchange(ExchangeError::OffSchema) => {
            return CliError::new(Code::Exchange, what)
                .because(error)
                .help("the content has to be what the schema of the key describes");
        }
        NodeError::Cache(CacheError::Refused(CacheRefusal::NotFound)) => Code::KeyGone,
        NodeError::Cache(CacheError::Refused(_)) => Code::Exchange,
        NodeError::Cache(CacheError::Unproved(_)) | NodeError::NoEnd => Code::Unproved,
        NodeError::Cache(CacheError::TooLong(_)) | NodeError::Exchange(ExchangeError::TooLong { .. }) => {
            Code::InputTooBig
        }
        NodeError::Exchange(_) => Code::Exchange,
        NodeError::Identity(_) => Code::Identity,
        _ => Code::Internal,
    };
    CliError::new(code, what).because(error)
}

/// How long a node may take to end that did nothing with others.
const END: Duration = Duration::from_millis(200);

/// Bytes that can be sealed, at most; what a policy carries may be less.
const PLAINTEXT_BYTES_MAX: usize = Policy::Strong.ciphertext_bytes_max();

/// Bytes of the text of a structure, at most: base64 with line ends, and the lines around it.
const TEXT_BYTES_MAX: usize = SEALED_BYTES_MAX / 48 * 66 + 1024;

const _: () = assert!(OBJECT_BYTES_MAX < SEALED_BYTES_MAX);

const PEM: &[u8] = b"-----BEGIN PUBLIC KEY-----";
