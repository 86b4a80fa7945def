//! Replays what the fuzzers know on a stable toolchain: every tracked input, and each cut short.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use onward_fuzz::TARGETS;

/// Longest start of an input that is also replayed, in bytes.
const CUT_MAX: usize = 512;

#[test]
fn tracked_inputs_break_no_target() {
    for (name, target) in TARGETS {
        for path in inputs("corpus", name).into_iter().chain(inputs("regressions", name)) {
            let input = std::fs::read(&path).unwrap();
            let cuts = (0..input.len().min(CUT_MAX)).map(|end| &input[..end]);
            for data in cuts.chain([input.as_slice()]) {
                let end = catch_unwind(|| target(data));
                assert!(end.is_ok(), "{name}: {} at {} bytes", path.display(), data.len());
            }
        }
    }
}

#[test]
fn corpora_hold_accepted_and_refused_inputs() {
    for (name, target) in TARGETS {
        let (mut accepted, mut refused) = (0, 0);
        for path in inputs("corpus", name) {
            let to_refuse = path.file_name().unwrap().to_string_lossy().starts_with("refused-");
            let input = std::fs::read(&path).unwrap();
            assert_eq!(target(&input), !to_refuse, "{name}: {}", path.display());
            *(if to_refuse { &mut refused } else { &mut accepted }) += 1;
        }
        assert!(accepted > 0 && refused > 0, "corpus/{name}: {accepted} and {refused}");
    }
}

#[test]
fn every_target_is_replayed() {
    let mut files: Vec<String> = std::fs::read_dir(root().join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(names, files);
}

/// The files of `<kind>/<name>/`, none when there is no such folder.
fn inputs(kind: &str, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root().join(kind).join(name)) else {
        return Vec::new();
    };
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
