//! One-way messages per second between two routers of one process over TCP.
//!
//!     cargo run --release -p onward-transports --example throughput

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward_routing::{Address, Message, Route, RouteRef};
use onward_transports::{StreamLimits, Streams, TcpOptions, TcpTransport};
use onward_workers::{Echo, FnWorker, Limits, NoReply, Raw, Router, start};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let transport = TcpTransport::new(Streams::new(StreamLimits::default()), TcpOptions::default());
    let (sender, receiver) = (Router::new(Limits::default())?, Router::new(Limits::default())?);
    let listener = transport.listen(&receiver, "127.0.0.1:0".parse()?)?;
    let sink = Address::local("sink")?;
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    let count = FnWorker::new(move |_: Raw| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Ok(NoReply) }
    });
    start(&receiver, &sink, count)?;
    let echo = Address::local("echo")?;
    start(&receiver, &echo, Echo)?;
    receiver.reach_mut().expose(listener.flow(), &sink)?;
    receiver.reach_mut().expose(listener.flow(), &echo)?;

    let endpoint: Address = format!("tcp:{}", listener.local_address()).parse()?;
    let connection = transport.connect(&sender, &endpoint)?;
    connection.connected().await?;
    let route = Route::new([connection.address(), &sink])?;
    for size in [64, 1024, 64 * 1024] {
        let payload = bytes::Bytes::from(vec![7; size]);
        let total = (2_000_000_000 / (size + 400) as u64).min(2_000_000);
        received.store(0, Ordering::Relaxed);
        let began = Instant::now();
        for _ in 0..total {
            let message = Message::with_body(route.as_ref(), RouteRef::default(), &payload);
            sender.send(message).await?;
        }
        while received.load(Ordering::Relaxed) < total {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if began.elapsed() > Duration::from_secs(60) {
                break;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let arrived = received.load(Ordering::Relaxed);
        println!(
            "{size:>6} B: {:>9.0} messages/s, {:>6.0} MB/s, {arrived} of {total}",
            arrived as f64 / seconds,
            arrived as f64 * size as f64 / seconds / 1e6
        );
    }
    let route = Route::new([connection.address(), &echo])?;
    let rounds = 50_000;
    let began = Instant::now();
    // As a task: the main thread is none of the runtime's and costs a wake-up of its own.
    let asking = tokio::spawn(async move {
        for _ in 0..rounds {
            let request = Raw(vec![7; 64].into());
            sender.ask::<Raw, Raw>(&route, &request, Duration::from_secs(5)).await?;
        }
        Ok::<_, onward_workers::AskError>(())
    });
    asking.await??;
    println!("   ask: {:.1} us", began.elapsed().as_secs_f64() / f64::from(rounds) * 1e6);
    connection.close(Duration::from_secs(1)).await;
    listener.close(Duration::from_secs(1)).await;
    Ok(())
}
