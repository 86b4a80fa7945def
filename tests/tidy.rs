//! Holds the project to its own rules: who may depend on whom, what stays pure, what the smallest
//! build weighs, and what must not stand in a file.
//!
//! Each rule is a pure function from text to the faults it finds, so that the tests at the end can
//! show it one. The tests here only gather the text.
#![allow(clippy::unwrap_used, reason = "unwrapping is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which package may depend on which other packages of the workspace, for any purpose.
const ARROWS: &[(&str, &[&str])] = &[
    ("onward-routing", &[]),
    ("onward-keys", &[]),
    ("onward-channels", &["onward-keys", "onward-routing"]),
    ("onward-workers", &["onward-routing"]),
    ("onward-transports", &["onward-keys", "onward-routing", "onward-workers"]),
    (
        "onward-node",
        &["onward-channels", "onward-keys", "onward-routing", "onward-transports", "onward-workers"],
    ),
    (
        "onward",
        &[
            "onward-channels",
            "onward-keys",
            "onward-node",
            "onward-routing",
            "onward-transports",
            "onward-workers",
        ],
    ),
    ("onward-keyd", &["onward-channels", "onward-keys"]),
    ("onward-cli", &["onward"]),
    // It installs the servers that tests start.
    ("xtask", &[TRIALS]),
    (TRIALS, &[]),
];

/// Where measured claims are made: every package for users may use it, in its tests alone.
const TRIALS: &str = "onward-trials";

/// A process that is tested together with what uses it, along an arrow that its code does not have.
const TESTED_BY_USE: &[(&str, &str)] = &[("onward-keyd", "onward")];

/// Crates without sockets, clock, tasks or `async`: time and randomness are arguments there.
const PURE: &[&str] = &["routing", "channels"];

/// What no pure crate may depend on directly.
const IMPURE_DEPENDENCIES: &[&str] = &[
    "async-trait",
    "crossbeam-channel",
    "futures",
    "futures-util",
    "getrandom",
    "libc",
    "mio",
    "parking_lot",
    "rand",
    "rayon",
    "rustix",
    "smol",
    "socket2",
    "tokio",
    "tokio-util",
];

/// What may not stand in the code of a pure crate.
const IMPURE_CODE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "getrandom",
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "tokio",
];

/// What may not stand there either, but for [`ASKS_A_VAULT`].
const WAITING_CODE: &[&str] = &["async fn", "async move", ".await"];

/// Files of pure crates that ask a vault to sign. They await the vault they are given and nothing else.
const ASKS_A_VAULT: &[&str] = &["channels/src/identity", "channels/src/ok2cry/exchange.rs"];

/// Most packages of the smallest encrypted node, our own included.
const MINIMAL_PACKAGES_MAX: usize = 115;

/// Ciphers, curves, hashes and what they stand on: two versions of one would be two implementations
/// to trust.
const CRYPTOGRAPHY: &[&str] = &[
    "aead",
    "aes",
    "aes-gcm",
    "aes-gcm-siv",
    "aws-lc-rs",
    "aws-lc-sys",
    "blake2",
    "chacha20",
    "chacha20poly1305",
    "cipher",
    "cmac",
    "crypto-bigint",
    "crypto-common",
    "ctr",
    "curve25519-dalek",
    "digest",
    "ecdsa",
    "ed25519",
    "ed25519-dalek",
    "elliptic-curve",
    "ghash",
    "hkdf",
    "hmac",
    "keccak",
    "ml-dsa",
    "ml-kem",
    "p256",
    "p384",
    "poly1305",
    "polyval",
    "rand_core",
    "sha1",
    "sha2",
    "sha3",
    "signature",
    "snow",
    "subtle",
    "universal-hash",
    "x25519-dalek",
    "zeroize",
];

#[test]
fn packages_depend_only_along_the_arrows() {
    assert_clean(arrow_faults(&metadata(), ARROWS));
}

#[test]
fn pure_crates_depend_on_nothing_impure() {
    let metadata = metadata();
    for package in PURE {
        assert_clean(dependency_faults(&metadata, &format!("onward-{package}")));
    }
}

