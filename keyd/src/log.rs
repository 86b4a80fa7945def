//! The files of a log: its leaves, its signed heads, and the public key of these.
//!
//! Leaves lie in segments, of which the last alone is written. A log is all of its segments: without one of them it is
//! neither verified nor continued.
//!
//! Specification: docs/protocol.md §5.6.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use onward_keys::audit::{AuditError, Leaf, Log, Medium, last_head, segment_name};

/// The public key of the heads of both logs, 64 hexadecimal digits, in the service's directory.
pub const SIGNER_NAME: &str = "audit.pub";

/// The names of a log's files in the service's directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogNames {
    /// The first segment of the leaves; [`segment_name`] has the others.
    pub leaves: &'static str,
    /// The signed heads.
    pub heads: &'static str,
}

/// What was done with the keys of the store.
pub const AUDIT_NAMES: LogNames = LogNames { leaves: "audit.log", heads: "audit.heads" };

/// What became of the keys of the cache.
pub const CACHE_NAMES: LogNames = LogNames { leaves: "cache.log", heads: "cache.heads" };

/// Bytes of leaves in one file: once it has as many, the next leaves begin another.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// A log's open files.
#[derive(Debug)]
pub struct LogFiles {
    directory: PathBuf,
    names: LogNames,
    segment_bytes: u64,
    /// Where each segment begins among the bytes of all leaves.
    starts: Vec<u64>,
    /// The last segment, the one that is written.
    leaves: File,
    heads: File,
}

impl LogFiles {
    /// Opens the log in `directory`, or begins one; `key` is the log's key, and `look` sees every leaf. A last leaf and a
    /// last head that were not written whole are cut off.
    ///
    /// # Errors
    /// Of the system, or [`io::ErrorKind::InvalidData`] when the log was changed or a segment of it is missing: it is
    /// not continued then.
    pub fn open(
        directory: &Path,
        names: LogNames,
        key: &[u8; 32],
        look: impl FnMut(&Leaf),
    ) -> io::Result<Log<Self>> {
        Self::open_in_segments(directory, names, SEGMENT_BYTES, key, look)
    }

    fn open_in_segments(
        directory: &Path,
        names: LogNames,
        segment_bytes: u64,
        key: &[u8; 32],
        look: impl FnMut(&Leaf),
    ) -> io::Result<Log<Self>> {
        let directory = directory.to_owned();
        let (mut starts, mut end) = (Vec::new(), 0);
        while let Some(segment) = open_segment(&directory, names, starts.len())? {
            starts.push(end);
            end += segment.metadata()?.len();
        }
        if starts.is_empty() {
            starts.push(0);
        }
        let last = starts.len() - 1;
        let start = starts.get(last).copied().unwrap_or_default();
        let leaves = open_to_append(&segment_path(&directory, names, last))?;
        let heads = open_to_append(&directory.join(names.heads))?;
        let changed = |error: AuditError| io::Error::new(io::ErrorKind::InvalidData, error);
        let (last, whole_heads) = last_head(BufReader::new(heads.try_clone()?)).map_err(changed)?;
        heads.set_len(whole_heads)?;
        let (cut, content) =
            (leaves.try_clone()?, Segments { directory: directory.clone(), names, number: 0, current: None });
        let files = Self { directory, names, segment_bytes, starts, leaves, heads };
        let (mut log, whole) = Log::open(files, key, content, look).map_err(changed)?;
        // Only what was written last can have been written in part.
        cut.set_len(whole.checked_sub(start).ok_or(io::ErrorKind::InvalidData)?)?;
        if let Some(last) = last {
            if last.size > log.size() {
                return Err(changed(AuditError::Shortened { stated: last.size, found: log.size() }));
            }
            log.continue_after(&last);
        }
        Ok(log)
    }

    /// Begins the next segment behind the present one, which has `written` bytes.
    fn begin_segment(&mut self, written: u64) -> io::Result<()> {
        // A head makes durable what was written last, and has to find the rest durable.
        self.leaves.sync_data()?;
        let next = open_to_append(&segment_path(&self.directory, self.names, self.starts.len()))?;
        File::open(&self.directory)?.sync_all()?;
        self.starts.push(self.starts.last().copied().unwrap_or_default() + written);
        self.leaves = next;
        Ok(())
    }
}

