//! `onward-keyd`: starts the key service, or says what a policy file does.
//!
//! Takes no secret as an argument. Says on standard output what protects the keys and what does not, then `ready`.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use onward_keyd::cache::CACHE_PLACES;
use onward_keyd::files::{self, FileError, POLICY_NAME, SOCKET_NAME};
use onward_keyd::policy::{Client, Policy, Wish};
use onward_keyd::program::{self, EXAMINE, Examiner};
use onward_keyd::sandbox;
use onward_keyd::server::Server;
use onward_keyd::service::{Caller, Now, Service, Settings};
use onward_keys::arena::Arena;
use onward_keys::general::KeyType;
use onward_keys::service::{Call, CallKind, PASSPHRASE_BYTES_MAX};
use onward_keys::store::{ARENA_PLACES, Cost};
use onward_keys::{KeyUsage, SignatureType};
use rustix::fs::Mode;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use zeroize::Zeroizing;

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", options @ ..] => Plan::read(options).and_then(serve),
        ["policy", "check", file] => check(Path::new(file)),
        ["policy", "explain", file, wish @ ..] => explain(Path::new(file), wish),
        [EXAMINE] => program::examine().map_err(Failed::from),
        _ => {
            print!("{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("onward-keyd: {}", chain(&*error));
            ExitCode::from(exit_code(&*error))
        }
    }
}

/// How the service is to run.
struct Plan {
    directory: PathBuf,
    socket: Option<PathBuf>,
    socket_mode: u32,
    policy: Option<PathBuf>,
    unlock: bool,
    create: bool,
    swappable: bool,
    with_parent: bool,
}

impl Plan {
    fn read(options: &[&str]) -> Result<Self, Failed> {
        let mut plan = Self {
            directory: PathBuf::new(),
            socket: None,
            socket_mode: 0o600,
            policy: None,
            unlock: false,
            create: false,
            swappable: false,
            with_parent: false,
        };
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let mut value = || options.next().ok_or_else(|| format!("{option} needs a value"));
            match *option {
                "--dir" => plan.directory = value()?.into(),
                "--socket" => plan.socket = Some(value()?.into()),
                "--socket-mode" => plan.socket_mode = u32::from_str_radix(value()?, 8)? & 0o660,
                "--policy" => plan.policy = Some(value()?.into()),
                "--unlock-stdin" => plan.unlock = true,
                "--create" => plan.create = true,
                "--allow-swappable-keys" => plan.swappable = true,
                "--end-with-parent" => plan.with_parent = true,
                other => return Err(format!("there is no option {other}").into()),
            }
        }
        if plan.directory.as_os_str().is_empty() {
            return Err("--dir is missing".into());
        }
        Ok(plan)
    }
}

fn serve(plan: Plan) -> Result<(), Failed> {
    sandbox::refuse_inspection()?;
    if plan.with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    }
    let (directory, _lock) = files::hold_directory(&plan.directory)?;
    // Every file from here on, the socket among them, is its owner's alone from its first moment.
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let settings = Settings {
        policy: plan.policy.unwrap_or_else(|| directory.join(POLICY_NAME)),
        uid: rustix::process::geteuid().as_raw(),
        cost: Cost::default(),
        directory: directory.clone(),
    };
    let policy = files::read_policy(&settings)?;
    let examiner = if policy.looks_at_programs() { Some(Examiner::start()?) } else { None };
    let listener = match files::inherited()? {
        Some(listener) => listener,
        None => files::bind(&plan.socket.unwrap_or_else(|| directory.join(SOCKET_NAME)), plan.socket_mode)?,
    };
    let (stop, hang_up) = signals()?;
    let notify = service_manager();
    let arena = Arena::new(ARENA_PLACES + CACHE_PLACES, plan.swappable)?;
    let mut protection = sandbox::lock_memory(arena.protection());
    let policy_directory = settings.policy.parent().unwrap_or(&directory).to_owned();
    protection.extend(sandbox::enter(&directory, &policy_directory)?);
    if !KeyType::P256.is_offered() {
        protection.push(WITHOUT_ACCEL.to_owned());
    }
    let mut service = Service::open(settings, arena, policy)?;
    service.set_protection(protection.clone());
    if plan.unlock {
        unlock(&mut service, plan.create)?;
    }
    for line in protection {
        println!("{line}");
    }
    println!("ready");
    io::stdout().flush()?;
    if let Some(notify) = notify {
        // A manager that is gone has nothing to be told.
        let _ = notify.send(b"READY=1");
    }
    Server { listener, service, examiner, stop, hang_up }.run()?;
    Ok(())
}

