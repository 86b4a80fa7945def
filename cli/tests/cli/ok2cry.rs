//! Disposable keys from the command line: made, sealed to, opened once, and their end proved.

use serde_json::Value;

use crate::harness::{Done, Home, eventually, text};
use crate::keyd::Service;

/// Lets this user have disposable keys.
const POLICY: &str = "version = 1\n[[cache]]\nname = \"tests\"\n";

const ABOUT: [&str; 4] = ["--audience", "cards", "--request", "GET /cards/7/pin 42"];

/// A key service with a cache, and two identities: `app` is answered, `bank` answers.
struct Parties {
    service: Service,
}

impl Parties {
    fn start() -> Self {
        let service = Service::start();
        std::fs::write(service.home.path().join("keyd/policy.toml"), POLICY).unwrap();
        service.json(&["keyd", "reload"]);
        for name in ["app", "bank", "stranger"] {
            let made = service.run(&["identity", "create", name]).ok();
            service.run(&["peer", "add", name, made.trim()]).ok();
        }
        Self { service }
    }

    fn home(&self) -> &Home {
        &self.service.home
    }

    /// Makes a key of `app` and returns the file in which it is shown.
    fn shown(&self, more: &[&str]) -> String {
        let words = [&["ok2cry", "new", "--identity", "app"][..], &ABOUT, more].concat();
        let object = self.home().run(&words).ok();
        self.home().file("shown", &object)
    }

    /// What `identity` seals to the key in a file, in a file.
    fn sealed(&self, shown: &str, identity: &str, content: &[u8]) -> String {
        let words = ["ok2cry", "seal", shown, "--trust", "app", "--identity", identity];
        let sealed = self.home().run_with_input(&[&words[..], &ABOUT].concat(), content).ok();
        self.home().file("sealed", &sealed)
    }

    fn open(&self, sealed: &str, more: &[&str]) -> Done {
        self.home().run(&[&["ok2cry", "open", "--file", sealed], more].concat())
    }

    fn proof(&self, which: &str) -> Value {
        self.service.json(&["ok2cry", "proof", which])
    }
}

#[test]
fn a_key_opens_once_and_its_end_is_proved() {
    let parties = Parties::start();
    let shown = parties.shown(&["--purpose", "pin", "--ttl", "10m"]);
    let live = parties.proof(&shown);
    assert_eq!((&live["end"], &live["leaves"]), (&Value::Null, &1.into()));
    assert_eq!(live["seen_before"], Value::Null);
    let sealed = parties.sealed(&shown, "bank", b"4711\0\xff");
    let opened = parties.open(&sealed, &["--trust", "bank", "-o", "json"]).json();
    assert_eq!(opened["content_hex"], "3437313100ff");
    assert_eq!(opened["sealer"], parties.service.json(&["identity", "show", "bank"])["identifier"]);
    parties.open(&sealed, &["--trust", "bank"]).fails("E0709", 69);
    let used = parties.proof(text(&opened["id"]));
    assert_eq!((&used["end"], &used["leaves"]), (&"used".into(), &2.into()));
    assert_eq!(used["created_ms"], live["created_ms"]);
    assert!(used["ended_ms"].as_u64().unwrap() >= live["created_ms"].as_u64().unwrap());
    assert_eq!(used["seen_before"], live["head"]["size"], "the log is watched from one command to the next");
    assert_eq!(used["log"], live["log"]);
    // A log that does not continue what was seen is noticed: as if it had been another one, or a longer one.
    let heads = parties.home().path().join("heads.toml");
    let seen = std::fs::read_to_string(&heads).unwrap();
    let root = text(&used["head"]["root"]);
    let size = format!(" {} ", used["head"]["size"]);
    for changed in [seen.replace(root, &"00".repeat(32)), seen.replace(&size, " 1000 ")] {
        assert_ne!(changed, seen);
        std::fs::write(&heads, changed).unwrap();
        parties.service.run(&["ok2cry", "proof", &shown]).fails("E0710", 1);
    }
    std::fs::write(&heads, seen).unwrap();
    assert_eq!(parties.proof(&shown)["end"], "used");
}

