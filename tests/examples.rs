//! Every example, run as its reader would run it, says what it promises.
#![allow(clippy::unwrap_used, reason = "unwrapping is how a test fails")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The lines that an example prints. Cargo builds all examples before it runs the tests of a package;
/// only with `--test` has `cargo build --examples` to come first.
fn lines(example: &str) -> Vec<String> {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(example);
    let done = Command::new(&program).output().unwrap_or_else(|error| {
        panic!("{} was not built (`cargo build --examples`): {error}", program.display())
    });
    assert!(done.status.success(), "{example}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn source_of(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn hello_is_answered() {
    assert_eq!(lines("hello"), ["hello, world"]);
}

#[test]
fn a_pin_passes_a_company_that_cannot_read_it_and_its_key_opens_once() {
    let expected =
        ["the customer reads 4821", "opened a second time: false", "the bank has the new PIN: true"];
    assert_eq!(lines("card_pin"), expected);
    assert!(source_of("examples/card_pin.rs").lines().count() <= 80);
}

#[test]
fn hops_write_the_way_back() {
    let expected = [
        "sent along left => right => guide",
        "Which way back? By right and left, then to you.",
        "no worker: true",
    ];
    assert_eq!(lines("hop"), expected);
}

#[test]
fn only_what_is_exposed_is_reached_over_tcp() {
    let expected =
        ["upper answers: OVER TCP", "admin is out of reach: true", "2 workers finished, 0 cut off"];
    assert_eq!(lines("two_nodes_tcp"), expected);
}

#[test]
fn several_nodes_live_in_one_process() {
    let expected = [
        "north asks itself: north; its neighbour: south",
        "south has the worker that was added to north: false",
        "south has ended; north asks west",
        "the last one left is west",
    ];
    assert_eq!(lines("several_nodes"), expected);
}

#[test]
fn a_transport_can_be_made_outside_of_the_project() {
    let expected = ["before it is exposed: false", "afterwards: carried by queues"];
    assert_eq!(lines("custom_transport"), expected);
}

#[test]
fn who_carries_a_channel_cannot_read_it() {
    let expected = [
        "the bank read 19 bytes",
        "the company carried something: true",
        "messages in which it found the secret: 0",
    ];
    assert_eq!(lines("secure_channel"), expected);
}

#[test]
fn a_channel_is_resumed_once() {
    let expected = ["stored 21", "resumed with the same peer: true", "stored 22", "no second use: true"];
    assert_eq!(lines("resumption"), expected);
}

#[test]
fn a_shared_key_is_asked_for_beside_the_identity() {
    assert_eq!(lines("psk"), ["lamp: 12 left", "another key, another answer: false"]);
}

#[test]
fn values_errors_and_serde_types_travel() {
    let expected = ["2: teapot packed", "5: only 3 left", "0: failed", "prices in EUR"];
    assert_eq!(lines("typed_messages"), expected);
}

#[test]
fn failed_workers_come_back_until_it_is_too_often() {
    let expected = [
        "store 1, cache 1",
        "cache: the request failed: failed at `cache`",
        "store 2, cache 1",
        "store: the request failed: failed at `store`",
        "store 1, cache 1",
        "store: the request failed: failed at `store`",
        "supervisor: Panicked(\"more than 2 restarts in 60s\")",
        "store answers: false",
    ];
    assert_eq!(lines("supervision"), expected);
}

#[test]
fn examples_are_short_and_say_how_to_run_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let examples: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(examples.len() >= 8);
    for path in examples {
        let (source, name) = (source_of(&path), path.file_stem().unwrap().to_string_lossy().into_owned());
        let command = format!("//!     cargo run --example {name}");
        assert!(source.lines().any(|line| line == command), "{name} does not say `{command}`");
        assert!(source.lines().count() <= 65, "{name} has more than 65 lines");
    }
}

#[test]
fn the_program_in_the_readme_is_the_first_example() {
    let hello = source_of("examples/hello.rs");
    let program = hello.split_once("\n\n").unwrap().1;
    let readme = source_of("README.md");
    assert!(readme.contains(program), "README.md does not show examples/hello.rs");
}
