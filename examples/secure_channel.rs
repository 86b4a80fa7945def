//! Alice asks her bank through a company that carries every byte of it and can read none.
//!
//!     cargo run --example secure_channel

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use onward::{Context, Failure, NoReply, Node, Peer, Raw, Route, Trust, Worker};

const SECRET: &str = "my card PIN is 1905";

/// Passes messages on, and searches each of them for the secret.
struct Curious {
    to: Route,
    carried: Arc<AtomicUsize>,
    found: Arc<AtomicUsize>,
}

impl Worker for Curious {
    type Request = Raw;
    type Reply = NoReply;

    async fn handle(&mut self, context: &mut Context, Raw(bytes): Raw) -> Result<NoReply, Failure> {
        self.carried.fetch_add(1, Relaxed);
        let found = bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
        self.found.fetch_add(found.into(), Relaxed);
        context.forward(&self.to).await?;
        Ok(NoReply)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (alice_node, bank_node) =
        (Node::builder("alice").start().await?, Node::builder("bank").start().await?);
    let (alice, bank) = (alice_node.create_identity().await?, bank_node.create_identity().await?);

    // The bank lets in Alice's identity and nobody else's, and answers inside channels only.
    bank_node.serve("pin", |text: String| async move { Ok(text.len()) }).await?;
    bank_node.accept_channels("door", &bank, Trust::pinned([alice.identifier()]))?.expose("pin")?;
    let at_bank = bank_node.listen_tcp("127.0.0.1:0").await?;
    at_bank.expose("door")?;

    let company = Node::builder("company").start().await?;
    let (carried, found) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let to = at_bank.name().parse()?;
    company.start_worker("carry", Curious { to, carried: carried.clone(), found: found.clone() })?;
    let at_company = company.listen_tcp("127.0.0.1:0").await?;
    at_company.expose("carry")?;

    // Alice accepts an answer from the bank's identity and nobody else's.
    let route = format!("{} => carry => door", at_company.name()).parse()?;
    let channel = alice_node.open_channel(&alice, route, Peer::Identity(bank.identifier())).await?;
    let pin = alice_node.route_along(channel.route_to("pin")?);
    println!("the bank read {} bytes", pin.ask::<_, usize>(&SECRET.to_owned()).await?);
    println!("the company carried something: {}", carried.load(Relaxed) > 0);
    println!("messages in which it found the secret: {}", found.load(Relaxed));
    Ok(())
}
