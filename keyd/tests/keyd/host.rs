//! What the process keeps from the rest of the machine.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use onward_keyd::sandbox;
use onward_keys::general::request::GeneralCall;
use onward_keys::general::{Mode, Scheme};
use onward_keys::service::{Call, NewKey};
use onward_keys::{KeyUsage, SignatureType, private};
use onward_trials::{Row, size};
use rustix::process::{Resource, Rlimit, Signal};

use crate::harness::{Daemon, PASSPHRASE, copied_binary, is_root, private_dir, spawn};
use crate::memory::Core;

/// What a copy of this test program does when it is told to: enters the sandbox and tries what is forbidden there.
#[test]
fn a_sandboxed_process() {
    let Ok(what) = std::env::var(FORBIDDEN) else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let said = sandbox::enter(home.path(), home.path()).unwrap();
    assert_eq!(said.len(), 3);
    fs::write(home.path().join("own"), "may be written").unwrap();
    match what.as_str() {
        "nothing" => {}
        "execve" => drop(Command::new("true").exec()),
        "connect" => drop(std::os::unix::net::UnixStream::connect("s")),
        "tcp" => drop(std::net::TcpStream::connect("127.0.0.1:9")),
        "ptrace" => drop(Command::new("true").spawn()),
        "files" => std::process::exit(if File::open("/etc/hostname").is_err() { 0 } else { 9 }),
        other => panic!("{other}"),
    }
    std::process::exit(0);
}

fn sandboxed(what: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host::a_sandboxed_process", "--nocapture", "--test-threads=1"])
        .env(FORBIDDEN, what)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
}

#[test]
fn n7_6_a_forced_execve_or_connection_ends_the_process() {
    assert_eq!(sandboxed("nothing").code(), Some(0));
    for what in ["execve", "connect", "tcp", "ptrace"] {
        assert_eq!(sandboxed(what).signal(), Some(libc::SIGSYS), "{what}");
    }
    assert_eq!(sandboxed("files").code(), Some(0), "a file of others is not opened");
}

#[test]
fn n7_4_a_process_of_the_same_user_cannot_look_into_it() {
    if !is_root() {
        eprintln!("not tried: another user needs root");
        return;
    }
    let daemon = Daemon::start_as("version = 1", &[], Some(OTHER));
    for file in ["mem", "maps", "environ"] {
        let path = format!("/proc/{}/{file}", daemon.pid());
        let reader = Command::new("head").args(["-c", "1", &path]).uid(OTHER).gid(OTHER).output().unwrap();
        let said = String::from_utf8_lossy(&reader.stderr).into_owned();
        assert!(!reader.status.success() && said.contains("ermission denied"), "{file}: {said}");
    }
}

#[test]
fn a50_a_crash_leaves_no_core() {
    let row = Row::new("A50");
    let old = rustix::process::getrlimit(Resource::Core);
    rustix::process::setrlimit(Resource::Core, Rlimit { current: old.maximum, ..old }).unwrap();
    let mut daemon = Daemon::start("version = 1");
    let before: HashSet<_> = names(daemon.path());
    daemon.signal(Signal::ABORT);
    let status = daemon.wait();
    row.exactly("cores dumped", usize::from(status.core_dumped()), 0);
    row.exactly("files left", names(daemon.path()).difference(&before).count(), 0);
}

/// Every page of the process that root can read.
#[test]
fn a52_no_key_is_found_in_the_memory_of_the_service() {
    if !is_root() {
        eprintln!("not tried: reading another process needs root");
        return;
    }
    let row = Row::new("A52");
    let rule = "version = 1\n[[rule]]\nname = \"x\"\nops = [\"sign\", \"agree\"]\ntypes = [\"prekey\"]";
    let daemon = Daemon::start(rule);
    let mut operator = daemon.operator();
    // Known to this test only by a seed, so that its own memory has none of them either.
    let count = size(50, 1000) as u32;
    let general = |name| KeyUsage::parse(name).unwrap();
    let usages = [
        KeyUsage::PrekeySigning,
        KeyUsage::ChannelStatic,
        general("aes-256:aead"),
        general("hmac-sha256:mac"),
        general("p-256:sign-raw"),
    ];
    let mut keys = Vec::new();
    for at in 0..count {
        let usage = usages[at as usize % usages.len()];
        let mut secret = zeroize::Zeroizing::new(known(at));
        let new = NewKey { usage, label: &format!("key {at}"), expires: None, extractable: false };
        let key = operator.key(Call::Import { key: new, id: None, secret: &secret[..] }).unwrap();
        zeroize::Zeroize::zeroize(&mut *secret);
        keys.push((usage, key.id));
    }
    let peer = private::public_half(KeyUsage::ChannelStatic, &[5; 32]);
    for (usage, key) in &keys {
        let key = *key;
        match usage.name() {
            "prekey-signing" => {
                operator.sign(key, SignatureType::Prekey, b"x").unwrap();
            }
            "channel-static" => {
                operator.agree(key, peer.as_bytes().try_into().unwrap()).unwrap();
            }
            "aes-256:aead" => {
                for mode in [Mode::Gcm, Mode::GcmSiv, Mode::CtrHmac] {
                    operator.bytes(GeneralCall::Encrypt { key, mode, aad: b"", data: b"x" }).unwrap();
                }
            }
            "hmac-sha256:mac" => {
                operator.bytes(GeneralCall::Mac { key, data: b"x" }).unwrap();
            }
            _ => {
                let scheme = Scheme::EcdsaP256Sha256;
                operator.bytes(GeneralCall::SignRaw { key, scheme, message: b"x" }).unwrap();
            }
        }
    }
    // What was computed last may still lie on the stack; this is what lies there after others.
    operator.list();
    let core = Core::take(&daemon);
    row.exactly("keys found in the service's readable memory", core.count((0..count).map(known)), 0);
    row.at_least("KiB searched", core.bytes >> 10, 128);
    assert!(daemon.lines.iter().any(|line| line.starts_with("+ keys at rest")), "{:?}", daemon.lines);
}

