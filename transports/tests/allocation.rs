//! What a peer can make a node allocate. Specification: docs/protocol.md §1.3 *Limits*, §2.1.
//!
//! One test, because the allocator counts for the whole process.

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onward_routing::{Address, Message, Route, RouteRef};
use onward_transports::{StreamLimits, Streams, TcpOptions, TcpTransport};
use onward_workers::{FnWorker, Limits, NoReply, Raw, Router, start};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MANY: u64 = 1_000_000;

#[tokio::test]
async fn n2_1_n1_8_a_peer_makes_a_node_hold_little_memory() {
    let router = Router::new(Limits::default()).unwrap();
    let tcp = TcpTransport::new(Streams::new(StreamLimits::default()), TcpOptions::default());
    let listener = tcp.listen(&router, "127.0.0.1:0".parse().unwrap()).unwrap();
    let stuck = Address::local("stuck").unwrap();
    let worker = FnWorker::new(|_: Raw| async {
        std::future::pending::<()>().await;
        Ok(NoReply)
    });
    start(&router, &stuck, worker).unwrap();
    router.reach_mut().expose(listener.flow(), &stuck).unwrap();
    let connect = async || {
        let mut stream = TcpStream::connect(listener.local_address()).await.unwrap();
        stream.write_all(b"ONWD\x01\x00\x00\x00").await.unwrap();
        stream.read_exact(&mut [0; 8]).await.unwrap();
        stream
    };
    // What is set up once, such as a thread's own buffers, does not count.
    drop(connect().await);

    // A length beyond every limit ends the connection; nothing is allocated for it.
    let region = Region::new(ALLOCATOR);
    let mut stream = connect().await;
    stream.write_all(&[0xff; 4]).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    let allocated = region.change().bytes_allocated;
    assert!(allocated < 64 * 1024, "{allocated} bytes for a length of 4 GiB");

    // An allowed length that is only announced takes no more than what is sent.
    let region = Region::new(ALLOCATOR);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = connect().await;
        stream.write_all(&(1_u32 << 20).to_be_bytes()).await.unwrap();
        stream.write_all(&[0x87; 100]).await.unwrap();
        streams.push(stream);
    }
    let allocated = region.change().bytes_allocated;
    assert!(allocated < 10 * 64 * 1024, "{allocated} bytes for 10 announced frames of 1 MiB");
    drop(streams);

    // Tiny messages for a worker that takes none: its mailbox and lane fill, the rest is refused.
    let onward = Route::from(stuck);
    let mut tiny = vec![0; 4];
    Message::new(onward.as_ref(), RouteRef::default(), b"").encode(&mut tiny);
    tiny[3] = (tiny.len() - 4) as u8;
    let frames = tiny.repeat(1000);
    let mut stream = connect().await;
    let region = Region::new(ALLOCATOR);
    let mut most = 0;
    let mut held = || {
        let change = region.change();
        most = most.max(change.bytes_allocated.saturating_sub(change.bytes_deallocated));
        most
    };
    for _ in 0..MANY / 1000 {
        stream.write_all(&frames).await.unwrap();
        held();
    }
    let refused = || router.counters().undeliverable.load(Ordering::Relaxed);
    let waiting = async {
        while refused() < MANY - 4096 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), waiting).await.is_ok(), "{} refused", refused());
    assert!(refused() < MANY);
    assert!(held() < 4 << 20, "{} bytes held", held());
    assert_eq!(Arc::strong_count(&tcp), 1);
}
