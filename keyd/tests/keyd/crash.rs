//! A service that is killed: what its clients learn, and what is lost.

use std::time::{Duration, Instant};

use onward::{KEY_DEADLINE, KeyClient, KeyError, Vault};
use onward_keys::{KeyUsage, PublicHalf, SignatureType};
use onward_trials::{Row, Sample, size};

use crate::harness::Daemon;

const APP: &str = r#"
    version = 1
    [[rule]]
    name = "app"
    labels = ["app/*"]
    ops = ["public", "list", "sign", "generate"]
    types = ["prekey"]
    rate = 1000000
"#;

/// Every request that was under way when the service was killed fails with a type, at once; the store is whole, and
/// the next request finds the new service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r21_a_killed_service_costs_typed_errors_and_nothing_else() {
    let row = Row::new("R21");
    let mut daemon = Daemon::start(APP);
    let client = KeyClient::new(&daemon.socket(), rustix::process::geteuid().as_raw(), "app");
    let key = client.generate(KeyUsage::PrekeySigning).await.unwrap();
    let PublicHalf::Verify(public) = client.public(key).await.unwrap() else { panic!("it signs") };
    let (mut failing, mut restarting) = (Sample::default(), Sample::default());
    let (mut made, mut wrong, mut twice) = (1, 0, 0);
    for _ in 0..size(100, 1000) {
        let asking = (0..32).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.sign(key, SignatureType::Prekey, &[7; 40_000]).await })
        });
        let asking: Vec<_> = asking.collect();
        let changing = tokio::spawn({
            let client = client.clone();
            async move { client.generate(KeyUsage::PrekeySigning).await }
        });
        tokio::task::yield_now().await;
        daemon.kill();
        let killed = Instant::now();
        for asked in asking {
            match asked.await.unwrap() {
                Ok(signature) => {
                    assert_eq!(public.verify(SignatureType::Prekey, &[7; 40_000], &signature), Ok(()))
                }
                Err(KeyError::Unavailable(_)) => {}
                Err(_) => wrong += 1,
            }
        }
        let changed = changing.await.unwrap();
        failing.add(killed.elapsed());
        let restarted = Instant::now();
        daemon.kill_and_restart();
        let found = client.list().await.unwrap();
        restarting.add(restarted.elapsed());
        // A key whose making was answered is there; one whose making was not may be.
        assert!(found.iter().any(|info| info.id == key));
        if let Ok(key) = changed {
            assert!(found.iter().any(|info| info.id == key), "an answered key was lost");
        }
        assert!(found.len() >= made, "{} keys after {made}", found.len());
        twice += found.len().saturating_sub(made + 1);
        made = found.len();
    }
    row.exactly("errors without a type", wrong, 0);
    row.exactly("operations done twice", twice, 0);
    row.takes_at_most("slowest error, ms", failing.percentile_ms(100), 100.0);
    row.takes_at_most("median restart, ms", restarting.percentile_ms(50), 500.0);
}

#[tokio::test]
async fn a_service_that_does_not_answer_costs_a_deadline_and_one_that_is_not_there_nothing() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s");
    let uid = rustix::process::geteuid().as_raw();
    let client = KeyClient::new(&socket, uid, "app");
    let start = Instant::now();
    assert!(matches!(client.list().await, Err(KeyError::Unavailable(_))));
    assert!(start.elapsed() < KEY_DEADLINE);
    // Connections are taken by the system, and nobody reads.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let start = Instant::now();
    assert!(matches!(client.list().await, Err(KeyError::Unavailable(_))));
    assert!((KEY_DEADLINE..KEY_DEADLINE + Duration::from_secs(5)).contains(&start.elapsed()));
}

#[tokio::test]
async fn a_service_of_another_user_is_told_nothing() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let client = KeyClient::new(&socket, uid + 1, "app");
    let refused = client.unlock(b"a passphrase", false).await.unwrap_err();
    let KeyError::Unavailable(source) = &refused else { panic!("{refused:?}") };
    assert_eq!(source.to_string(), format!("the key service runs as user {uid}, not {}", uid + 1));
    let (mut stream, _) = listener.accept().unwrap();
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut said).unwrap();
    assert_eq!(said, b"");
}
