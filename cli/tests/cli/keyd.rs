//! The key service from the command line: what is typed, printed and asked for.

use std::path::Path;
use std::process::Command;
use std::sync::Once;

use crate::harness::{Done, Home, text};

/// The service's program lies beside `onward`, but cargo builds it with another package.
pub(crate) fn build_service() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let profile = Path::new(env!("CARGO_BIN_EXE_onward")).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--quiet", "--package", "onward-keyd", "--target-dir"]);
        build.arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
    });
}

/// A running service, which ends with the test.
pub(crate) struct Service {
    pub(crate) home: Home,
    pid: u64,
}

impl Service {
    pub(crate) fn start() -> Self {
        build_service();
        let home = Home::new();
        let done = home.run_with_input(&["keyd", "start", "--background", "-o", "json"], PASSPHRASE);
        assert_eq!(done.code, 0, "{done:?}");
        let said: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        Self { home, pid: said["pid"].as_u64().unwrap() }
    }

    /// Runs a command that needs no passphrase.
    pub(crate) fn run(&self, words: &[&str]) -> Done {
        self.home.run(words)
    }

    /// Runs a command that asks for the passphrase.
    pub(crate) fn operate(&self, words: &[&str]) -> serde_json::Value {
        let done = self.home.run_with_input(&[words, &["-o", "json"]].concat(), PASSPHRASE);
        assert_eq!(done.code, 0, "{words:?} {done:?}");
        serde_json::from_str(&done.stdout).unwrap()
    }

    pub(crate) fn json(&self, words: &[&str]) -> serde_json::Value {
        let done = self.run(&[words, &["-o", "json"]].concat());
        assert_eq!(done.code, 0, "{words:?} {done:?}");
        serde_json::from_str(&done.stdout).unwrap()
    }
}

