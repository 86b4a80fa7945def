//! A message passes two hops of one node and shows the way back that they wrote for it.
//!
//!     cargo run --example hop

use onward::{Context, Failure, Node, Worker};

/// Answers with the names on the way back of the question it was asked.
struct WhichWay;

impl Worker for WhichWay {
    type Request = String;
    type Reply = String;

    async fn handle(&mut self, context: &mut Context, question: String) -> Result<String, Failure> {
        let back = context.return_route();
        // The last address is the asker's, a random one that is good for this answer only.
        let hops = back.as_ref().iter().filter(|address| !address.value().starts_with('#'));
        let names: Vec<_> = hops.map(|address| address.to_string()).collect();
        Ok(format!("{question} By {}, then to you.", names.join(" and ")))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let node = Node::builder("one").start().await?;
    node.start_hop("left")?;
    node.start_hop("right")?;
    node.start_worker("guide", WhichWay)?;

    // Each hop takes itself off the onward route and puts itself on the return route.
    let guide = node.route("left => right => guide")?;
    println!("sent along {}", guide.route());
    let answer: String = guide.ask(&"Which way back?".to_owned()).await?;
    println!("{answer}");

    // What cannot be delivered is an error, never silence.
    let lost = node.route("left => nobody")?.ask::<_, String>(&"Anyone?".to_owned()).await;
    println!("no worker: {}", lost.is_err());
    Ok(())
}
