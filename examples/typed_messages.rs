//! Requests and answers are Rust types; an error that the caller should see is a value among them.
//!
//!     cargo run --example typed_messages

use minicbor::{Decode, Encode};
use onward::{AskError, Failure, Node, Serde};

#[derive(Encode, Decode)]
struct Order {
    #[n(0)]
    item: String,
    #[n(1)]
    pieces: u32,
}

#[derive(Debug, Encode, Decode)]
enum Refusal {
    #[n(0)]
    SoldOut {
        #[n(0)]
        left: u32,
    },
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Settings {
    currency: String,
}

/// The outer `Result` is the worker's own failure, the inner one the answer.
async fn take(order: Order) -> Result<Result<String, Refusal>, Failure> {
    if order.pieces == 0 {
        return Err(Failure::new("an empty order; the caller learns only that it failed"));
    }
    let left = 3;
    let packed = || format!("{} packed", order.item);
    Ok(if order.pieces > left { Err(Refusal::SoldOut { left }) } else { Ok(packed()) })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let node = Node::builder("shop").start().await?;
    node.serve("orders", take).await?;
    let orders = node.route("orders")?;
    for pieces in [2, 5, 0] {
        let answer = orders.ask(&Order { item: "teapot".to_owned(), pieces }).await;
        match answer {
            Ok(Ok::<String, Refusal>(packed)) => println!("{pieces}: {packed}"),
            Ok(Err(Refusal::SoldOut { left })) => println!("{pieces}: only {left} left"),
            Err(AskError::Reported { code, .. }) => println!("{pieces}: {code}"),
            Err(other) => return Err(other.into()),
        }
    }

    node.serve("settings", |_: ()| async { Ok(Serde(Settings { currency: "EUR".to_owned() })) }).await?;
    let Serde(settings): Serde<Settings> = node.route("settings")?.ask(&()).await?;
    println!("prices in {}", settings.currency);
    Ok(())
}
