//! What the process gives up before it opens a store: dumps, other files, other programs, the network.
//!
//! Each measure says in a line whether it was had. Those that a machine lacks are not needed to run, but are never
//! passed over in silence.
//!
//! Specification: docs/protocol.md §7.4.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use onward_keys::arena::Protection;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Gives up dumps and being looked into by processes of the same user. To be called first.
///
/// # Errors
/// Of the system; both exist wherever the service runs, so that it does not without.
pub fn refuse_inspection() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Locks all memory where that has no limit, and says what the arena's pages and the rest are protected by.
#[must_use]
pub fn lock_memory(arena: Protection) -> Vec<String> {
    let keys = match arena {
        Protection::Secret => "+ keys at rest: secret memory, in no other address space, never on swap",
        Protection::Locked => "+ keys at rest: locked memory, never on swap",
        _ => "- keys at rest: memory that may be written to swap",
    };
    let unlimited = getrlimit(Resource::Memlock).current.is_none();
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let rest = if unlimited && mlockall(all).is_ok() {
        "+ keys in use: locked memory, never on swap"
    } else {
        "- keys in use: pass through memory that may be written to swap (RLIMIT_MEMLOCK is limited)"
    };
    vec![keys.to_owned(), rest.to_owned()]
}

/// Leaves the process nothing but its directory, its sockets and computing. Cannot be undone.
///
/// Reads below `policy_directory`, reads and writes below `directory`; no TCP, no signals to others; no program is
/// run, no socket made. A system call outside of the list ends the process.
///
/// # Errors
/// When the kernel has seccomp and refuses the filter.
pub fn enter(directory: &Path, policy_directory: &Path) -> io::Result<Vec<String>> {
    let files = match restrict_files(directory, policy_directory) {
        Ok(RulesetStatus::FullyEnforced) => "+ files: only its own (Landlock)",
        Ok(RulesetStatus::PartiallyEnforced) => {
            "+ files: only its own (Landlock, as far as this kernel has it)"
        }
        Ok(RulesetStatus::NotEnforced) | Err(_) => "- files: all of its user's (no Landlock)",
    };
    restrict_calls()?;
    let calls = "+ system calls: an allow-list without execve, ptrace and socket (seccomp)";
    Ok(vec![
        "+ dumps: none, and no inspection by processes of its user".to_owned(),
        files.to_owned(),
        calls.to_owned(),
    ])
}

fn restrict_files(
    directory: &Path,
    policy_directory: &Path,
) -> Result<RulesetStatus, Box<dyn std::error::Error>> {
    let abi = ABI::V6;
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(directory)?, AccessFs::from_all(abi)))?
        .add_rule(PathBeneath::new(PathFd::new(policy_directory)?, AccessFs::from_read(abi)))?
        .restrict_self()?;
    Ok(restricted.ruleset)
}

fn restrict_calls() -> io::Result<()> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    // No file is opened that a program could inherit.
    let closed = libc::O_CLOEXEC as u64;
    let opened = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(closed), closed)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(io::Error::other)?;
    rules.insert(libc::SYS_openat, vec![opened]);
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)
        .map_err(io::Error::other)?;
    let program: seccompiler::BpfProgram = filter.try_into().map_err(io::Error::other)?;
    // Sets no-new-privileges, too.
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}

/// What the service calls once it runs: files of its own, its connections, memory, time, randomness, its end.
const ALLOWED: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_geteuid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_ioctl,
    libc::SYS_kill,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_pidfd_open,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_unlinkat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The older names of some of them, which only this architecture has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    libc::SYS_link,
    libc::SYS_poll,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_time,
    libc::SYS_gettimeofday,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];
