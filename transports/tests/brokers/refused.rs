//! What a broker does not allow.

use onward_transports::queue::conformance::{fresh_mailbox, message};
use onward_transports::queue::{self, Lane, QueueError};
use onward_trials::Server;
use tokio::time::timeout;

use crate::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_mosquitto_refuses_is_refused_and_not_unreachable() {
    let Some(server) = Server::start_mute() else { return };
    let broker = queue::connect(&server.url().parse().unwrap()).await.unwrap();
    let subject = fresh_mailbox().lane(Lane::Messages);
    let refused = timeout(PATIENCE, broker.subscribe(subject.clone(), 4)).await.unwrap().err();
    assert!(matches!(refused, Some(QueueError::Refused(_))), "{refused:?}");
    // Whoever publishes first makes the mailbox, which is a subscription too.
    let refused = timeout(PATIENCE, broker.publish(message(&subject, b"nowhere"))).await.unwrap().err();
    assert!(matches!(refused, Some(QueueError::Refused(_))), "{refused:?}");
}
