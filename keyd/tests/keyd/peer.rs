//! Who is answered: the process that connected, with the program that it was, and nobody else.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use onward_keys::KeyUsage;
use onward_keys::service::Call;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::harness::{Client, Daemon, is_root};

/// What a copy of this test program does when it is started as a client: `LIST` over the socket that is named, or
/// over its standard input, and ends with the number of keys that it sees, or with 100 when it is not answered.
#[test]
fn a_client_process() {
    let Some(socket) = std::env::var_os(CLIENT) else {
        return;
    };
    let mut client = if socket == "-" {
        Client::over(UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap()))
    } else {
        Client::connect(Path::new(&socket))
    };
    if let Some(next) = std::env::var_os(BECOMES) {
        // What was connected is handed to another program in the same process.
        let input = OwnedFd::from(client.stream);
        let failed = client_command(Path::new(&next), "-").env_remove(BECOMES).stdin(input).exec();
        panic!("{failed}");
    }
    let seen = client.ask(Call::List, |reply| reply.keys());
    std::process::exit(seen.map_or(100, |keys| keys.len() as i32));
}

#[test]
fn n7_2_a_program_changed_by_one_byte_sees_nothing_and_one_renamed_sees_what_it_did() {
    let world = World::new();
    assert_eq!(world.seen_by(&world.program), 1);
    let renamed = world.place.path().join("renamed");
    std::fs::rename(&world.program, &renamed).unwrap();
    assert_eq!(world.seen_by(&renamed), 1);
    assert_eq!(world.seen_by(&world.changed), 0);
}

#[test]
fn n7_2_a_program_that_becomes_another_after_it_connected_sees_nothing() {
    let world = World::new();
    let mut command = client_command(&world.program, world.daemon.socket().to_str().unwrap());
    let became = command.env(BECOMES, &world.changed).status().unwrap();
    assert_eq!(became.code(), Some(0));
    // The same journey to a copy of itself shows that it is the program that decides.
    let mut command = client_command(&world.program, world.daemon.socket().to_str().unwrap());
    let became = command.env(BECOMES, &world.program).status().unwrap();
    assert_eq!(became.code(), Some(1));
}

#[test]
fn n7_2_another_process_is_not_answered_for_the_one_that_connected() {
    let world = World::new();
    // Whoever speaks by a descriptor is another process than the one that connected it.
    let stream = UnixStream::connect(world.daemon.socket()).unwrap();
    let child = client_command(&world.program, "-").stdin(OwnedFd::from(stream)).status().unwrap();
    assert_eq!(child.code(), Some(100), "the connection ends without an answer");
}

#[test]
fn n7_2_another_user_is_denied_what_the_rule_gives_to_one() {
    if !is_root() {
        eprintln!("not tried: other users need root");
        return;
    }
    let world = World::new();
    let uid = rustix::process::geteuid().as_raw();
    let open = tempfile::tempdir().unwrap();
    std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = open.path().join("s");
    let rule = format!("version = 1\n[[rule]]\nname = \"root\"\nuid = [{uid}]\nops = [\"list\"]");
    let daemon =
        Daemon::start_as(&rule, &["--socket", socket.to_str().unwrap(), "--socket-mode", "660"], None);
    std::os::unix::fs::chown(&socket, None, Some(OTHER)).unwrap();
    let mut operator = Client::connect(&socket);
    operator.unlock(crate::harness::PASSPHRASE).unwrap();
    operator.make(KeyUsage::Identity, "a");
    assert_eq!(Client::connect(&socket).list().len(), 1);
    let other = |command: &mut Command| command.uid(OTHER).gid(OTHER).status().unwrap().code();
    assert_eq!(other(&mut client_command(&world.program, socket.to_str().unwrap())), Some(0));
    drop(daemon);
}

#[test]
fn n7_3_a_connection_by_which_a_descriptor_comes_ends() {
    let daemon = Daemon::start("version = 1");
    let mut client = daemon.client();
    assert!(client.ask(Call::Status, |reply| reply.state()).is_ok());
    let file = std::fs::File::open("/dev/null").unwrap();
    let fds = [file.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let mut framed = onward_keys::WipedBuffer::new();
    onward_keys::service::Request { id: 1, call: Call::Status }.put(&mut framed);
    let parts = [std::io::IoSlice::new(&framed)];
    sendmsg(&client.stream, &parts, &mut control, SendFlags::empty()).unwrap();
    assert_eq!(client.receive(), None);
    assert!(daemon.client().list().is_empty(), "others are answered");
}

#[test]
fn n7_3_a_child_with_its_parents_connection_is_not_answered() {
    let daemon = Daemon::start("version = 1\n[[rule]]\nname = \"all\"\nops = [\"list\"]");
    daemon.operator().make(KeyUsage::Identity, "a");
    let mut parent = daemon.client();
    assert_eq!(parent.list().len(), 1);
    let inherited = OwnedFd::from(parent.stream.try_clone().unwrap());
    let child = client_command(&std::env::current_exe().unwrap(), "-").stdin(inherited).status().unwrap();
    assert_eq!(child.code(), Some(100));
    assert_eq!(parent.receive(), None, "and the parent's connection ends with it");
}

/// The limit that the manual states: libraries that are loaded into a program do not change what it is taken for.
#[test]
fn n7_3_a_preloaded_library_is_not_noticed() {
    let world = World::new();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let library =
        library.into_iter().find(|path| path.contains("libc.so") || path.contains("libgcc")).unwrap();
    let mut command = client_command(&world.program, world.daemon.socket().to_str().unwrap());
    let status = command.env("LD_PRELOAD", library).status().unwrap();
    assert_eq!(status.code(), Some(1), "it sees what the program alone sees");
}

/// A service that shows its one key to one program, and that program and a changed one.
struct World {
    daemon: Daemon,
    place: tempfile::TempDir,
    program: PathBuf,
    changed: PathBuf,
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (program, changed) = (place.path().join("program"), place.path().join("changed"));
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        std::fs::copy(&program, &changed).unwrap();
        std::fs::OpenOptions::new().append(true).open(&changed).unwrap().write_all(b"x").unwrap();
        let digest = Command::new("sha256sum").arg(&program).stdout(Stdio::piped()).output().unwrap();
        let digest = String::from_utf8(digest.stdout).unwrap()[..64].to_owned();
        let rule = format!("version = 1\n[[rule]]\nname = \"one\"\nexe = [\"{digest}\"]\nops = [\"list\"]");
        let daemon = Daemon::start(&rule);
        daemon.operator().make(KeyUsage::Identity, "a");
        Self { daemon, place, program, changed }
    }

    fn seen_by(&self, program: &Path) -> i32 {
        let mut command = client_command(program, self.daemon.socket().to_str().unwrap());
        command.status().unwrap().code().unwrap()
    }
}

/// The program as a client of `socket`.
fn client_command(program: &Path, socket: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", "peer::a_client_process", "--nocapture"]).env(CLIENT, socket);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

const CLIENT: &str = "ONWARD_KEYD_TEST_CLIENT";
const BECOMES: &str = "ONWARD_KEYD_TEST_BECOMES";
/// `nobody` on most systems; any user that is not this one.
const OTHER: u32 = 65_534;