#[test]
fn what_was_sealed_opens_under_each_policy() {
    let parties = Parties::start();
    for policy in ["strong", "noise", "noise-anonymous", "strong-pq"] {
        let shown = parties.shown(&["--policy", policy]);
        let sealed = parties.sealed(&shown, "bank", b"4711");
        let opened = parties.open(&sealed, &["--trust", "bank"]);
        assert_eq!(opened.ok(), "4711", "{policy}");
    }
}

#[test]
fn a_request_goes_the_other_way_and_files_take_the_place_of_pipes() {
    let parties = Parties::start();
    let home = parties.home();
    let path = |name: &str| home.path().parent().unwrap().join(name).to_str().unwrap().to_owned();
    let (shown, sealed, opened) = (path("shown"), path("sealed"), path("opened"));
    let content = home.file("content", "9137");
    let about = ["--audience", "cards", "--direction", "request"];
    let made = home.run(&[&["ok2cry", "new", "--out", &shown, "-o", "json"][..], &about].concat()).json();
    // Nobody knows the identity that signed it but by what was just printed.
    let signer = text(&made["signer"]);
    let seal = ["ok2cry", "seal", &shown, "--trust", signer, "--file", &content, "--out", &sealed];
    home.run(&[&seal[..], &["--audience", "cards"]].concat()).fails("E0708", 77);
    home.run(&[&seal[..], &about].concat()).ok();
    let open = |out: &str| home.run(&["ok2cry", "open", "--file", &sealed, "--trust-any", "--out", out]);
    open("/proc/no/such/directory").fails("E0113", 1);
    open(&opened).ok();
    assert_eq!(std::fs::read_to_string(&opened).unwrap(), "9137");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&opened).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_is_not_sealed_as_agreed_is_refused_and_costs_no_key() {
    let parties = Parties::start();
    let shown = parties.shown(&[]);
    let seal =
        |more: &[&str]| parties.home().run_with_input(&[&["ok2cry", "seal", &shown], more].concat(), b"4711");
    seal(&ABOUT).fails("E0105", 2);
    seal(&[&ABOUT[..], &["--trust", "bank"]].concat()).fails("E0708", 77);
    seal(&["--audience", "other", "--trust", "app"]).fails("E0708", 77);
    seal(&["--audience", "cards", "--trust", "app"]).fails("E0708", 77);
    seal(&["--audience", "cards", "--request", "GET /", "--trust", "app"]).fails("E0101", 2);
    let transitive = seal(&[&ABOUT[..], &["--trust-any"]].concat());
    assert!(transitive.stderr.contains("nobody vouches for it"), "{transitive:?}");
    let stolen = parties.home().file("stolen", &transitive.ok());
    parties.open(&stolen, &["--trust", "bank"]).fails("E0708", 77);
    let forged = parties.sealed(&shown, "stranger", b"0000");
    parties.open(&forged, &["--trust", "bank"]).fails("E0708", 77);
    parties.open(&forged, &[]).fails("E0105", 2);
    let sealed = parties.sealed(&shown, "bank", b"4711");
    assert_eq!(parties.open(&sealed, &["--trust", "bank"]).ok(), "4711");
}

#[test]
fn what_is_no_key_and_nothing_sealed_is_said_to_be_so() {
    let parties = Parties::start();
    let home = parties.home();
    let shown = parties.shown(&["--ttl", "1s"]);
    let pem = home.file("pem", "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n");
    let seal = |shown: &str, content: &[u8]| {
        let words = ["ok2cry", "seal", shown, "--trust", "app"];
        home.run_with_input(&[&words[..], &ABOUT].concat(), content)
    };
    let alone = seal(&pem, b"x");
    alone.fails("E0110", 1);
    assert!(alone.stderr.contains("a public key alone"), "{alone:?}");
    seal(&home.file("letter", "hello"), b"x").fails("E0110", 1);
    seal("missing", b"x").fails("E0110", 1);
    parties.open(&shown, &["--trust", "bank"]).fails("E0110", 1);
    home.run(&["ok2cry", "inspect", &home.file("letter", "hello")]).fails("E0110", 1);
    home.run(&["ok2cry", "proof", &"00".repeat(16)]).fails("E0709", 69);
    home.run(&["ok2cry", "proof", "missing"]).fails("E0110", 1);
    let new = |more: &[&str]| home.run(&[&["ok2cry", "new"][..], &ABOUT, more].concat());
    new(&["--ttl", "16m"]).fails("E0101", 2);
    new(&["--ttl", "500ms"]).fails("E0101", 2);
    new(&["--policy", "weak"]).fails("E0101", 2);
    // That the time of the first one was over is in the log as well.
    let end = eventually("the end of a key", || parties.proof(&shown)["end"].as_str().map(str::to_owned));
    assert_eq!(end, "expired");
    let other = Home::new();
    other.run(&["ok2cry", "proof", &shown]).fails("E0709", 69);
}