#[test]
fn pure_crates_read_no_clock_and_open_no_socket() {
    for package in PURE {
        let sources = files_below(&root().join(package).join("src"));
        assert!(!sources.is_empty(), "{package} has no source");
        // Test modules in files of their own may read vectors from disk.
        let library = read(&root().join(package).join("src/lib.rs"));
        let is_test = |path: &Path| {
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            library.contains(&format!("#[cfg(test)]\nmod {name};"))
        };
        for path in sources.iter().filter(|path| !is_test(path)) {
            assert_clean(code_faults(&shown(path), &read(path)));
        }
        // The lint sees what a search for words cannot, such as a renamed import.
        let lints = read(&root().join(package).join("clippy.toml"));
        for method in ["std::time::Instant::now", "std::time::SystemTime::now"] {
            assert!(lints.contains(method), "{package}/clippy.toml does not disallow {method}");
        }
    }
}

/// The one file that may hold `unsafe`, with a reason at each place.
const MAY_BE_UNSAFE: &str = "keys/src/arena.rs";

#[test]
fn unsafe_code_is_denied_everywhere_but_in_one_file() {
    let root_manifest = read(&root().join("Cargo.toml"));
    assert!(
        section(&root_manifest, "workspace.lints.rust").contains("unsafe_code = \"deny\""),
        "the workspace does not deny unsafe code"
    );
    for manifest in manifests(&metadata()) {
        let lints = section(&read(&manifest), "lints").contains("workspace = true");
        assert!(lints, "{} does not take the lints of the workspace", shown(&manifest));
    }
    // This file is left out: it has to name what it looks for.
    for path in tree().iter().filter(|path| has_extension(path, "rs") && !path.ends_with(file!())) {
        assert_clean(unsafe_faults(&shown(path), &read(path)));
    }
}

#[test]
fn every_source_says_what_it_is_for() {
    let sources: Vec<PathBuf> = tree().into_iter().filter(|path| has_extension(path, "rs")).collect();
    assert!(sources.len() > 10, "only {} sources found", sources.len());
    for path in sources {
        assert_clean(opening_faults(&shown(&path), &read(&path)));
    }
}

#[test]
fn no_file_speaks_of_the_machine_it_was_written_on() {
    for path in tree() {
        // Corpora and other bytes are not prose.
        if let Ok(text) = std::fs::read_to_string(&path) {
            assert_clean(word_faults(&shown(&path), &text));
        }
    }
}

#[test]
fn every_package_comes_from_the_public_registry() {
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        assert_clean(source_faults(lock, &read(&root().join(lock))));
    }
    for path in tree().iter().filter(|path| path.ends_with(".cargo/config.toml")) {
        assert_clean(registry_faults(&shown(path), &read(path)));
    }
}

#[test]
fn no_cipher_curve_or_hash_is_there_twice() {
    assert_clean(duplicate_faults(&read(&root().join("Cargo.lock"))));
}

#[test]
fn every_fuzz_target_has_a_binary_and_a_corpus() {
    let fuzz = root().join("fuzz");
    let manifest = read(&fuzz.join("Cargo.toml"));
    let targets = files_below(&fuzz.join("fuzz_targets"));
    assert!(!targets.is_empty(), "no fuzz target found");
    for target in targets {
        let name = target.file_stem().unwrap().to_string_lossy().into_owned();
        let inputs = files_below(&fuzz.join("corpus").join(&name)).len();
        assert_clean(fuzz_faults(&name, &manifest, inputs));
    }
}

#[test]
fn every_negative_test_exists_or_is_listed_as_missing() {
    // This file is left out: its examples look like tests.
    let is_source = |path: &PathBuf| has_extension(path, "rs") && !path.ends_with(file!());
    let sources = tree().into_iter().filter(is_source);
    let tested = sources.flat_map(|path| tested_numbers(&read(&path))).collect();
    assert_clean(negative_test_faults(&read(&root().join("docs/protocol.md")), &tested));
}

