//! The receipt at the end of the journey: sealed to a key that the client makes for it alone.
//!
//! The key opens once. That it was made, used and ended is proved by the log of the cache it is in.

use onward::ok2cry::cache::{CacheLimits, CacheRefusal, DisposableKeyState, Owner};
use onward::ok2cry::{Direction, KeyObject, Pins, Sealed, SealerTrust, TrustMode, context};
use onward::{
    CacheClient, Exchanges, Failure, Identifier, Identity, KeyWish, LocalCache, Node, NodeError, Raw, Route,
    Serde,
};
use serde::{Deserialize, Serialize};

use super::journey::random_tag;
use super::keys::KeysAt;
use super::part::confirmation;
use crate::error::{CliError, Code};

/// The service's worker that answers with receipts.
pub(super) const RECEIPT: &str = "receipt";
/// The name that the service has for itself.
const API: &str = "card-pin";

/// What became of the receipt's key.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct OneUse {
    /// The receipt was opened, and is the right one.
    pub(super) opened: bool,
    pub(super) second_use_refused: bool,
    pub(super) destroyed: bool,
    /// Its life is in the cache's log, as it must be.
    pub(super) proof_checked: bool,
}

impl OneUse {
    /// Whether everything was as it must be.
    pub(super) fn ok(self) -> bool {
        self.opened && self.second_use_refused && self.destroyed && self.proof_checked
    }
}

/// Answers `client` with receipts, sealed to its keys and to nobody else's.
pub(super) async fn serve(
    node: &Node,
    identity: &Identity,
    client: Identifier,
    keys: Option<&KeysAt>,
) -> Result<(), CliError> {
    let party = part_in(node, identity, keys).await.map_err(failed)?;
    let pins = Pins::identifiers([client]);
    let answer = move |Serde((object, ctx, text)): Serde<(Vec<u8>, [u8; 32], Vec<u8>)>| {
        let (party, pins) = (party.clone(), pins.clone());
        async move {
            let about = (Direction::AnswerToMe, API, ctx);
            let key = party.verify(KeyObject::decode(&object)?, about, TrustMode::Identity(&pins), None)?;
            let sealed = party.seal(key, &confirmation(&text), None, &[]).await?;
            Ok::<_, Failure>(Raw(sealed.encode().into()))
        }
    };
    node.serve(RECEIPT, answer).await.map_err(failed)?;
    Ok(())
}

/// Has a receipt for `text` sealed to a key made for it, opens it twice, and checks what became of the key.
pub(super) async fn fetch(
    (node, identity): (&Node, &Identity),
    (route, service): (&Route, Identifier),
    keys: Option<&KeysAt>,
    text: &str,
) -> Result<OneUse, CliError> {
    let party = part_in(node, identity, keys).await.map_err(failed)?;
    let ctx = context("ask", API, random_tag()?.as_bytes());
    let mut watch = party.watch().await.map_err(failed)?;
    let key = party.new_key(KeyWish::answer(API, "receipt", ctx)).await.map_err(failed)?;
    let asked = Serde((key.object().encode(), ctx, text.as_bytes().to_vec()));
    let Raw(sealed) = node.route_along(route.clone()).ask(&asked).await.map_err(failed)?;
    let sealed = Sealed::decode(&sealed).map_err(failed)?;
    let pins = Pins::identifiers([service]);
    let first = party.open(&key, &sealed, SealerTrust::Identity(&pins), None).await.map_err(failed)?;
    let second = party.open(&key, &sealed, SealerTrust::Identity(&pins), None).await;
    let life = party.life(&key, &mut watch).await;
    let ended = life.as_ref().ok().and_then(|life| life.ended);
    Ok(OneUse {
        opened: *first.plaintext == confirmation(text.as_bytes()),
        second_use_refused: is_gone(&second),
        destroyed: ended.is_some(),
        proof_checked: ended.is_some_and(|(state, _)| state == DisposableKeyState::Used),
    })
}

/// Whether a key was not used because there is none.
pub(super) fn is_gone<T>(used: &Result<T, NodeError>) -> bool {
    matches!(used, Err(NodeError::Cache(error)) if error.refusal() == Some(CacheRefusal::NotFound))
}

/// An identity's part in exchanges, with its disposable keys in the key service or in this process.
async fn part_in(node: &Node, identity: &Identity, keys: Option<&KeysAt>) -> Result<Exchanges, NodeError> {
    let cache = match keys {
        Some(keys) => CacheClient::new(keys.client(node.name())),
        None => CacheClient::new(LocalCache::start(CacheLimits::default(), Owner::of_user(0))?),
    };
    node.exchanges(identity, cache).await
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> CliError {
    CliError::new(Code::DemoFailed, "got no receipt").because(error)
}
