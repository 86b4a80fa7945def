//! The embedded queue in a folder.

use std::time::Duration;

use onward_transports::queue::conformance::{self, Abilities};
use onward_transports::queue::{EmbeddedQueue, QueueLimits};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_queue_passes_what_every_queue_has_to() {
    let folder = tempfile::tempdir().unwrap();
    let queue = EmbeddedQueue::open(&folder.path().join("queue"), QueueLimits::default()).await.unwrap();
    let patience = Duration::from_millis(150);
    let abilities = Abilities { recognises_repeats: true, is_orderly: true, patience };
    conformance::all(&queue, abilities).await;
    queue.close().await.unwrap();
}
