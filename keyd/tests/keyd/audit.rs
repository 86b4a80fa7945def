//! The record of what was done.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use onward_keys::audit::{AuditError, Event, Tree, verify};
use onward_keys::service::Call;
use onward_keys::{KeyUsage, PublicKey, SignatureAlgorithm, SignatureType};

use crate::harness::{Client, Daemon, PASSPHRASE, binary, private_dir, spawn};

#[test]
fn what_was_done_and_what_was_refused_is_on_record() {
    let mut daemon = Daemon::start("version = 1");
    let mut operator = daemon.operator();
    let key = operator.make(KeyUsage::PrekeySigning, "app/a");
    operator.sign(key.id, SignatureType::Prekey, b"x").unwrap();
    daemon.client().sign(key.id, SignatureType::Prekey, b"x").unwrap_err();
    operator.done(Call::Destroy(key.id)).unwrap();
    let audit_key = audit_key(&daemon);
    daemon.stop();
    let (log, heads) = files(&daemon);
    let mut events = Vec::new();
    Tree::read(&log[..], |leaf, _, _| events.push(leaf.entry.event)).unwrap();
    use Event::{Created, Destroyed, FailedUse, Start, Stop, Used};
    assert_eq!(events, [Start, Created, Used, FailedUse, Destroyed, Stop]);
    let verified = verify(&log[..], &heads[..], &audit_key).unwrap();
    assert_eq!((verified.leaves, verified.signed), (6, 6), "the end is signed for");
    // The key is named by the log alone.
    assert!(!log.windows(16).any(|window| window == key.id.as_bytes()));
}

#[test]
fn a_log_goes_on_after_a_kill_and_an_edited_one_is_not_continued() {
    let mut daemon = Daemon::start("version = 1");
    daemon.operator().make(KeyUsage::PrekeySigning, "app/a");
    let audit_key = audit_key(&daemon);
    daemon.kill_and_restart();
    daemon.operator().make(KeyUsage::PrekeySigning, "app/b");
    daemon.stop();
    let (log, heads) = files(&daemon);
    assert_eq!(verify(&log[..], &heads[..], &audit_key).unwrap().leaves, 5);
    let mut edited = log.clone();
    edited[20] ^= 1;
    assert!(matches!(
        verify(&edited[..], &heads[..], &audit_key),
        Err(AuditError::Malformed { seq: 0, .. }
            | AuditError::Unchained { seq: 1 }
            | AuditError::OtherRoot { .. })
    ));
    std::fs::write(daemon.path().join("audit.log"), &edited).unwrap();
    let refused = spawn(daemon.path(), &[], None).unwrap_err();
    assert!(refused.contains("store failed"), "{refused} with {PASSPHRASE:.1}");
}

#[test]
fn a_full_disk_tears_no_leaf_and_the_log_goes_on_when_there_is_room_again() {
    let home = private_dir();
    std::fs::write(home.path().join("policy.toml"), "version = 1").unwrap();
    // No file grows beyond 8 KiB: what is written there is refused, as on a full disk.
    let start = "trap '' XFSZ; ulimit -f 16; exec \"$0\" serve --unlock-stdin --create --dir \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", start, binary()]).arg(home.path());
    let mut full = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(full.stdin.take().unwrap(), "{PASSPHRASE}").unwrap();
    let mut said = BufReader::new(full.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "ready"));
    let socket = home.path().join("keyd.sock");
    let mut operator = Client::connect(&socket);
    operator.unlock(PASSPHRASE).unwrap();
    let key = operator.make(KeyUsage::PrekeySigning, "app/a");
    let mut signed = 0;
    while operator.sign(key.id, SignatureType::Prekey, b"x").is_ok() {
        signed += 1;
        assert!(signed < 1_000, "the log takes no more");
    }
    assert!(signed > 10);
    full.kill().unwrap();
    full.wait().unwrap();

    let (mut again, _) = spawn(home.path(), &[], None).expect("the log is continued");
    let mut operator = Client::connect(&socket);
    operator.unlock(PASSPHRASE).unwrap();
    operator.sign(key.id, SignatureType::Prekey, b"x").unwrap();
    again.kill().unwrap();
    again.wait().unwrap();
    let log = std::fs::read(home.path().join("audit.log")).unwrap();
    let mut used = 0;
    Tree::read(&log[..], |leaf, _, _| used += u32::from(leaf.entry.event == Event::Used)).unwrap();
    assert!(used > 10, "{used} uses are on record");
}

fn audit_key(daemon: &Daemon) -> PublicKey {
    let key = daemon.operator().list().into_iter().find(|key| key.usage == KeyUsage::AuditSigning).unwrap();
    PublicKey::new(SignatureAlgorithm::Ed25519, &key.public).unwrap()
}

fn files(daemon: &Daemon) -> (Vec<u8>, Vec<u8>) {
    let read = |name| std::fs::read(daemon.path().join(name)).unwrap();
    (read("audit.log"), read("audit.heads"))
}
