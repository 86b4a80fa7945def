//! A core of a living service: all of its memory in one file, taken from outside, where it cannot refuse.
//!
//! Root reads more than the system would dump: what was left out of dumps, too. Only secret memory is in no other
//! address space, not even in that of whoever reads here.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, kill_process, prlimit, waitpid};

use crate::harness::Daemon;

/// A core, in a file that is gone with it.
pub(crate) struct Core {
    file: File,
    /// Bytes of memory in it.
    pub(crate) bytes: u64,
}

impl Core {
    /// Stops `daemon`, takes its core, and lets it go on. Needs root.
    pub(crate) fn take(daemon: &Daemon) -> Self {
        let pid = daemon.pid();
        daemon.signal(Signal::STOP);
        let (_, status) = waitpid(Pid::from_raw(pid as i32), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
        let core = Self::read(pid);
        daemon.signal(Signal::CONT);
        core
    }

    fn read(pid: u32) -> Self {
        let mut core = Self { file: tempfile::tempfile().unwrap(), bytes: 0 };
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let is_readable = |line: &&str| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with('r'));
        for line in maps.lines().filter(is_readable) {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16).unwrap());
            let mut content = vec![0; (to - from) as usize];
            if let Err(error) = memory.read_exact_at(&mut content, from) {
                // Secret memory, and pages of the kernel's own that every process has.
                assert!(line.contains("/secretmem") || line.contains("[v"), "{error}: {line}");
                continue;
            }
            core.file.write_all_at(&content, core.bytes).unwrap();
            core.bytes += to - from;
        }
        core
    }

    /// How many of `secrets` are in it, each known by its first half.
    pub(crate) fn count(&self, secrets: impl Iterator<Item = [u8; 32]>) -> usize {
        let halves: HashSet<[u8; 16]> = secrets.map(|secret| *secret.first_chunk().unwrap()).collect();
        // Most places are passed over by their first two bytes.
        let mut heads = vec![false; 1 << 16];
        halves.iter().for_each(|half| heads[usize::from(u16::from_be_bytes([half[0], half[1]]))] = true);
        let mut memory = vec![0; self.bytes as usize];
        self.file.read_exact_at(&mut memory, 0).unwrap();
        let is_head = |window: &&[u8]| heads[usize::from(u16::from_be_bytes([window[0], window[1]]))];
        let found = memory.windows(16).filter(is_head).filter(|window| halves.contains(*window));
        found.collect::<HashSet<_>>().len()
    }
}

/// How a process ended that was to leave a core.
pub(crate) struct Crash {
    pub(crate) status: ExitStatus,
    /// Whether its limit of cores could be raised: a root without `CAP_SYS_RESOURCE` cannot.
    pub(crate) was_raised: bool,
}

/// Raises the limit of cores of a process, if that can be done, and ends it so that it leaves one.
pub(crate) fn crash(child: &mut Child) -> Crash {
    let pid = Pid::from_child(child);
    let was_raised = prlimit(Some(pid), Resource::Core, Rlimit { current: None, maximum: None }).is_ok();
    kill_process(pid, Signal::ABORT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    Crash { status, was_raised }
}

/// The same of a process that does not refuse, where its core would lie in its working directory.
pub(crate) fn crash_of_another() -> Option<Crash> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let folder = tempfile::tempdir().unwrap();
    (!pattern.starts_with(['|', '/']))
        .then(|| crash(&mut Command::new("sleep").arg("60").current_dir(folder.path()).spawn().unwrap()))
}
