//! Which program a process runs: the SHA-256 of its file, looked up by a process of its own.
//!
//! The service itself is sandboxed and may look into no other process. This helper is started before that, holds no
//! secret, and answers one question: for a process's number, the digest of the file that it runs. Nothing is claimed
//! of libraries, plugins or scripts that the program loads, nor of a process that hides itself from other users: it
//! then has no digest, and rules that ask for one do not allow it anything.
//!
//! Specification: docs/protocol.md §7.1.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sha2::{Digest as _, Sha256};

/// A file that was looked at: the digest is computed again only when one of these changes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileId {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// The helper, as the service has it.
#[derive(Debug)]
pub struct Examiner {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Examiner {
    /// Starts the helper: this program with the argument `examine`.
    ///
    /// # Errors
    /// Of the system.
    pub fn start() -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(EXAMINE)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (questions, answers) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, questions, answers: BufReader::new(answers) })
    }

    /// The digest of the program that the process `pid` runs; `None` if it cannot be known.
    pub fn digest(&mut self, pid: i32) -> Option<[u8; 32]> {
        writeln!(self.questions, "{pid}").ok()?;
        let mut line = String::new();
        self.answers.read_line(&mut line).ok()?;
        let mut digest = [0; 32];
        let line = line.trim_end().as_bytes();
        if line.len() != 64 {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(line.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(digest)
    }
}

impl Drop for Examiner {
    fn drop(&mut self) {
        // It ends by itself when its input does; waiting for it leaves no dead process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers questions on standard input until it ends: the helper's whole life.
///
/// # Errors
/// Of the system, when standard output is closed.
pub fn examine() -> io::Result<()> {
    let mut known = HashMap::new();
    let mut output = io::stdout();
    for line in io::stdin().lock().lines() {
        let digest = line?.parse().ok().and_then(|pid: u32| digest_of(pid, &mut known).ok());
        match digest {
            Some(digest) => {
                let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(output, "{text}")?;
            }
            None => writeln!(output, "-")?,
        }
        output.flush()?;
    }
    Ok(())
}

fn digest_of(pid: u32, known: &mut HashMap<FileId, [u8; 32]>) -> io::Result<[u8; 32]> {
    // The link of the kernel leads to the very file that runs, also when it was renamed or unlinked.
    digest_file(File::open(format!("/proc/{pid}/exe"))?, known)
}

fn digest_file(mut file: File, known: &mut HashMap<FileId, [u8; 32]>) -> io::Result<[u8; 32]> {
    let metadata = file.metadata()?;
    if metadata.len() > PROGRAM_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let id = FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    };
    if let Some(digest) = known.get(&id) {
        return Ok(*digest);
    }
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            bytes => hash.update(&chunk[..bytes]),
        }
    }
    let digest = hash.finalize().into();
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    known.insert(id, digest);
    Ok(digest)
}

/// The argument that makes this program the helper.
pub const EXAMINE: &str = "examine";

/// Longest program that is read: the service waits for its digest.
const PROGRAM_BYTES_MAX: u64 = 256 << 20;

/// Files whose digests are remembered, at most.
const KNOWN_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_longest_size_has_a_digest_and_a_longer_one_has_none() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a program").unwrap();
        let mut known = HashMap::new();
        for bytes in [PROGRAM_BYTES_MAX + 1, PROGRAM_BYTES_MAX] {
            // Without content it takes up no disk.
            file.set_len(bytes).unwrap();
            io::Seek::rewind(&mut file).unwrap();
            let digest = digest_file(file.try_clone().unwrap(), &mut known);
            assert_eq!(digest.is_ok(), bytes == PROGRAM_BYTES_MAX, "{bytes}");
        }
        assert_eq!(known.len(), 1);
    }
}
