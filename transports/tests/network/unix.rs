//! Unix sockets.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use onward_routing::Address;
use onward_transports::{StreamLimits, Streams, TransportError, UnixOptions, UnixTransport};
use onward_workers::{Echo, start};

use crate::{ask, name, route, router};

#[tokio::test]
async fn an_ask_passes_a_socket_that_is_private_and_gone_after_close() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/node");
    let options = UnixOptions::new(directory.path().join("run"));
    let unix = UnixTransport::new(Streams::new(StreamLimits::default()), options);
    let endpoint: Address = "unix:node".parse().unwrap();
    let (server, client) = (router(), router());
    let listener = unix.listen(&server, &endpoint).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    start(&server, &name("echo"), Echo).unwrap();
    server.reach_mut().expose(listener.flow(), &name("echo")).unwrap();

    let connection = unix.connect(&client, &endpoint).unwrap();
    let direct = route([connection.address(), &name("echo")]);
    assert_eq!(ask(&client, &direct, b"direct").await.unwrap(), &b"direct"[..]);
    client.set_dialer(unix);
    let dialled = route([&endpoint, &name("echo")]);
    assert_eq!(ask(&client, &dialled, b"dialled").await.unwrap(), &b"dialled"[..]);

    listener.close(Duration::from_secs(5)).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let unix = UnixTransport::new(Streams::new(StreamLimits::default()), UnixOptions::new(directory.path()));
    let endpoint: Address = "unix:node".parse().unwrap();
    // A listener that is dropped leaves its file behind, as a process that dies does.
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("node")).unwrap());
    let router = router();
    let listener = unix.listen(&router, &endpoint).await.unwrap();
    assert!(matches!(unix.listen(&router, &endpoint).await, Err(TransportError::InUse(_))));
    listener.close(Duration::ZERO).await;

    std::fs::write(directory.path().join("node"), "precious").unwrap();
    assert!(matches!(unix.listen(&router, &endpoint).await, Err(TransportError::Listen { .. })));
    assert_eq!(std::fs::read(directory.path().join("node")).unwrap(), b"precious");
}

#[tokio::test]
async fn a_directory_that_others_may_write_to_and_a_name_that_leads_out_of_it_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let unix = UnixTransport::new(Streams::new(StreamLimits::default()), UnixOptions::new(directory.path()));
    let router = router();
    let out: Address = "unix:..".parse().unwrap();
    assert!(matches!(unix.listen(&router, &out).await, Err(TransportError::Endpoint(_))));
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let endpoint: Address = "unix:node".parse().unwrap();
    assert!(matches!(unix.listen(&router, &endpoint).await, Err(TransportError::Listen { .. })));
}