#[test]
fn more_than_a_key_takes_is_refused() {
    let parties = Parties::start();
    let seal = |shown: &str, bytes: usize| {
        let words = ["ok2cry", "seal", shown, "--trust", "app"];
        parties.home().run_with_input(&[&words[..], &ABOUT].concat(), &vec![7; bytes])
    };
    let shown = parties.shown(&["--policy", "noise-anonymous"]);
    seal(&shown, 65_535 - 47).fails("E0803", 1);
    assert_eq!(seal(&shown, 65_535 - 48).code, 0);
    let shown = parties.shown(&[]);
    seal(&shown, (1 << 20) - 15).fails("E0803", 1);
    let sealed = parties.home().file("sealed", &seal(&shown, (1 << 20) - 16).ok());
    assert_eq!(
        parties.open(&sealed, &["--trust-any"]).ok().len(),
        (1 << 20) - 16,
        "all that a policy carries"
    );
}

#[test]
fn without_a_service_or_a_rule_in_it_no_key_is_made() {
    let home = Home::new();
    let new = ["ok2cry", "new", "--audience", "cards"];
    let missing = home.run(&new);
    missing.fails("E0701", 69);
    assert!(missing.stderr.contains("onward keyd start"), "{missing:?}");
    let service = Service::start();
    let refused = service.run(&new);
    refused.fails("E0703", 77);
    assert!(refused.stderr.contains("[[cache]]"), "{refused:?}");
    service.json(&["keyd", "lock"]);
    service.run(&new).fails("E0704", 69);
}

