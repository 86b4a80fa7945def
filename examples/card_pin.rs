//! A customer reads her card's PIN and sets another, through a company that forwards everything and can read nothing.
//!
//!     cargo run --example card_pin

use std::sync::Arc;

use onward::ok2cry::cache::{CacheLimits, Owner};
use onward::ok2cry::{Direction, KeyObject, Pins, Sealed, SealerTrust, TrustMode, context};
use onward::{CacheClient, Exchanges, Failure, Identity, KeyWish, LocalCache, Node, Raw};

/// The name that the bank's API has for itself.
const API: &str = "card-api";

async fn party(name: &str) -> anyhow::Result<(Node, Identity, Exchanges)> {
    let node = Node::builder(name).start().await?;
    let identity = node.create_identity().await?;
    // For development; a `KeyClient` keeps the disposable keys in the key service instead.
    let cache = LocalCache::start(CacheLimits::default(), Owner::of_user(0))?;
    let exchanges = node.exchanges(&identity, CacheClient::new(cache)).await?;
    Ok((node, identity, exchanges))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ((customer_node, customer, exchanges), (bank_node, bank, at_bank)) =
        (party("customer").await?, party("bank").await?);
    let (read, set) = (context("GET", "/card/7/pin", b"1"), context("PUT", "/card/7/pin", b"2"));
    let trusted = Pins::identifiers([customer.identifier()]);
    // The bank seals the PIN to a key that the customer signed for this very request, and to no other.
    let (sealing, pins) = (at_bank.clone(), trusted.clone());
    let seal = move |Raw(shown): Raw| {
        let (sealing, pins) = (sealing.clone(), pins.clone());
        async move {
            let about = (Direction::AnswerToMe, API, read);
            let key = sealing.verify(KeyObject::decode(&shown)?, about, TrustMode::Identity(&pins), None)?;
            Ok::<_, Failure>(Raw(sealing.seal(key, b"4821", None, &[]).await?.encode().into()))
        }
    };
    bank_node.serve("read-pin", seal).await?;

    // A new PIN comes sealed to a key that the bank made for it.
    let key_for_new = Arc::new(at_bank.new_key(KeyWish::request(API, "set pin", set)).await?);
    let (opening, own, pins) = (at_bank.clone(), Arc::clone(&key_for_new), trusted);
    let open = move |Raw(sealed): Raw| {
        let (opening, own, pins) = (opening.clone(), Arc::clone(&own), pins.clone());
        async move {
            let (sealed, from) = (Sealed::decode(&sealed)?, SealerTrust::Identity(&pins));
            let new = opening.open(&own, &sealed, from, None).await?;
            Ok::<_, Failure>(String::from_utf8_lossy(&new.plaintext) == "9137")
        }
    };
    bank_node.serve("set-pin", open).await?;
    let at_bank = bank_node.listen_tcp("127.0.0.1:0").await?;
    ["read-pin", "set-pin"].into_iter().try_for_each(|worker| at_bank.expose(worker))?;

    // The company in between forwards what it cannot read.
    let company = Node::builder("company").start().await?;
    company.start_hop("hop")?;
    let at_company = company.listen_tcp("127.0.0.1:0").await?;
    at_company.expose("hop")?;
    at_company.allow_dial(at_bank.name())?;
    let way = format!("{} => hop => {}", at_company.name(), at_bank.name());

    let from_bank = Pins::identifiers([bank.identifier()]);
    let key = exchanges.new_key(KeyWish::answer(API, "read pin", read)).await?;
    let shown = Raw(key.object().encode().into());
    let sealed: Raw = customer_node.route(&format!("{way} => read-pin"))?.ask(&shown).await?;
    let sealed = Sealed::decode(&sealed.0)?;
    let pin = exchanges.open(&key, &sealed, SealerTrust::Identity(&from_bank), None).await?;
    println!("the customer reads {}", String::from_utf8_lossy(&pin.plaintext));
    let again = exchanges.open(&key, &sealed, SealerTrust::Identity(&from_bank), None).await;
    println!("opened a second time: {}", again.is_ok());

    let about = (Direction::RequestToMe, API, set);
    let key = exchanges.verify(key_for_new.object().clone(), about, TrustMode::Identity(&from_bank), None)?;
    let sealed = Raw(exchanges.seal(key, b"9137", None, &[]).await?.encode().into());
    let set: bool = customer_node.route(&format!("{way} => set-pin"))?.ask(&sealed).await?;
    println!("the bank has the new PIN: {set}");
    Ok(())
}
