//! Workers that fail are restarted by rules; their callers are told, and their mailboxes survive.
//!
//!     cargo run --example supervision

use std::time::Duration;

use onward::{Address, Context, Failure, Node, Restart, Strategy, Supervisor, Worker};

/// Counts its messages, and panics when it is told to.
struct Counter(u32);

impl Worker for Counter {
    type Request = bool;
    type Reply = u32;

    async fn handle(&mut self, _: &mut Context, fail: bool) -> Result<u32, Failure> {
        assert!(!fail, "told to fail");
        self.0 += 1;
        Ok(self.0)
    }
}

async fn count(node: &Node, worker: &str) -> anyhow::Result<u32> {
    Ok(node.route(worker)?.ask(&false).await?)
}

async fn fail(node: &Node, worker: &str) -> anyhow::Result<()> {
    let Err(error) = node.route(worker)?.ask::<_, u32>(&true).await else {
        anyhow::bail!("the panic was not told")
    };
    println!("{worker}: {error}");
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let node = Node::builder("n").start().await?;
    // The cache is built on the store: when the store is restarted, the cache is too.
    let supervisor = Supervisor::new(Strategy::RestForOne)
        .intensity(2, Duration::from_secs(60))
        .child(Address::local("store")?, Restart::Permanent, || Counter(0))
        .child(Address::local("cache")?, Restart::Permanent, || Counter(0));
    let running = node.supervise("shop", supervisor)?;

    println!("store {}, cache {}", count(&node, "store").await?, count(&node, "cache").await?);
    fail(&node, "cache").await?;
    println!("store {}, cache {}", count(&node, "store").await?, count(&node, "cache").await?);
    fail(&node, "store").await?;
    println!("store {}, cache {}", count(&node, "store").await?, count(&node, "cache").await?);

    // Restarting does not help for ever: the third failure in a minute ends them all.
    fail(&node, "store").await?;
    println!("supervisor: {:?}", running.ended().await);
    println!("store answers: {}", count(&node, "store").await.is_ok());
    Ok(())
}