/// The smallest node with TCP and channels is pure Rust and stays small.
#[test]
fn the_smallest_build_is_small_and_pure_rust() {
    let tree = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["tree", "--locked", "--package", "onward", "--no-default-features"])
        .args(["--features", "tcp,channels", "--edges", "normal,build", "--prefix", "none"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(packages(&tree).contains("onward-channels"), "the tree is not the one meant");
    assert_clean(build_faults(&tree));
}

// ---- The rules -------------------------------------------------------------------------------------

/// Packages without a row in `arrows`, and dependencies that no arrow allows.
fn arrow_faults(metadata: &Value, arrows: &[(&str, &[&str])]) -> Vec<String> {
    let ours: BTreeSet<&str> = members(metadata).map(name).collect();
    let mut faults = Vec::new();
    for package in members(metadata) {
        let Some((_, allowed)) = arrows.iter().find(|(from, _)| *from == name(package)) else {
            faults.push(format!("{} has no row in the table of arrows", name(package)));
            continue;
        };
        for dependency in dependencies(package) {
            let to = name(dependency);
            let is_for_tests = dependency["kind"].as_str() == Some("dev")
                && (to == TRIALS || TESTED_BY_USE.contains(&(name(package), to)));
            if ours.contains(to) && !allowed.contains(&to) && !is_for_tests {
                faults.push(format!("{} may not depend on {to}", name(package)));
            }
        }
    }
    faults
}

/// Impure direct dependencies of `package`, those for its tests left out.
fn dependency_faults(metadata: &Value, package: &str) -> Vec<String> {
    let Some(found) = members(metadata).find(|member| name(member) == package) else {
        return vec![format!("there is no package {package}")];
    };
    dependencies(found)
        .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
        .map(name)
        .filter(|to| IMPURE_DEPENDENCIES.contains(to))
        .map(|to| format!("{package} is pure and may not depend on {to}"))
        .collect()
}

/// Words of [`IMPURE_CODE`] and [`WAITING_CODE`] in a source, its comments left out.
fn code_faults(file: &str, source: &str) -> Vec<String> {
    let may_wait = ASKS_A_VAULT.iter().any(|start| file.starts_with(start));
    let waiting = if may_wait { &[] } else { WAITING_CODE };
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(source.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        for word in IMPURE_CODE.iter().chain(waiting).filter(|word| code.contains(**word)) {
            faults.push(format!("{file}:{number}: {word} in a pure crate"));
        }
    }
    faults
}

/// Files that lift the lint without being [`MAY_BE_UNSAFE`], and `unsafe` there without its reason.
fn unsafe_faults(file: &str, source: &str) -> Vec<String> {
    if file != MAY_BE_UNSAFE {
        let lifts = source.contains("(unsafe_code");
        return lifts.then(|| format!("{file} lifts the lint against unsafe code")).into_iter().collect();
    }
    let mut faults = Vec::new();
    let lines: Vec<&str> = source.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let explained = lines[at.saturating_sub(4)..at].iter().any(|before| before.contains("// SAFETY:"));
        if code.contains("unsafe ") && !explained {
            faults.push(format!("{file}:{}: unsafe without its reason", at + 1));
        }
    }
    faults
}

fn opening_faults(file: &str, source: &str) -> Vec<String> {
    if source.starts_with("//! ") {
        return Vec::new();
    }
    vec![format!("{file} does not begin with a line of documentation")]
}

/// Paths of a machine in a text file. Put together here so that this file holds none of them.
fn word_faults(file: &str, text: &str) -> Vec<String> {
    let forbidden = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for word in forbidden.iter().filter(|word| line.contains(**word)) {
            faults.push(format!("{file}:{number}: {word}"));
        }
    }
    faults
}

/// Packages in a lock file that come from elsewhere than the public registry.
fn source_faults(file: &str, lock: &str) -> Vec<String> {
    const PUBLIC: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    lock.lines()
        .filter(|line| line.starts_with("source = ") && *line != PUBLIC)
        .map(|line| format!("{file}: {line}"))
        .collect()
}

/// Settings of cargo that send a build to another registry.
fn registry_faults(file: &str, config: &str) -> Vec<String> {
    config
        .lines()
        .filter(|line| ["[source", "[registr", "replace-with"].iter().any(|word| line.contains(word)))
        .map(|line| format!("{file}: {line}"))
        .collect()
}