/// Reads the passphrase, one line of standard input, and unlocks the store.
fn unlock(service: &mut Service, create: bool) -> Result<(), Failed> {
    // Not through the buffer of standard input, which nobody wipes.
    let mut input = fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut line = Zeroizing::new([0; PASSPHRASE_BYTES_MAX + 1]);
    let mut length = 0;
    while length < line.len() && !line[..length].contains(&b'\n') {
        match io::Read::read(&mut input, &mut line[length..])? {
            0 => break,
            bytes => length += bytes,
        }
    }
    let passphrase = line[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let uid = rustix::process::geteuid().as_raw();
    let mut caller = Caller { client: Client { uid, gid: 0, exe: None }, operator: None };
    service.answer(Now::read(), &mut caller, &Call::Unlock { passphrase, create })?;
    Ok(())
}

/// What can be read when a signal to stop, or to lock, came.
fn signals() -> io::Result<(UnixStream, UnixStream)> {
    let (stop, stopper) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, stopper.try_clone()?)?;
    }
    let (hang_up, hanger) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGHUP, hanger)?;
    Ok((stop, hang_up))
}

/// The socket of the service manager that started this process, if one did.
fn service_manager() -> Option<UnixDatagram> {
    let path = std::env::var_os("NOTIFY_SOCKET")?;
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(path).ok()?;
    Some(socket)
}

fn check(file: &Path) -> Result<(), Failed> {
    let policy = Policy::parse(&fs::read_to_string(file)?)?;
    println!("{} rules", policy.len());
    Ok(())
}

/// Says what a policy decides: `uid=1000 gid=7 label=orders usage=channel-static op=agree type=credential hour=12`.
fn explain(file: &Path, words: &[&str]) -> Result<(), Failed> {
    let policy = Policy::parse(&fs::read_to_string(file)?)?;
    let mut client = Client::default();
    let mut wish =
        Wish { call: CallKind::Agree, label: "", usage: Some(KeyUsage::ChannelStatic), kind: None, hour: 12 };
    for word in words {
        let (name, value) = word.split_once('=').ok_or("expected NAME=VALUE")?;
        let unknown = || format!("there is no {name} `{value}`");
        match name {
            "uid" => client.uid = value.parse()?,
            "gid" => client.gid = value.parse()?,
            "hour" => wish.hour = value.parse()?,
            "label" => wish.label = value,
            "usage" => wish.usage = Some(KeyUsage::parse(value).ok_or_else(unknown)?),
            "op" => wish.call = CallKind::parse(value).ok_or_else(unknown)?,
            "type" => {
                let kind = SignatureType::ALL.into_iter().find(|kind| kind.text() == value);
                wish.kind = Some(kind.ok_or_else(unknown)?);
            }
            _ => return Err(format!("{name} is not one of uid gid label usage op type hour").into()),
        }
    }
    print!("{}", policy.explain(&client, &wish));
    Ok(())
}

/// The error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn exit_code(error: &(dyn std::error::Error + 'static)) -> u8 {
    match error.downcast_ref::<FileError>() {
        Some(FileError::NotOurs { .. } | FileError::InUse(_)) => EXIT_CANNOT_CREATE,
        Some(FileError::Policy { .. }) => EXIT_CONFIGURATION,
        _ => EXIT_FAILED,
    }
}

/// What a build without the feature `accel` says of itself.
const WITHOUT_ACCEL: &str =
    "- this build computes with no key of RSA, P-256, P-384, P-521, secp256k1, AES or ML-DSA";

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 64;
const EXIT_CANNOT_CREATE: u8 = 73;
const EXIT_CONFIGURATION: u8 = 78;

const USAGE: &str = "\
usage: onward-keyd serve --dir DIR [--socket PATH] [--socket-mode 600|660] [--policy FILE]
                         [--unlock-stdin [--create]] [--allow-swappable-keys] [--end-with-parent]
       onward-keyd policy check FILE
       onward-keyd policy explain FILE [uid=N] [gid=N] [label=TEXT] [usage=NAME] [op=NAME] [type=NAME] [hour=N]
";
