//! The message brokers that tests start, and the tools that the client of Kafka is built with: found, installed
//! where that can be done, and named.
//!
//! Installing is all that happens here: no service is started, and none that runs is touched. What cannot
//! be installed is said by name, for a suite that did not run must not look like one that passed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use onward_trials::ServerKind;

use crate::run;

/// What package scripts ask before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// "Forbidden": no service is started.
const NO_STARTS: &str = "#!/bin/sh\nexit 101\n";
/// Old lists of packages name files that are gone, so they are fetched anew; a mirror may be slow for a moment, and
/// another program may be installing.
const APT: &str = "-qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120";

/// What the client of Kafka is built with beside a compiler for C: programs and their packages.
const TOOLS: [(&str, &str); 2] = [("make", "make"), ("c++", "g++")];

/// Whether the client of Kafka can be built here.
pub(crate) fn has_tools() -> bool {
    TOOLS.iter().all(|(program, _)| is_in_path(program))
}

/// Installs the servers and tools that are missing, as far as that is possible, prints the version of each server
/// that is there, and returns the names of what is not.
///
/// # Errors
/// When something is missing and `CI=true` asks for everything.
pub(crate) fn provide() -> Result<Vec<&'static str>> {
    if !missing().is_empty() && Path::new("/usr/bin/apt-get").is_file() {
        install(&missing());
    }
    for kind in ServerKind::ALL.into_iter().filter(|kind| kind.program().is_some()) {
        println!("tested with {} {}", kind.package(), version(kind));
    }
    let missing = missing();
    for name in &missing {
        println!("NOT tested with {name}: it is not installed, and could not be");
    }
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    ensure!(missing.is_empty() || !is_ci, "CI=true asks for every suite: install {}", missing.join(" "));
    Ok(missing)
}

/// The packages that are missing.
fn missing() -> Vec<&'static str> {
    let servers =
        ServerKind::ALL.into_iter().filter(|kind| kind.program().is_none()).map(ServerKind::package);
    let tools = TOOLS.iter().filter(|(program, _)| !is_in_path(program)).map(|(_, package)| *package);
    servers.chain(tools).collect()
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Has the system's packages installed, one by one, so that one that fails hinders no other.
fn install(packages: &[&str]) {
    let _policy = NoStarts::begin();
    apt("update");
    for package in packages {
        apt(&format!("install --yes --no-install-recommends {package}"));
    }
}

/// Runs apt-get; what came of it shows in what is installed afterwards.
fn apt(words: &str) {
    let mut command = Command::new("apt-get");
    command.args(APT.split(' ')).args(words.split(' ')).env("DEBIAN_FRONTEND", "noninteractive");
    if let Err(error) = run::succeed(command.stdin(Stdio::null())) {
        println!("{error:#}");
    }
}

/// Keeps packages from starting their services, until it is dropped.
struct NoStarts {
    is_ours: bool,
}

impl NoStarts {
    fn begin() -> Self {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        let written = file.and_then(|mut file| file.write_all(NO_STARTS.as_bytes()));
        // One that is there already is the machine's own decision.
        Self { is_ours: written.is_ok() }
    }
}

impl Drop for NoStarts {
    fn drop(&mut self) {
        if self.is_ours {
            // What stays behind only keeps services from starting.
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// The version of the package; empty for a server that came otherwise.
fn version(kind: ServerKind) -> String {
    let asked = Command::new("dpkg-query").args(["-W", "-f", "${Version}", kind.package()]).output();
    asked.map_or_else(|_| String::new(), |said| String::from_utf8_lossy(&said.stdout).into_owned())
}