/// Packages of [`CRYPTOGRAPHY`] that a lock file holds in more than one version.
fn duplicate_faults(lock: &str) -> Vec<String> {
    let mut count = BTreeMap::new();
    for line in lock.lines() {
        if let Some(name) = line.strip_prefix("name = ") {
            *count.entry(name.trim_matches('"')).or_insert(0) += 1;
        }
    }
    count
        .into_iter()
        .filter(|(name, count)| *count > 1 && CRYPTOGRAPHY.contains(name))
        .map(|(name, count)| format!("{name} is locked in {count} versions"))
        .collect()
}

fn fuzz_faults(name: &str, manifest: &str, inputs: usize) -> Vec<String> {
    let mut faults = Vec::new();
    if !manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")) {
        faults.push(format!("fuzz/Cargo.toml has no binary for {name}"));
    }
    if inputs == 0 {
        faults.push(format!("fuzz/corpus/{name} holds no input"));
    }
    faults
}

/// Numbered negative tests of the specification that have neither a test nor a row in its list of
/// missing ones, and rows of that list that are no longer true.
fn negative_test_faults(specification: &str, tested: &BTreeSet<Number>) -> Vec<String> {
    let (before, rest) = specification.split_once(MISSING_TESTS).unwrap_or((specification, ""));
    let (list, after) = rest.split_once("\n---").unwrap_or((rest, ""));
    let listed = specified_numbers(list);
    let specified: BTreeSet<Number> =
        specified_numbers(before).union(&specified_numbers(after)).copied().collect();
    let mut faults = Vec::new();
    for number @ (part, test) in specified.difference(tested) {
        if !listed.contains(number) {
            faults.push(format!("N{part}.{test} has no test and is not listed as missing"));
        }
    }
    for (part, test) in listed.intersection(tested) {
        faults.push(format!("N{part}.{test} is listed as missing and has a test"));
    }
    for (part, test) in listed.difference(&specified) {
        faults.push(format!("N{part}.{test} is listed as missing and is not specified"));
    }
    faults
}

/// What the smallest build may not be: too large, or with a library in C.
fn build_faults(tree: &str) -> Vec<String> {
    let packages = packages(tree);
    let mut faults = Vec::new();
    if packages.len() > MINIMAL_PACKAGES_MAX {
        faults.push(format!("{} packages, at most {MINIMAL_PACKAGES_MAX}", packages.len()));
    }
    for package in packages {
        // The one of these names that only declares numbers of the kernel, in Rust.
        let only_numbers = package == "linux-raw-sys";
        let builds_c = ["bindgen", "cc", "cmake", "pkg-config"].contains(&package);
        if builds_c || (package.ends_with("-sys") && !only_numbers) {
            faults.push(format!("{package} brings a library in C"));
        }
    }
    faults
}

// ---- Reading ---------------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => panic!("{}: {error}", shown(path)),
    }
}

/// The path as seen from the root.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// What cargo knows of the packages of the workspace.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["metadata", "--no-deps", "--locked", "--format-version", "1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    package["dependencies"].as_array().into_iter().flatten()
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

fn manifests(metadata: &Value) -> Vec<PathBuf> {
    members(metadata).filter_map(|package| package["manifest_path"].as_str()).map(PathBuf::from).collect()
}

/// The lines of a manifest between `[name]` and the next section.
fn section<'a>(manifest: &'a str, name: &str) -> &'a str {
    let Some((_, rest)) = manifest.split_once(&format!("\n[{name}]\n")) else {
        return "";
    };
    rest.split("\n[").next().unwrap_or_default()
}

/// A numbered negative test: part of the specification, and place in the part.
type Number = (u32, u32);

/// What stands in the specification before its list of tests that are missing.
const MISSING_TESTS: &str = "**Negative tests that do not exist yet.**";

