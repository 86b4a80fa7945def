//! Three nodes in one process: each has its own names, sockets and end, and none knows of another.
//!
//!     cargo run --example several_nodes

use std::time::Duration;

use onward::{Echo, Node};

const DRAIN: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut nodes = Vec::new();
    for name in ["north", "south", "west"] {
        let node = Node::builder(name).start().await?;
        // The same worker's name three times: names belong to a node, not to the process.
        node.serve("who", move |_: ()| async move { Ok(name.to_owned()) }).await?;
        let listener = node.listen_tcp("127.0.0.1:0").await?;
        listener.expose("who")?;
        nodes.push((node, listener));
    }
    let [(north, _), (south, at_south), (west, at_west)] = &nodes[..] else { unreachable!("three nodes") };
    north.start_worker("extra", Echo)?;

    let own: String = north.route("who")?.ask(&()).await?;
    let next: String = north.route(&format!("{} => who", at_south.name()))?.ask(&()).await?;
    println!("north asks itself: {own}; its neighbour: {next}");
    println!(
        "south has the worker that was added to north: {}",
        south.route("extra")?.send(&()).await.is_ok()
    );

    // One of them ends; the others do not notice.
    south.shutdown(DRAIN).await;
    let far: String = north.route(&format!("{} => who", at_west.name()))?.ask(&()).await?;
    println!("south has ended; north asks {far}");
    north.shutdown(DRAIN).await;
    let last: String = west.route("who")?.ask(&()).await?;
    println!("the last one left is {last}");
    Ok(())
}
