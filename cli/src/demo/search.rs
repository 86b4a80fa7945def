//! Looks for a text in bytes and in the memory of a process, in the ways programs write texts.
//!
//! The text is looked for as it is, in hexadecimal (both cases), in base64 (each of the three places it
//! can have in a group, both alphabets) and in UTF-16 (both byte orders).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use memchr::memmem::Finder;

/// Bytes of memory read at a time.
const CHUNK: usize = 1 << 20;
/// Smallest unit in which memory can be unreadable.
const PAGE: u64 = 4096;

/// Texts to look for, in all their encodings.
#[derive(Debug)]
pub(crate) struct Needle {
    finders: Vec<(&'static str, Finder<'static>)>,
    longest: usize,
}

/// What a search of a process's memory saw.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Search {
    /// Bytes that were read and searched.
    pub(crate) bytes: u64,
    /// The encodings in which a text was found.
    pub(crate) found: Vec<&'static str>,
}

impl Needle {
    /// A search for any of these texts.
    pub(crate) fn new(texts: &[&str]) -> Self {
        Self::of(texts.iter().flat_map(|text| encodings(text)))
    }

    /// A search for any of these byte strings, as they are and written down.
    pub(crate) fn of_secrets<'a>(secrets: impl IntoIterator<Item = &'a [u8; 32]>) -> Self {
        Self::of(secrets.into_iter().flat_map(|secret| encodings_of_bytes("bytes", secret)))
    }

    fn of(encodings: impl Iterator<Item = (&'static str, Vec<u8>)>) -> Self {
        let finders: Vec<_> =
            encodings.map(|(name, bytes)| (name, Finder::new(&bytes).into_owned())).collect();
        let longest = finders.iter().map(|(_, finder)| finder.needle().len()).max().unwrap_or(0);
        Self { finders, longest }
    }

    /// The encodings in which a text stands in `bytes`, each once.
    pub(crate) fn find(&self, bytes: &[u8]) -> Vec<&'static str> {
        let hits = self.finders.iter().filter(|(_, finder)| finder.find(bytes).is_some());
        let mut names: Vec<&'static str> = hits.map(|(name, _)| *name).collect();
        names.dedup();
        names
    }

    /// Searches all files of a folder.
    ///
    /// # Errors
    /// The system's when a file cannot be read.
    pub(crate) fn search_folder(&self, folder: &Path) -> io::Result<Search> {
        let mut search = Search::default();
        for entry in fs::read_dir(folder)? {
            let bytes = fs::read(entry?.path())?;
            search.bytes += bytes.len() as u64;
            search.found.extend(self.find(&bytes));
        }
        search.found.sort_unstable();
        search.found.dedup();
        Ok(search)
    }

    /// Searches all readable memory of a process.
    ///
    /// # Errors
    /// The system's when it does not let this process read the other's memory.
    pub(crate) fn search_process(&self, pid: u32) -> io::Result<Search> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mut search = Search::default();
        let mut failure = None;
        for (start, end) in maps.lines().filter_map(readable_range) {
            if let Err(error) = self.search_range(&memory, start, end, &mut search) {
                failure = Some(error);
            }
        }
        match (search.bytes, failure) {
            // Not one byte could be read: that is no search.
            (0, Some(error)) => Err(error),
            (0, None) => Err(io::Error::other("the process has no readable memory")),
            _ => Ok(search),
        }
    }

    fn search_range(&self, memory: &File, start: u64, end: u64, search: &mut Search) -> io::Result<()> {
        let overlap = self.longest.saturating_sub(1);
        let mut chunk = vec![0; CHUNK + overlap];
        let (mut at, mut kept) = (start, 0);
        let mut failure = None;
        while at < end {
            let want = CHUNK.min(usize::try_from(end - at).unwrap_or(CHUNK));
            let read = match memory.read_at(&mut chunk[kept..kept + want], at) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => {
                    failure = Some(error);
                    at += PAGE - at % PAGE;
                    kept = 0;
                    continue;
                }
            };
            search.bytes += read as u64;
            at += read as u64;
            let filled = kept + read;
            for name in self.find(&chunk[..filled]) {
                if !search.found.contains(&name) {
                    search.found.push(name);
                }
            }
            // What may be the beginning of a text is searched again with what follows it.
            kept = overlap.min(filled);
            chunk.copy_within(filled - kept..filled, 0);
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Start and end of a line of `/proc/PID/maps`, if the range can be read.
fn readable_range(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (range, mode) = (words.next()?, words.next()?);
    // The kernel's own pages hold clocks, and cannot be read this way.
    let of_kernel = line.ends_with("[vsyscall]") || line.contains("[vvar");
    if !mode.starts_with('r') || of_kernel {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// A text in every encoding that is looked for.
fn encodings(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = encodings_of_bytes("text", text.as_bytes());
    all.push(("utf-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect()));
    all.push(("utf-16", text.encode_utf16().flat_map(u16::to_be_bytes).collect()));
    all.sort_by_key(|(name, _)| *name);
    all
}

/// Bytes as they are, under `name`, and in the encodings of any bytes.
fn encodings_of_bytes(name: &'static str, bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let lower: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all =
        vec![(name, bytes.to_vec()), ("hex", lower.to_uppercase().into_bytes()), ("hex", lower.into_bytes())];
    for alphabet in [b"+/", b"-_"] {
        all.extend((0..3).map(|offset| ("base64", base64_within(bytes, offset, alphabet))));
    }
    all.sort_by_key(|(name, _)| *name);
    all
}

/// The base64 letters that depend on `bytes` alone when they begin at `offset` within a group of three.
fn base64_within(bytes: &[u8], offset: usize, last_letters: &[u8; 2]) -> Vec<u8> {
    let letter = |sextet: u8| match sextet {
        0..26 => b'A' + sextet,
        26..52 => b'a' + sextet - 26,
        52..62 => b'0' + sextet - 52,
        other => last_letters[usize::from(other) - 62],
    };
    let byte =
        |index: usize| index.checked_sub(offset).and_then(|index| bytes.get(index)).copied().unwrap_or(0);
    let first = (offset * 8).div_ceil(6);
    let end = (offset + bytes.len()) * 8 / 6;
    let sextet = |place: usize| {
        let bit = place * 6;
        let pair = u16::from(byte(bit / 8)) << 8 | u16::from(byte(bit / 8 + 1));
        (pair >> (10 - bit % 8) & 0x3f) as u8
    };
    (first..end).map(|place| letter(sextet(place))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::process::{Command, Stdio};

    #[test]
    fn base64_is_found_at_every_place_in_a_group() {
        // "Hello, World!" behind zero, one and two other bytes; RFC 4648.
        for encoded in ["SGVsbG8sIFdvcmxkIQ==", "eEhlbGxvLCBXb3JsZCEh", "eHhIZWxsbywgV29ybGQh"] {
            assert_eq!(Needle::new(&["Hello, World!"]).find(encoded.as_bytes()), ["base64"], "{encoded}");
        }
        assert_eq!(Needle::new(&["\u{3ff}\u{3ff}\u{3ff}"]).find(b"z7_Pv8-_"), ["base64"], "URL alphabet");
    }

    #[test]
    fn all_files_of_a_folder_are_searched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("one"), b"nothing").unwrap();
        let needle = Needle::new(&["Secret7"]);
        assert_eq!(needle.search_folder(folder.path()).unwrap(), Search { bytes: 7, found: Vec::new() });
        fs::write(folder.path().join("two"), [b"..".as_slice(), &hex_upper("Secret7")].concat()).unwrap();
        assert_eq!(needle.search_folder(folder.path()).unwrap().found, ["hex"]);
        assert!(needle.search_folder(&folder.path().join("none")).is_err());
    }

    #[test]
    fn every_encoding_is_found_and_other_bytes_are_not() {
        let needle = Needle::new(&["Secret7"]);
        for (bytes, name) in [
            (b"..Secret7..".to_vec(), "text"),
            (b"53656372657437".to_vec(), "hex"),
            (hex_upper("Secret7z"), "hex"),
            ("Secret7".encode_utf16().flat_map(u16::to_le_bytes).collect(), "utf-16"),
            ("Secret7".encode_utf16().flat_map(u16::to_be_bytes).collect(), "utf-16"),
        ] {
            assert_eq!(needle.find(&bytes), [name]);
        }
        assert!(needle.find(b"secret7 Secret8 U2VjcmV").is_empty());
    }

    fn hex_upper(text: &str) -> Vec<u8> {
        text.bytes().flat_map(|byte| format!("{byte:02X}").into_bytes()).collect()
    }

    /// What the child of the next test runs: keeps what it is sent in its memory.
    #[test]
    #[ignore = "the other process of the test below"]
    fn holder() {
        let mut held = Vec::new();
        let mut length = [0; 4];
        io::stdin().read_exact(&mut length).unwrap();
        io::stdin().take(u32::from_be_bytes(length).into()).read_to_end(&mut held).unwrap();
        println!("holding");
        assert_eq!(io::stdin().read(&mut [0]).unwrap(), 0);
        assert!(!std::hint::black_box(held).is_empty());
    }

    /// Lets a child hold `bytes` and searches its memory.
    fn search_child(needle: &Needle, bytes: &[u8]) -> Search {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "demo::search::tests::holder", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&(bytes.len() as u32).to_be_bytes()).unwrap();
        input.write_all(bytes).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(output.any(|line| line.contains("holding")));
        let search = needle.search_process(child.id()).unwrap();
        drop(input);
        assert!(output.last().is_some(), "it ends by itself");
        child.wait().unwrap();
        search
    }

    #[test]
    fn a_text_in_another_process_is_found_in_every_encoding() {
        let tag = format!("planted-{:032x}", u128::from_be_bytes(random()));
        let needle = Needle::new(&[&tag]);
        for (name, bytes) in encodings(&tag) {
            // Behind other bytes, across the border of two reads of a large block.
            let mut block = vec![b'.'; 3 * CHUNK];
            let place = 2 * CHUNK - bytes.len() / 2;
            block[place..place + bytes.len()].copy_from_slice(&bytes);
            let search = search_child(&needle, &block);
            assert_eq!(search.found, [name]);
            assert!(search.bytes > block.len() as u64);
        }
        assert_eq!(search_child(&needle, &[b'.'; 1000]).found, [""; 0], "and not where it is not");
    }

    fn random() -> [u8; 16] {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn memory_of_no_process_is_not_searched() {
        assert!(Needle::new(&["x"]).search_process(u32::MAX).is_err());
    }
}