#[test]
fn a_key_that_names_a_schema_takes_what_follows_it_at_both_ends() {
    let parties = Parties::start();
    let home = parties.home();
    let pin = home.file("pin.json", r#"{"type":"object","properties":{"pin":{"pattern":"^[0-9]{4}$"}}}"#);
    let other = home.file("other.json", r#"{"type":"object"}"#);
    let shown = parties.shown(&["--schema", &pin]);
    assert_eq!(
        text(&parties.service.json(&["ok2cry", "inspect", &shown])["follows"]).len(),
        64,
        "the key has the digest"
    );
    let seal = |content: &str, more: &[&str]| {
        let words = ["ok2cry", "seal", &shown, "--trust", "app", "--identity", "bank"];
        home.run_with_input(&[&words[..], &ABOUT, more].concat(), content.as_bytes())
    };
    seal(r#"{"pin":"4711"}"#, &[]).fails("E0708", 77);
    seal(r#"{"pin":"4711"}"#, &["--schema", &other]).fails("E0708", 77);
    seal(r#"{"pin":"secret"}"#, &["--schema", &pin]).fails("E0708", 77);
    seal("4711", &["--schema", &pin]).fails("E0708", 77);
    seal("x", &["--schema", &home.file("no.json", "{")]).fails("E0110", 1);
    seal("x", &["--schema", &home.file("far.json", r#"{"$ref":"https://a.example"}"#)]).fails("E0110", 1);
    let sealed = home.file("sealed", &seal(r#"{"pin":"4711"}"#, &["--schema", &pin]).ok());
    parties.open(&sealed, &["--trust", "bank"]).fails("E0708", 77);
    parties.open(&sealed, &["--trust", "bank", "--schema", &other]).fails("E0708", 77);
    assert_eq!(parties.open(&sealed, &["--trust", "bank", "--schema", &pin]).ok(), r#"{"pin":"4711"}"#);
}

/// What `docs/key-service.md` says that an identity in the service needs for exchanges.
const SIGNING: &str = r#"
[[rule]]
name = "app"
labels = ["app/*"]
ops = ["public", "agree", "attest", "generate"]
[[rule]]
name = "exchanges"
labels = ["app/*"]
ops = ["sign"]
types = ["ok2cry-key", "ok2cry-sealed"]
"#;

#[test]
fn an_identity_whose_keys_are_in_the_service_signs_and_seals() {
    let service = Service::start();
    let app = service.operate(&["identity", "create", "app", "--keyd"]);
    std::fs::write(service.home.path().join("keyd/policy.toml"), [POLICY, SIGNING].concat()).unwrap();
    service.json(&["keyd", "reload"]);
    for policy in ["strong", "noise"] {
        let about = ["--audience", "cards", "--identity", "app"];
        let new = [&["ok2cry", "new", "--policy", policy][..], &about].concat();
        let shown = service.home.file("shown", &service.run(&new).ok());
        let trust = text(&app["identifier"]);
        let seal = [&["ok2cry", "seal", &shown, "--trust", trust][..], &about].concat();
        let sealed = service.home.file("sealed", &service.home.run_with_input(&seal, b"4711").ok());
        let opened = service.run(&["ok2cry", "open", "--file", &sealed, "--trust", trust]);
        assert_eq!(opened.ok(), "4711", "{policy}");
    }
    assert!(!service.home.path().join("identities/app/keys").exists(), "no key is in a file");
}

#[test]
fn an_inspection_says_what_holds_and_believes_nothing() {
    let parties = Parties::start();
    let shown = parties.shown(&["--purpose", "pin", "--ttl", "5m"]);
    let inspect = |file: &str| parties.service.json(&["ok2cry", "inspect", file]);
    let key = inspect(&shown);
    assert_eq!((&key["kind"], &key["policy"]), (&"disposable key".into(), &"strong".into()));
    assert_eq!((&key["audience"], &key["purpose"]), (&"cards".into(), &"pin".into()));
    assert_eq!((&key["ttl"], key["public"].as_array().unwrap().len()), (&300.into(), 4));
    assert_eq!(key["signer"], parties.service.json(&["identity", "show", "app"])["identifier"]);
    assert!(text(&key["signature"]).starts_with("holds"), "{key}");
    assert!(key["not_checked"].as_array().unwrap().len() > 2);
    // The purpose is changed, and the signature is not.
    let printed = std::fs::read_to_string(&shown).unwrap();
    let mut bytes = unarmour(&printed);
    let at = bytes.windows(4).position(|bytes| bytes == b"cpin").unwrap();
    bytes[at + 3] = b't';
    let changed = parties.home().path().join("changed");
    std::fs::write(&changed, bytes).unwrap();
    let changed = inspect(changed.to_str().unwrap());
    assert_eq!(changed["purpose"], "pit");
    assert!(text(&changed["signature"]).starts_with("does not hold"), "{changed}");

    let sealed = parties.sealed(&shown, "bank", b"4711");
    let seen = inspect(&sealed);
    assert_eq!((&seen["kind"], &seen["id"]), (&"sealed".into(), &key["id"]));
    assert_eq!(seen["ciphertext"], "20 bytes");
    assert!(!seen.to_string().contains("4711"));
    let file = parties.home().path().join("evidence");
    let file = file.to_str().unwrap();
    parties.service.json(&["ok2cry", "proof", &shown, "--out", file]);
    let evidence = inspect(file);
    assert_eq!(evidence["kind"], "evidence");
    assert!(text(&evidence["leaves"][0]).contains(" created "), "{evidence}");
    assert!(parties.service.run(&["ok2cry", "inspect", &shown]).ok().contains("\naudience      cards\n"));
}

/// What is between the lines.
fn unarmour(text: &str) -> Vec<u8> {
    use base64ct::Encoding as _;
    let digits: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    base64ct::Base64::decode_vec(&digits).unwrap()
}