impl Medium for LogFiles {
    fn append_leaves(&mut self, leaves: &[u8]) -> io::Result<()> {
        let written = self.leaves.metadata()?.len();
        if written >= self.segment_bytes {
            self.begin_segment(written)?;
        }
        append(&mut self.leaves, leaves)
    }

    fn append_head(&mut self, head: &[u8]) -> io::Result<()> {
        self.leaves.sync_data()?;
        append(&mut self.heads, head)?;
        self.heads.sync_data()
    }

    fn read_leaves(&self, mut at: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            let next = self.starts.partition_point(|start| *start <= at);
            let start = next.checked_sub(1).and_then(|number| self.starts.get(number).copied());
            let start = start.ok_or(io::ErrorKind::UnexpectedEof)?;
            let end = self.starts.get(next).copied().unwrap_or(u64::MAX);
            let (here, rest) = out.split_at_mut(out.len().min((end - at).try_into().unwrap_or(usize::MAX)));
            if next == self.starts.len() {
                self.leaves.read_exact_at(here, at - start)?;
            } else {
                let segment = open_segment(&self.directory, self.names, next - 1)?;
                segment.ok_or(io::ErrorKind::NotFound)?.read_exact_at(here, at - start)?;
            }
            at += here.len() as u64;
            out = rest;
        }
        Ok(())
    }
}

/// The segments of a log as one.
struct Segments {
    directory: PathBuf,
    names: LogNames,
    number: usize,
    current: Option<BufReader<File>>,
}

impl Read for Segments {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.current.is_none() {
                let Some(segment) = open_segment(&self.directory, self.names, self.number)? else {
                    return Ok(0);
                };
                self.current = Some(BufReader::with_capacity(READ_BYTES, segment));
                self.number += 1;
            }
            match self.current.as_mut().map_or(Ok(0), |segment| segment.read(out))? {
                0 if !out.is_empty() => self.current = None,
                bytes => return Ok(bytes),
            }
        }
    }
}

