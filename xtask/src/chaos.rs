//! `cargo xtask chaos`: measures the rows of the list of claims, real processes being killed among them.
//!
//! A row is measured by the tests whose name begins with its number: `a12_…` measures A12, `a12_a36_…` A12 and
//! A36. This task finds them in the sources, runs them alone, one at a time, and passes on each figure they print.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::run::{self, Streams};

/// Which rows, and how much of each.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rows such as `A12` or `R13`, or `queue`, `broker`, `keyd` or `ok2cry` for groups of them; all of them when none is named.
    rows: Vec<String>,
    /// Measure at the full size, optimised: hours instead of minutes.
    #[arg(long)]
    full: bool,
}

/// Rows that have a name together.
const GROUPS: &[(&str, &[&str])] = &[
    ("QUEUE", &["A40", "A42", "R1", "R2", "R3", "R4"]),
    ("BROKER", &["A39", "A41", "A42", "R5", "R6"]),
    ("KEYD", &["A48", "A49", "A50", "A51", "A52", "A53", "R21"]),
    ("OK2CRY", &["A45", "A46", "A47", "R24"]),
];

/// A figure as a test prints it.
#[derive(Deserialize)]
struct Figure {
    row: String,
    met: bool,
    /// Not so of a time in a run that has not the machine to itself.
    #[serde(default = "yes")]
    decides: bool,
}

fn yes() -> bool {
    true
}

/// Runs the tests of the rows and prints one JSON line for each figure.
///
/// Fails when a figure is not met, a test fails, or a row has printed none.
///
/// # Errors
/// When a row has no test, or the tests cannot be started.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let tests = chosen(&row_tests(run::root())?, &arguments.rows)?;
    let mut measured: BTreeMap<&str, u64> = tests.keys().map(|row| (row.as_str(), 0)).collect();
    let (mut missed, mut late) = (0_u64, 0_u64);
    let status = run::each_line(&mut command(&tests, arguments.full), Streams::Output, |line| {
        let Some((json, figure)) = figure(line) else { return eprintln!("{line}") };
        if let Some(count) = measured.get_mut(figure.row.as_str()) {
            *count += 1;
            missed += u64::from(!figure.met && figure.decides);
            late += u64::from(!figure.met && !figure.decides);
            println!("{json}");
        }
    })?;
    let silent: Vec<_> = measured.iter().filter(|(_, count)| **count == 0).map(|(row, _)| row).collect();
    for row in &silent {
        eprintln!("{row} printed no figure");
    }
    let figures: u64 = measured.values().sum();
    eprintln!("{} rows, {figures} figures, {missed} not met", measured.len());
    if late > 0 {
        eprintln!("{late} times above what is required, which decides with --full only");
    }
    let good = status.success() && missed == 0 && silent.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn command(tests: &BTreeMap<String, BTreeSet<String>>, full: bool) -> Command {
    let mut command = run::cargo("test --workspace --locked --no-fail-fast --lib --bins --tests");
    if full {
        command.arg("--release").env("ONWARD_TRIALS", "full");
    }
    // One at a time: a figure is taken while nothing else runs.
    command.args(["--", "--nocapture", "--test-threads=1"]);
    command.args(tests.values().flatten());
    command
}

/// The figure in a line, which the name of its test may precede.
fn figure(line: &str) -> Option<(&str, Figure)> {
    let json = &line[line.find('{')?..];
    serde_json::from_str(json).ok().map(|figure| (json, figure))
}

/// The tests of the named rows, or of all when none is named.
fn chosen(
    found: &BTreeMap<String, BTreeSet<String>>,
    named: &[String],
) -> Result<BTreeMap<String, BTreeSet<String>>> {
    if named.is_empty() {
        return Ok(found.clone());
    }
    let mut chosen = BTreeMap::new();
    let rows_of = |name: &String| match GROUPS.iter().find(|(group, _)| name.eq_ignore_ascii_case(group)) {
        Some((_, rows)) => rows.iter().map(|row| (*row).to_owned()).collect(),
        None => vec![name.to_uppercase()],
    };
    for row in named.iter().flat_map(rows_of) {
        let rows = || found.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
        let tests = found.get(&row).with_context(|| format!("{row} has no test; there are {}", rows()))?;
        chosen.insert(row, tests.clone());
    }
    Ok(chosen)
}

/// The names of the tests of each row, from all sources below `folder`.
fn row_tests(folder: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut tests: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // This task's own examples of tests are none.
            let is_source = path.extension().is_some_and(|extension| extension == "rs") && name != "chaos.rs";
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if is_source {
                let source = std::fs::read_to_string(&path)?;
                for (row, test) in source.lines().flat_map(rows_of) {
                    tests.entry(row).or_default().insert(test.to_owned());
                }
            }
        }
    }
    ensure!(!tests.is_empty(), "no row has a test");
    Ok(tests)
}

/// The rows of the test that begins in this line, each with its name: `fn a12_a36_…` measures A12 and A36.
fn rows_of(line: &str) -> impl Iterator<Item = (String, &str)> {
    let code = line.trim_start();
    let code = code.strip_prefix("async ").unwrap_or(code);
    let name = code.strip_prefix("fn ").and_then(|code| code.split('(').next()).unwrap_or_default();
    let parts = name.split_once('_').map(|_| name.split('_')).into_iter().flatten();
    parts.take_while(|part| is_row(part)).map(move |row| (row.to_uppercase(), name))
}

fn is_row(part: &str) -> bool {
    part.strip_prefix(['a', 'r'])
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_rows_are_told_from_other_functions() {
        let found = |line| rows_of(line).collect::<Vec<_>>();
        assert_eq!(found("fn a12_x() {"), [("A12".into(), "a12_x")]);
        assert_eq!(found("    async fn r13_y() {"), [("R13".into(), "r13_y")]);
        assert_eq!(found("fn a2_a36_x() {"), [("A2".into(), "a2_a36_x"), ("A36".into(), "a2_a36_x")]);
        for other in
            ["fn a_x() {", "fn read_x() {", "// fn a12_x", "fn n1_2_x() {", "fn a12() {", "fn r1x_y()"]
        {
            assert_eq!(found(other), [], "{other}");
        }
    }

    #[test]
    fn a_figure_is_found_behind_the_name_of_its_test() {
        let line = r#"test a12_x ... {"figure":"x","met":false,"required":"= 0","row":"A12","value":1}"#;
        let (json, found) = figure(line).unwrap();
        assert!(json.starts_with('{') && found.row == "A12" && !found.met);
        assert!(figure("test x ... ok").is_none() && figure("{\"row\":1}").is_none());
    }

    #[test]
    fn rows_are_named_in_either_case_and_must_exist() {
        let found = BTreeMap::from([("A12".to_owned(), BTreeSet::from(["a12_x".to_owned()]))]);
        assert_eq!(chosen(&found, &["a12".to_owned()]).unwrap(), found);
        assert_eq!(chosen(&found, &[]).unwrap(), found);
        assert!(chosen(&found, &["A13".to_owned()]).is_err());
    }

    #[test]
    fn a_group_stands_for_its_rows() {
        let (name, rows) = GROUPS[0];
        let found: BTreeMap<_, _> = rows.iter().map(|row| ((*row).to_owned(), BTreeSet::new())).collect();
        assert_eq!(chosen(&found, &[name.to_lowercase()]).unwrap(), found);
    }
}