#[test]
fn the_cache_says_what_it_holds_and_nothing_of_any_key() {
    let service = Service::start();
    let status = service.json(&["cache", "status"]);
    assert_eq!(
        (&status["live"], &status["remembered"], &status["epoch_keys"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert_eq!(status["leaves"], 1, "its start is on record");
    assert_eq!(status["signer"].as_str().unwrap().len(), 64);
    assert!(service.run(&["cache", "status"]).stdout.starts_with("live        0\n"));
    assert_eq!(service.run(&["keyd", "lock"]).code, 0);
    assert_ne!(service.run(&["cache", "status"]).code, 0, "a locked service has no cache");
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.pid.to_string()).status();
    }
}

#[test]
fn a_key_is_made_listed_rotated_and_destroyed() {
    let service = Service::start();
    let made =
        service.operate(&["key", "create", "orders/signer", "--usage", "credential-signing", "--days", "9"]);
    assert_eq!((&made["state"], &made["usage"]), (&"active".into(), &"credential-signing".into()));
    assert_eq!(service.operate(&["key", "show", "orders/signer"]), made);
    assert_eq!(service.json(&["key", "ls"])["keys"], serde_json::json!([]), "no rule shows it");
    let rotated = service.operate(&["key", "rotate", "orders/signer"]);
    assert_ne!(rotated["public"], made["public"]);
    let old = made["id"].as_str().unwrap();
    assert_eq!(service.operate(&["key", "show", old])["state"], "disabled");
    service.operate(&["key", "disable", "orders/signer"]);
    service.operate(&["key", "enable", old]);
    assert_eq!(service.operate(&["key", "destroy", old])["state"], "destroyed");
    let all = service.operate(&["key", "ls", "--all"]);
    assert_eq!(all["keys"].as_array().unwrap().len(), 3, "the log's own key is one");
    let wrong = service.home.run_with_input(&["key", "show", "orders/signer"], b"wrong\n");
    wrong.fails("E0703", 77);
}

#[test]
fn a_key_of_general_use_is_made_listed_and_wrapped() {
    let service = Service::start();
    let create =
        |label, kind, family| service.operate(&["key", "create", label, "--type", kind, "--for", family]);
    let signer = create("orders/signing", "p-256", "sign-raw");
    assert_eq!((&signer["type"], &signer["usage"]), (&"p-256".into(), &"p-256:sign-raw".into()));
    assert_eq!(signer["public"].as_str().unwrap().len(), 2 * 65);
    assert_eq!(create("orders/post", "ml-dsa-65", "sign-raw")["type"], "ml-dsa-65");
    assert_eq!(create("orders/backup", "aes-256", "wrap")["extractable"], false);
    let leaves = ["key", "create", "orders/archive", "--type", "aes-256", "--for", "aead", "--extractable"];
    assert_eq!(service.operate(&leaves)["extractable"], true);
    let listed = service.operate(&["key", "ls", "--all"]);
    let types: Vec<_> = listed["keys"].as_array().unwrap().iter().map(|key| &key["type"]).collect();
    for kind in ["ed25519", "p-256", "ml-dsa-65", "aes-256"] {
        assert!(types.iter().any(|it| *it == kind), "{kind} is not among {types:?}");
    }
    let wrapped = service.operate(&["key", "wrap", "orders/archive", "--with", "orders/backup"]);
    let wrapped = wrapped["wrapped"].as_str().unwrap();
    let refuse = |arguments: &[&str], input: &[&[u8]], code: &str, exit: i32| {
        service.home.run_with_input(arguments, &input.concat()).fails(code, exit);
    };
    refuse(&["key", "wrap", "orders/signing", "--with", "orders/backup"], &[PASSPHRASE], "E0703", 77);
    let unwrap = ["key", "unwrap", "--with", "orders/backup"];
    refuse(&unwrap, &[PASSPHRASE, wrapped.as_bytes(), b"\n"], "E0703", 77);
    refuse(&unwrap, &[PASSPHRASE, b"00\n"], "E0110", 1);
    refuse(&unwrap, &[PASSPHRASE, b"0g\n"], "E0110", 1);
    refuse(&["key", "create", "x", "--type", "aes-128", "--for", "sign-raw"], &[PASSPHRASE], "E0101", 2);
    refuse(&["key", "create", "x", "--type", "aes-128"], &[PASSPHRASE], "E0101", 2);
}

#[test]
fn a_wrapped_key_is_taken_to_another_service_that_has_the_wrapping_key() {
    let (here, there) = (Service::start(), Service::start());
    let ask = |service: &Service, words: &[&str], line: &str| {
        let input = [PASSPHRASE, line.as_bytes(), b"\n"].concat();
        let done = service.home.run_with_input(&[words, &["-o", "json"]].concat(), &input);
        assert_eq!(done.code, 0, "{words:?} {done:?}");
        serde_json::from_str::<serde_json::Value>(&done.stdout).unwrap()
    };
    for service in [&here, &there] {
        let words = ["key", "create", "backup", "--type", "aes-256", "--for", "wrap", "--private"];
        ask(service, &words, &"5a".repeat(32));
    }
    let words = ["key", "create", "signing", "--type", "p-384", "--for", "sign-raw", "--extractable"];
    let made = here.operate(&words);
    let wrapped = here.operate(&["key", "wrap", "signing", "--with", "backup"]);
    let taken = ask(&there, &["key", "unwrap", "--with", "backup"], wrapped["wrapped"].as_str().unwrap());
    assert_eq!((&taken["label"], &taken["public"]), (&made["label"], &made["public"]));
    assert_eq!(there.operate(&["key", "show", "signing"])["extractable"], true);
}

#[test]
fn the_service_is_locked_unlocked_and_told_of_a_new_policy() {
    let service = Service::start();
    let uid = rustix::process::geteuid().as_raw();
    service.operate(&["key", "create", "orders/a", "--usage", "channel-static"]);
    let policy = service.home.path().join("keyd/policy.toml");
    assert!(std::fs::read_to_string(&policy).unwrap().contains("version = 1"));
    std::fs::write(&policy, "version = 1\n[[rule]]\nname = \"x\"\nops = [\"lst\"]").unwrap();
    service.run(&["keyd", "policy", "check"]).fails("E0706", 78);
    service.run(&["keyd", "reload"]).fails("E0701", 69);
    let rule = format!(
        "version = 1\n[[rule]]\nname = \"x\"\nuid = [{uid}]\nlabels = [\"orders/*\"]\nops = [\"list\"]"
    );
    std::fs::write(&policy, rule).unwrap();
    assert_eq!(service.json(&["keyd", "policy", "check"])["said"][0], "1 rules");
    let wish = ["keyd", "policy", "explain", &format!("uid={uid}"), "label=orders/a", "op=agree"];
    assert_eq!(service.json(&wish)["said"][0], "rule 1 `x`: is for other operations");
    assert_eq!(service.json(&["keyd", "reload"])["rules"], 1);
    assert_eq!(service.json(&["key", "ls"])["keys"][0]["label"], "orders/a");
    assert_eq!(service.json(&["keyd", "lock"])["unlocked"], false);
    service.run(&["keyd", "lock"]).fails("E0704", 69);
    assert_eq!(service.json(&["keyd", "status"])["unlocked"], false);
    service.home.run_with_input(&["keyd", "unlock"], b"wrong\n").fails("E0703", 77);
    service.operate(&["keyd", "unlock"]);
    assert_eq!(service.json(&["keyd", "status"])["unlocked"], true);
}

#[test]
fn another_passphrase_takes_the_place_of_the_old_one() {
    let service = Service::start();
    let lines = [PASSPHRASE, b"another one\n"].concat();
    let changed = service.home.run_with_input(&["keyd", "passphrase"], &lines);
    assert_eq!(changed.code, 0, "{changed:?}");
    service.home.run_with_input(&["keyd", "unlock"], PASSPHRASE).fails("E0703", 77);
    assert_eq!(service.home.run_with_input(&["keyd", "unlock"], b"another one\n").code, 0);
    service.home.run_with_input(&["keyd", "passphrase"], &lines).fails("E0703", 77);
    service.home.run_with_input(&["keyd", "passphrase"], b"another one\n").fails("E0110", 1);
}

#[test]
fn the_keys_of_a_development_identity_are_taken_over_under_their_names() {
    let service = Service::start();
    assert_eq!(service.run(&["identity", "create", "shop"]).code, 0);
    let taken = service.operate(&["key", "import", "shop"]);
    let keys = taken["keys"].as_array().unwrap();
    let usages: Vec<_> = keys.iter().map(|key| key["usage"].as_str().unwrap()).collect();
    assert_eq!(usages.iter().filter(|usage| **usage == "identity").count(), 2);
    assert!(usages.contains(&"channel-static"));
    let again = service.home.run_with_input(&["key", "import", "shop"], PASSPHRASE);
    again.fails("E0703", 77);
}

/// The policy under which programs use the keys of `shop`.
const SHOP: &str = "version = 1\n[[rule]]\nname = \"shop\"\nlabels = [\"shop/*\"]\nops = [\"public\", \"agree\", \"attest\"]";

#[test]
fn an_identity_whose_keys_are_in_the_service_serves_and_is_rotated() {
    let service = Service::start();
    let made = service.operate(&["identity", "create", "shop", "--keyd"]);
    let identity = service.home.path().join("identities/shop");
    assert!(!identity.join("keys").exists(), "no key is in a file");
    let words =
        ["serve", "echo", "--echo", "--listen", "tcp:127.0.0.1:0", "--trust-any", "--identity", "shop"];
    service.run(&words).fails("E0703", 77);
    std::fs::write(service.home.path().join("keyd/policy.toml"), SHOP).unwrap();
    service.json(&["keyd", "reload"]);
    let (server, said) = service.home.start(&words);
    assert_eq!(said["identifier"], made["identifier"]);
    let route = format!("{} => secure => echo", text(&said["endpoint"]));
    let ask = ["ask", &route, "hello", "--peer", text(&made["identifier"])];
    assert_eq!(Home::new().run(&ask).ok(), "hello");
    // Without the service no channel is opened, and no key is found elsewhere.
    service.json(&["keyd", "lock"]);
    assert_ne!(Home::new().run(&[&ask[..], &["--deadline", "2s"]].concat()).code, 0);
    service.operate(&["keyd", "unlock"]);
    assert_eq!(Home::new().run(&ask).ok(), "hello");
    server.signal("TERM");
    server.end();
    // Who has no passphrase changes no identity.
    service.run(&["identity", "rotate", "shop"]).fails("E0110", 1);
    let rotated = service.operate(&["identity", "rotate", "shop"]);
    assert_eq!(rotated["identifier"], made["identifier"]);
    assert!(!identity.join("keys").exists());
}

#[test]
fn an_identity_that_was_taken_over_uses_the_service() {
    let service = Service::start();
    let made = service.json(&["identity", "create", "shop"]);
    service.operate(&["key", "import", "shop"]);
    std::fs::remove_dir_all(service.home.path().join("identities/shop/keys")).unwrap();
    std::fs::write(service.home.path().join("keyd/policy.toml"), SHOP).unwrap();
    service.json(&["keyd", "reload"]);
    let words =
        ["serve", "echo", "--echo", "--listen", "tcp:127.0.0.1:0", "--trust-any", "--identity", "shop"];
    let (_server, said) = service.home.start(&words);
    let route = format!("{} => secure => echo", text(&said["endpoint"]));
    assert_eq!(Home::new().run(&["ask", &route, "hello", "--peer", text(&made["identifier"])]).ok(), "hello");
}

#[test]
fn the_record_is_verified_and_an_edit_is_found() {
    let service = Service::start();
    service.operate(&["key", "create", "a", "--usage", "prekey-signing"]);
    service.json(&["keyd", "lock"]);
    let verified = service.json(&["audit", "verify"]);
    assert_eq!((verified["leaves"].as_u64(), verified["signed"].as_u64()), (Some(3), Some(3)));
    let shown = service.json(&["audit", "show"]);
    let events: Vec<_> = shown["leaves"].as_array().unwrap().iter().map(|leaf| &leaf["event"]).collect();
    assert_eq!(events, ["start", "created", "stop"]);
    let log = service.home.path().join("keyd/audit.log");
    let mut edited = std::fs::read(&log).unwrap();
    // A record is all of its segments.
    let (first, second) = edited.split_at(edited.len() / 2);
    let next = service.home.path().join("keyd/audit.log.1");
    std::fs::write(&log, first).unwrap();
    std::fs::write(&next, second).unwrap();
    assert_eq!(service.json(&["audit", "verify"])["leaves"].as_u64(), Some(3));
    std::fs::remove_file(&next).unwrap();
    service.run(&["audit", "verify"]).fails("E0707", 1);
    let last = edited.len() - 1;
    edited[last] ^= 1;
    std::fs::write(&log, edited).unwrap();
    service.run(&["audit", "verify"]).fails("E0707", 1);
    service.run(&["audit", "verify", "--signer", "00"]).fails("E0101", 2);
}

#[test]
fn the_doctor_looks_at_the_machine_and_the_service() {
    let home = Home::new();
    let alone = home.run(&["doctor", "-o", "json"]);
    assert_eq!(alone.code, 0, "{alone:?}");
    assert!(alone.stdout.contains("there is none"), "{alone:?}");
    let service = Service::start();
    let checks = service.json(&["doctor"]);
    let found = |name: &str| {
        let check = checks["checks"].as_array().unwrap().iter().find(|check| check["check"] == name);
        check.unwrap()["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        (found("present"), found("unlocked"), found("user")),
        ("good".into(), "good".into(), "warning".into())
    );
    service.json(&["keyd", "lock"]);
    service.run(&["doctor"]).fails("E0702", 1);
    drop(service);
}

#[test]
fn a_service_that_is_not_there_is_said_to_be_so() {
    let home = Home::new();
    home.run(&["keyd", "status"]).fails("E0701", 69);
    home.run(&["key", "ls"]).fails("E0701", 69);
    home.run(&["audit", "verify"]).fails("E0707", 1);
    home.run_with_input(&["keyd", "start"], b"\n").fails("E0110", 1);
}

const PASSPHRASE: &[u8] = b"a passphrase of a test\n";

#[test]
fn with_a_key_service_no_long_term_key_is_in_an_application() {
    build_service();
    let home = Home::new();
    let done = home.run(&["demo", "chain", "--keyd", "-o", "json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let shown: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    // Two ends, each with the key of its identity, the next one and the static key of its channels.
    assert_eq!((&shown["ok"], &shown["keys_in_service"]), (&true.into(), &6.into()));
    assert_eq!(shown["keys_found_in_apps"], 0);
}

#[test]
fn the_story_of_the_pin_is_the_same_with_the_disposable_keys_in_the_service() {
    build_service();
    let shown = Home::new().run(&["demo", "pin", "--keyd", "-o", "json"]).json();
    assert_eq!((&shown["ok"], &shown["proof_checked"]), (&true.into(), &true.into()), "{shown}");
}
