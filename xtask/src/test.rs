//! `cargo xtask test`: every test there is, and one closing line that says how many passed.
//!
//! The examples, the demonstrations and the tidiness checks are tests of the workspace. No server has to
//! run: those that tests need, they start themselves, and packages that are missing are installed.

use std::fmt;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::run::{self, Streams};
use crate::servers;

/// Runs all suites, also after one has failed, and ends with the line `N passed, N failed`.
///
/// Fails when a test failed, a suite did not build, or no test was run.
///
/// # Errors
/// When a suite could not be started, or a server is missing where `CI=true` asks for everything.
pub(crate) fn run() -> Result<ExitCode> {
    let missing = servers::provide()?;
    let suites = suites(run::has_subcommand("nextest"));
    eprintln!("cargo xtask test runs, in this order:");
    for suite in &suites {
        eprintln!("  {}", suite.name);
    }

    let mut total = Count::default();
    let mut lines = Vec::new();
    for mut suite in suites {
        let mut count = Count::default();
        let status = run::each_line(&mut suite.command, Streams::Both, |line| {
            println!("{line}");
            count.read(line);
        })?;
        if !status.success() && count.failed == 0 {
            // It did not build, or ended before it could count: that is one failure too.
            count.failed = 1;
        }
        lines.push(format!("{}: {count}", suite.name));
        total.passed += count.passed;
        total.failed += count.failed;
    }

    println!();
    for line in lines {
        println!("{line}");
    }
    for name in missing {
        println!("NOT tested with {name}: it is not installed");
    }
    println!("{total}");
    let good = total.failed == 0 && total.passed > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Suite {
    name: &'static str,
    command: Command,
}

fn suites(nextest: bool) -> Vec<Suite> {
    let mut suites = Vec::new();
    let mut add = |name, command| suites.push(Suite { name, command });
    if nextest {
        // A test of real processes may be disturbed by what else the machine does: it gets a second try, and is
        // named as flaky when it needed that. Nextest does not run the examples that stand in documentation.
        let all = "nextest run --workspace --locked --no-fail-fast --retries 1 --status-level retry \
                   --final-status-level flaky";
        add("workspace", run::cargo(all));
        add("documentation", run::cargo("test --workspace --locked --no-fail-fast --doc"));
    } else {
        add("workspace and documentation", run::cargo("test --workspace --locked --no-fail-fast"));
    }
    let erasure =
        "test -p onward-channels --features witness,ok2cry --test erasure --test forgotten --locked";
    add("secrets left in memory", run::cargo(erasure));
    if servers::has_tools() {
        let kafka = "test -p onward-transports --features amqp,kafka,mqtt,nats,redis --lib --test brokers --locked kafka";
        add("Kafka", run::cargo(kafka));
    } else {
        println!("NOT tested with Kafka: its client cannot be built here");
    }
    let mut replay = run::cargo("test --manifest-path fuzz/Cargo.toml --locked --no-fail-fast");
    replay.arg("--target-dir").arg(run::target_directory());
    add("replay of the fuzz corpora", replay);
    suites
}

/// Tests that passed and failed, read from the closing lines of a test runner.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    /// Adds what `line` reports, when it is a closing line of cargo's runner or of nextest.
    fn read(&mut self, line: &str) {
        // Indented, the first is what a failed test printed.
        if !line.starts_with("test result: ") && !line.trim_start().starts_with("Summary [") {
            return;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].trim_start_matches('(').parse::<u64>() else {
                continue;
            };
            match pair[1].trim_end_matches([',', ';', ')']) {
                "passed" => self.passed += number,
                // Nextest: `1 timed out`, `1 exec failed`.
                "failed" | "timed" | "exec" => self.failed += number,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(line: &str) -> Count {
        let mut count = Count::default();
        count.read(line);
        count
    }

    #[test]
    fn closing_lines_of_both_runners_are_counted() {
        let cargo = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out";
        assert_eq!(count(cargo), Count { passed: 3, failed: 1 });
        let nextest = "     Summary [   1.210s] 7 tests run: 4 passed (1 slow, 1 flaky), 2 failed, 1 timed out, 9 skipped";
        assert_eq!(count(nextest), Count { passed: 4, failed: 3 });
    }

    #[test]
    fn other_lines_count_for_nothing() {
        assert_eq!(count("test counts_3 passed ... ok"), Count::default());
        assert_eq!(count("running 3 tests"), Count::default());
        assert_eq!(count("    test result: FAILED. 0 passed; 1 failed"), Count::default());
    }
}