/// Every `N3.7` in a text, and every number of a range such as `N3.7–N3.9`.
fn specified_numbers(text: &str) -> BTreeSet<Number> {
    let mut numbers = BTreeSet::new();
    // The number before and what stood between, to tell a range from two numbers.
    let mut before: Option<(Number, &str)> = None;
    for piece in text.split('N').skip(1) {
        let Some((number, rest)) = leading_number(piece, '.') else {
            before = None;
            continue;
        };
        if let Some(((part, first), "–")) = before
            && part == number.0
        {
            numbers.extend((first..number.1).map(|test| (part, test)));
        }
        numbers.insert(number);
        before = Some((number, rest));
    }
    numbers
}

/// The numbers in the names of tests: `fn n3_7_…` tests N3.7.
fn tested_numbers(source: &str) -> BTreeSet<Number> {
    let numbered = source.split("fn n").skip(1).filter_map(|piece| leading_number(piece, '_'));
    numbered.filter(|(_, rest)| rest.starts_with('_')).map(|(number, _)| number).collect()
}

/// Two numbers with `separator` between them at the start of `text`, and what follows.
fn leading_number(text: &str, separator: char) -> Option<(Number, &str)> {
    let (part, rest) = text.split_once(separator)?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    Some(((part.parse().ok()?, rest[..end].parse().ok()?), &rest[end..]))
}

/// The names in what `cargo tree --prefix none` prints.
fn packages(tree: &str) -> BTreeSet<&str> {
    tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).collect()
}

