//! A socket that a service manager holds: clients connect before there is a service, which is started for them.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use onward_keys::service::{Call, Refusal};

use crate::harness::{Client, Not, PASSPHRASE, binary, private_dir, spawn};

/// Starts a service as `sd_listen_fds(3)` says: the socket is descriptor 3.
fn start_with(socket: OwnedFd, home: &Path) -> Child {
    let start = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" serve --dir \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", start, binary()]).arg(home);
    command.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn who_waits_at_the_socket_of_a_service_manager_is_served() {
    let home = private_dir();
    std::fs::write(home.path().join("policy.toml"), "version = 1").unwrap();
    // The store is made by a service that the manager did not start.
    let (mut first, _) = spawn(home.path(), &[], None).unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    std::fs::remove_file(home.path().join("keyd.sock")).unwrap();

    let place = home.path().join("managed");
    let listener = UnixListener::bind(&place).unwrap();
    // `PassCredentials=yes` of the unit.
    rustix::net::sockopt::set_socket_passcred(&listener, true).unwrap();
    let mut early = Client::connect(&place);
    let waiting = std::thread::spawn(move || early.done(Call::Lock));
    let mut service = start_with(listener.into(), home.path());
    assert_eq!(waiting.join().unwrap(), Err(Not::Refused(Refusal::Locked)), "it starts locked");
    Client::connect(&place).unlock(PASSPHRASE).unwrap();
    assert!(!home.path().join("keyd.sock").exists(), "it makes no other socket");
    service.kill().unwrap();
    service.wait().unwrap();
}

#[test]
fn what_is_no_listening_unix_socket_is_refused() {
    let home = private_dir();
    std::fs::write(home.path().join("policy.toml"), "version = 1").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(start_with(tcp.into(), home.path()).wait().unwrap().code(), Some(1));
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(start_with(one.into(), home.path()).wait().unwrap().code(), Some(1));
}