#[test]
fn a49_what_stands_in_the_place_of_the_socket_or_directory_is_left_alone() {
    let row = Row::new("A49");
    let mut refused = 0;
    let elsewhere = private_dir();
    for plant in ["file", "link", "directory open", "directory link"] {
        let home = private_dir();
        let target = elsewhere.path().join("target");
        fs::write(&target, "of somebody").unwrap();
        let socket = home.path().join("keyd.sock");
        let mut at = home.path().to_owned();
        match plant {
            "file" => fs::write(&socket, "of somebody").unwrap(),
            "link" => symlink(&target, &socket).unwrap(),
            "directory open" => fs::set_permissions(&at, fs::Permissions::from_mode(0o750)).unwrap(),
            _ => {
                at = elsewhere.path().join("to");
                let _ = fs::remove_file(&at);
                symlink(home.path(), &at).unwrap();
            }
        }
        let said = spawn(&at, &[], None).unwrap_err();
        refused +=
            usize::from(said.starts_with("73 ") || (plant == "directory link" && said.starts_with("1 ")));
        assert_eq!(fs::read_to_string(&target).unwrap(), "of somebody", "{plant}");
        assert!(!home.path().join("keys.store").exists(), "{plant}: {said}");
    }
    row.exactly("planted files refused", refused, 4);
    // A socket that a killed service left is replaced; a second service is not let in.
    let mut daemon = Daemon::start("version = 1");
    assert!(spawn(daemon.path(), &[], None).unwrap_err().starts_with("73 "));
    daemon.kill_and_restart();
    let mode = fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777;
    row.exactly("mode of the socket", mode, 0o600);
}

#[test]
fn a51_without_memory_that_can_be_locked_it_does_not_start_unless_told_to() {
    if !is_root() {
        eprintln!("not tried: another user needs root");
        return;
    }
    let row = Row::new("A51");
    let limited = |options: &str| {
        let home = private_dir();
        std::os::unix::fs::chown(home.path(), Some(OTHER), Some(OTHER)).unwrap();
        let script = format!(
            "ulimit -l 0; echo {PASSPHRASE} | timeout 10 {} serve --dir {} --unlock-stdin --create {options}",
            copied_binary(home.path()).display(),
            home.path().display()
        );
        let run = Command::new("bash").args(["-c", &script]).uid(OTHER).gid(OTHER).output().unwrap();
        String::from_utf8(run.stdout).unwrap()
    };
    row.exactly("started without a word", usize::from(limited("").contains("ready")), 0);
    let told = limited("--allow-swappable-keys");
    row.exactly("started when told to", usize::from(told.contains("ready")), 1);
    assert!(told.contains("- keys at rest: memory that may be written to swap"), "{told}");
}

#[test]
fn a53_nothing_leaks_by_arguments_environment_or_descriptors() {
    let row = Row::new("A53");
    let daemon = Daemon::start("version = 1");
    let pid = daemon.pid();
    let mut found = 0;
    for file in ["cmdline", "environ"] {
        // Of a process that refuses inspection only root may read these.
        let content = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        found += usize::from(content.windows(8).any(|window| PASSPHRASE.as_bytes().starts_with(window)));
    }
    row.exactly("secrets in arguments and environment", found, 0);
    let ours: Vec<_> = fs::read_dir("/proc/self/fd").unwrap().flatten().collect();
    let ours: HashSet<_> = ours.iter().filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    let mut inherited = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("0").trim();
        let closes = u32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC as u32 != 0;
        let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
        // What whoever runs the tests has left open for every process is not the service's.
        inherited += usize::from(number > 2 && !closes && !ours.contains(&target));
    }
    row.exactly("descriptors that a child would inherit", inherited, 0);
}

/// A secret that its number stands for.
pub(crate) fn known(at: u32) -> [u8; 32] {
    onward_keys::hash(&[b"a known secret ".as_slice(), &at.to_be_bytes()].concat())
}

fn names(directory: &Path) -> HashSet<std::ffi::OsString> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

const FORBIDDEN: &str = "ONWARD_KEYD_TEST_FORBIDDEN";
const OTHER: u32 = 65_534;
