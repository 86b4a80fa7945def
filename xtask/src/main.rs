//! Tasks of the project: `cargo xtask test`, `bench`, `peers`, `chaos`, `fuzz` and `ci`.
//!
//! Each task is a module that runs other programs and reports what they said. No task knows
//! anything about messages or keys, and none changes a tracked file.

mod bench;
mod chaos;
mod check;
mod fuzz;
mod peers;
mod run;
mod servers;
mod targets;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the onward project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test: the workspace, its documentation, and the replay of the fuzz corpora.
    Test,
    /// Print one JSON line for each figure of the project's own bench.
    Bench {
        /// Groups of figures, such as `local` or `channel`; all of them when none is named.
        groups: Vec<String>,
    },
    /// Run the peers and the project's own bench, and compare them with the targets.
    Peers {
        /// Groups of figures, such as `local` or `channel`; all of them when none is named.
        groups: Vec<String>,
    },
    /// Measure the rows of the list of claims: `chaos`, `chaos A12 R13`, `chaos queue`, `chaos R14 --full`.
    Chaos(chaos::Arguments),
    /// Fuzz each target, or the one named: `fuzz 60s`, `fuzz 10m f1_stream`, `fuzz --runs 100000`.
    Fuzz(fuzz::Arguments),
    /// Check the format, the lints, the documentation and the dependencies, then run every test.
    Ci,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Test => test::run(),
        Task::Bench { groups } => bench::run(&groups).map(|()| ExitCode::SUCCESS),
        Task::Peers { groups } => peers::run(&groups).map(|()| ExitCode::SUCCESS),
        Task::Chaos(arguments) => chaos::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Ci => check::run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