/// The segment `number`, if there is one.
fn open_segment(directory: &Path, names: LogNames, number: usize) -> io::Result<Option<File>> {
    match File::open(segment_path(directory, names, number)) {
        Ok(segment) => Ok(Some(segment)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn segment_path(directory: &Path, names: LogNames, number: usize) -> PathBuf {
    directory.join(segment_name(names.leaves, number as u32))
}

/// Appends all of `bytes`, or nothing: what a full disk has taken of them is cut off again, so that nothing can be
/// written behind it.
fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let whole = file.metadata()?.len();
    file.write_all(bytes).inspect_err(|_| {
        // Should that fail too, the log is cut when it is opened, unless more was written.
        let _ = file.set_len(whole);
    })
}

/// Writes the public key of the heads beside them, for whoever did not note it elsewhere.
///
/// # Errors
/// Of the system.
pub fn write_signer(directory: &Path, signer: &[u8; 32]) -> io::Result<()> {
    let text: String = signer.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(directory.join(SIGNER_NAME), text + "\n")
}

fn open_to_append(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

/// Bytes of a log that are read at once.
const READ_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use onward_keys::audit::{Entry, Event, Watch, verify};
    use onward_keys::{KeyUsage, PublicKey, SignatureAlgorithm, SignatureType, private};

    const KEY: [u8; 32] = [1; 32];
    const SEGMENT: u64 = 2_000;

    fn open(directory: &Path) -> io::Result<Log<LogFiles>> {
        LogFiles::open_in_segments(directory, AUDIT_NAMES, SEGMENT, &KEY, |_| ())
    }

    fn signer() -> PublicKey {
        let public = private::public_half(KeyUsage::AuditSigning, &[5; 32]);
        PublicKey::new(SignatureAlgorithm::Ed25519, public.as_bytes()).unwrap()
    }

    /// Adds `leaves` leaves, a few at a time, and a head.
    fn grow(log: &mut Log<LogFiles>, leaves: u32) {
        let sign = |body: &[u8]| Some(private::sign(&[5; 32], SignatureType::AuditSth, body));
        for at in 1..=leaves {
            let entry = Entry {
                event: Event::Used,
                key: Some([7; 32]),
                public: None,
                policy: 1,
                owner: [3; 32],
                epoch: at,
            };
            log.note(at.into(), &entry);
            if at % 3 == 0 {
                log.write(at.into(), std::time::Duration::ZERO, sign).unwrap();
            }
        }
        log.end();
        log.write(1000, std::time::Duration::ZERO, sign).unwrap();
    }

    fn segments(directory: &Path) -> Vec<Vec<u8>> {
        let read = |number| std::fs::read(segment_path(directory, AUDIT_NAMES, number)).ok();
        (0..).map_while(read).collect()
    }

    #[test]
    fn a_log_of_many_segments_goes_on_and_its_proofs_reach_into_all_of_them() {
        let home = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(signer());
        for times in 1..=3 {
            let mut log = open(home.path()).unwrap();
            grow(&mut log, 100);
            assert_eq!(log.size(), times * 100);
            let leaves: Vec<u64> = (0..log.size()).step_by(23).collect();
            let since = watch.latest().map(|head| head.size);
            for few in leaves.chunks(8) {
                let proved = log.evidence(few, since).unwrap().unwrap().check(&mut watch.clone()).unwrap();
                assert_eq!(proved.iter().map(|leaf| leaf.seq).collect::<Vec<_>>(), few);
            }
            log.evidence(&[], since).unwrap().unwrap().check(&mut watch).unwrap();
        }
        let segments = segments(home.path());
        assert!(segments.len() > 10);
        let batch = 3 * 256;
        let (last, full) = segments.split_last().unwrap();
        assert!(full.iter().all(|full| (SEGMENT..SEGMENT + batch).contains(&(full.len() as u64))));
        assert!(!last.is_empty());
        let heads = std::fs::read(home.path().join(AUDIT_NAMES.heads)).unwrap();
        assert_eq!(verify(&segments.concat()[..], &heads[..], &signer()).unwrap().signed, 300);
    }

    #[test]
    fn n5_9_a_log_without_one_of_its_segments_is_neither_verified_nor_continued() {
        let home = tempfile::tempdir().unwrap();
        grow(&mut open(home.path()).unwrap(), 100);
        let all = segments(home.path());
        let heads = std::fs::read(home.path().join(AUDIT_NAMES.heads)).unwrap();
        assert!(all.len() > 5);
        for missing in 0..all.len() {
            let mut rest = all.clone();
            rest.remove(missing);
            assert!(verify(&rest.concat()[..], &heads[..], &signer()).is_err(), "{missing}");
            // Gone, or with those behind it moved into its place.
            for moved in [false, true] {
                let other = tempfile::tempdir().unwrap();
                std::fs::write(other.path().join(AUDIT_NAMES.heads), &heads).unwrap();
                for (at, segment) in all.iter().enumerate().filter(|(at, _)| *at != missing) {
                    let place = if moved && at > missing { at - 1 } else { at };
                    std::fs::write(segment_path(other.path(), AUDIT_NAMES, place), segment).unwrap();
                }
                assert!(open(other.path()).is_err(), "{missing} {moved}");
            }
        }
    }

    #[test]
    fn a_torn_leaf_is_cut_off_the_last_segment_and_off_no_other() {
        let home = tempfile::tempdir().unwrap();
        grow(&mut open(home.path()).unwrap(), 100);
        let all = segments(home.path());
        let last = segment_path(home.path(), AUDIT_NAMES, all.len() - 1);
        let torn = [&all[all.len() - 1][..], &[0, 99, 1]].concat();
        std::fs::write(&last, torn).unwrap();
        assert_eq!(open(home.path()).unwrap().size(), 100);
        assert_eq!(segments(home.path()), all);
        let middle = segment_path(home.path(), AUDIT_NAMES, 2);
        std::fs::write(&middle, &all[2][..all[2].len() - 1]).unwrap();
        assert!(open(home.path()).is_err());
    }
}
