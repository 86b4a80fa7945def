//! Two nodes over TCP: what is exposed is reached, what is not is not, and nothing is encrypted.
//!
//!     cargo run --example two_nodes_tcp

use std::time::Duration;

use onward::{AskError, Node};

const DRAIN: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The two share a process here for brevity; they know of each other by address only.
    let server = Node::builder("server").start().await?;
    server.serve("upper", |text: String| async move { Ok(text.to_uppercase()) }).await?;
    server.serve("admin", |text: String| async move { Ok(format!("done: {text}")) }).await?;
    let listener = server.listen_tcp("127.0.0.1:0").await?;
    // A peer reaches nothing that was not exposed to it.
    listener.expose("upper")?;

    let client = Node::builder("client").start().await?;
    // The connection is made when the first message names its endpoint.
    let upper = client.route(&format!("{} => upper", listener.name()))?;
    let answer: String = upper.ask(&"over tcp".to_owned()).await?;
    println!("upper answers: {answer}");

    // A transport is told nothing of what it may not reach, so that asking ends with its deadline.
    let admin = client.route(&format!("{} => admin", listener.name()))?;
    let refused = admin.ask_within::<_, String>(&"stop".to_owned(), Duration::from_millis(300)).await;
    println!("admin is out of reach: {}", matches!(refused, Err(AskError::Deadline(_))));

    client.shutdown(DRAIN).await;
    let report = server.shutdown(DRAIN).await;
    println!("{} workers finished, {} cut off", report.drained, report.cut_off);
    Ok(())
}