/// Every file of the project; what is built, downloaded or kept by git is left out.
fn tree() -> Vec<PathBuf> {
    files_below(root())
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    const LEFT_OUT: &[&str] = &[".git", "artifacts", "coverage", "target"];
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let left_out = LEFT_OUT.iter().any(|name| path.ends_with(name));
            if path.is_dir() && !left_out {
                folders.push(path);
            } else if path.is_file() && !left_out {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

#[track_caller]
fn assert_clean(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Each rule is shown something it has to object to.
mod rules_can_fail {
    use super::*;
    use serde_json::json;

    /// A package as cargo describes it.
    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        json!({"name": name, "dependencies": dependencies})
    }

    #[test]
    fn an_arrow_that_points_back() {
        let metadata = json!({"packages": [
            package("onward-routing", &[("onward-workers", Some("dev"))]),
            package("onward-workers", &[("onward-routing", None), ("tokio", None)]),
        ]});
        let faults = arrow_faults(&metadata, ARROWS);
        assert_eq!(faults, ["onward-routing may not depend on onward-workers"]);
    }

    #[test]
    fn trials_in_what_is_built_for_users() {
        let with =
            |kind| json!({"packages": [package(TRIALS, &[]), package("onward-cli", &[(TRIALS, kind)])]});
        assert!(arrow_faults(&with(Some("dev")), ARROWS).is_empty());
        assert_eq!(arrow_faults(&with(None), ARROWS), ["onward-cli may not depend on onward-trials"]);
    }

    #[test]
    fn a_package_without_a_row() {
        let metadata = json!({"packages": [package("onward-utils", &[])]});
        assert_eq!(arrow_faults(&metadata, ARROWS).len(), 1);
    }

    #[test]
    fn a_runtime_in_a_pure_crate() {
        let pure = [("bytes", None), ("tokio", Some("dev"))];
        let metadata = json!({"packages": [package("onward-routing", &pure)]});
        assert!(dependency_faults(&metadata, "onward-routing").is_empty());
        let metadata = json!({"packages": [package("onward-routing", &[("tokio", None)])]});
        assert_eq!(dependency_faults(&metadata, "onward-routing").len(), 1);
        assert_eq!(dependency_faults(&metadata, "onward-channels").len(), 1);
    }

    #[test]
    fn a_clock_in_a_pure_crate() {
        let source = "//! No Instant::now here.\nlet t = Instant::now(); // it is 12\nx().await;\n";
        let faults = code_faults("a.rs", source);
        let expected = ["a.rs:2: Instant::now in a pure crate", "a.rs:3: .await in a pure crate"];
        assert_eq!(faults, expected);
    }

    #[test]
    fn a_wait_where_no_vault_is_asked() {
        let source = "async fn sign() {}\n";
        assert!(code_faults("channels/src/identity/change.rs", source).is_empty());
        assert_eq!(code_faults("channels/src/session.rs", source).len(), 1);
    }

    #[test]
    fn a_file_without_documentation() {
        assert!(opening_faults("a.rs", "//! What it is for.\nfn a() {}\n").is_empty());
        assert_eq!(opening_faults("a.rs", "fn a() {}\n").len(), 1);
    }

    #[test]
    fn unsafe_code_elsewhere_or_without_a_reason() {
        let lifting = "//! A file.\n#![allow(unsafe_code)]\n";
        assert_eq!(unsafe_faults("node/src/lib.rs", lifting).len(), 1);
        assert!(unsafe_faults(MAY_BE_UNSAFE, lifting).is_empty());
        assert_eq!(unsafe_faults(MAY_BE_UNSAFE, "let x = unsafe { y() };\n").len(), 1);
        assert!(unsafe_faults(MAY_BE_UNSAFE, "// SAFETY: so.\nlet x = unsafe { y() };\n").is_empty());
    }

    #[test]
    fn a_path_of_a_machine() {
        let line = ["see ", concat!("/ho", "me/"), "me/x"].concat();
        assert_eq!(word_faults("a.md", &line).len(), 1);
        assert!(word_faults("a.md", "worked at home").is_empty());
    }

    #[test]
    fn a_package_from_elsewhere() {
        let lock = "name = \"a\"\nsource = \"git+https://example.com/a#1\"\n";
        assert_eq!(source_faults("Cargo.lock", lock).len(), 1);
        assert_eq!(registry_faults("config.toml", "[source.crates-io]\n").len(), 1);
        assert!(registry_faults("config.toml", "[alias]\nxtask = \"run\"\n").is_empty());
    }

    #[test]
    fn a_second_hash() {
        let lock = |name: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"1\"\n");
        assert_eq!(duplicate_faults(&[lock("sha2"), lock("sha2")].concat()).len(), 1);
        assert!(duplicate_faults(&[lock("sha2"), lock("syn"), lock("syn")].concat()).is_empty());
    }

    #[test]
    fn a_fuzz_target_without_a_corpus() {
        let manifest = "[[bin]]\npath = \"fuzz_targets/f2_route.rs\"\n";
        assert!(fuzz_faults("f2_route", manifest, 1).is_empty());
        assert_eq!(fuzz_faults("f2_route", manifest, 0).len(), 1);
        assert_eq!(fuzz_faults("f9_other", manifest, 1).len(), 1);
    }

    #[test]
    fn a_negative_test_that_is_missing_or_there_after_all() {
        let specification =
            format!("{MISSING_TESTS} N2.1–N2.3 need UDP.\n---\nN1.1 a. N2.1 b. N2.2 c. N2.3 d. N3.10 e.\n");
        let tested = tested_numbers("fn n1_1_a() {}\nfn n3_10_e() {}\nfn n9() {}\n");
        assert!(negative_test_faults(&specification, &tested).is_empty());
        let tested = tested_numbers("fn n1_1_a() {}\nfn n2_2_c() {}\n");
        let expected =
            ["N3.10 has no test and is not listed as missing", "N2.2 is listed as missing and has a test"];
        assert_eq!(negative_test_faults(&specification, &tested), expected);
        let unknown = format!("{MISSING_TESTS} N4.1\n---\n");
        assert_eq!(negative_test_faults(&unknown, &tested).len(), 1);
    }

    #[test]
    fn a_large_build_and_one_with_c() {
        assert!(build_faults("onward v0.1.0\nlinux-raw-sys v0.1.0\nonward v0.1.0 (*)\n").is_empty());
        assert_eq!(build_faults("cc v1.0.0\naws-lc-sys v0.1.0\n").len(), 2);
        let large: String = (0..=MINIMAL_PACKAGES_MAX).map(|n| format!("p{n} v1.0.0\n")).collect();
        assert_eq!(build_faults(&large).len(), 1);
    }

    #[test]
    fn a_manifest_without_the_lints() {
        assert!(section("[package]\n[lints]\nworkspace = true\n", "lints").contains("true"));
        assert_eq!(section("[package]\nworkspace = true\n", "lints"), "");
        assert_eq!(section("\n[lints]\n\n[features]\nworkspace = true\n", "lints").trim(), "");
    }
}
