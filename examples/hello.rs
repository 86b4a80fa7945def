//! A node, a closure that answers messages, and somebody who asks it.
//!
//!     cargo run --example hello

use onward::Node;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder("orders").start().await?;
    node.serve("greet", |name: String| async move { Ok(format!("hello, {name}")) }).await?;

    let answer: String = node.route("greet")?.ask(&"world".to_owned()).await?;
    println!("{answer}");
    Ok(())
}
