//! `cargo xtask bench`: the project's own figures, one JSON line each.

use std::process::Command;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::run::{self, Streams};

/// One measured figure, as a bench prints it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Figure {
    /// What was measured, such as `channel.oneway.1024`.
    pub(crate) figure: String,
    /// Who was measured: absent for this project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    /// Unit of the three values below, such as `msg/s` or `us`.
    pub(crate) unit: String,
    /// Median, smallest and largest of the runs.
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How many runs there were.
    pub(crate) n: u64,
    /// Worker threads of the runtime.
    pub(crate) workers: u64,
}

/// Prints the figures of `groups`, or all of them when it is empty.
///
/// # Errors
/// When the bench does not build or does not succeed.
pub(crate) fn run(groups: &[String]) -> Result<()> {
    own(groups, &mut Vec::new(), |line| println!("{line}"))
}

/// Runs the project's own benches, as [`figures`] does: that of the whole, and those of brokers where they are asked for.
///
/// # Errors
/// As for [`figures`].
pub(crate) fn own(groups: &[String], measured: &mut Vec<Figure>, print: impl Fn(&str)) -> Result<()> {
    let whole = "bench --locked -p onward --bench figures --bench heap --";
    let brokers = "bench --locked -p onward-transports --features amqp,mqtt,nats,redis --bench brokers --";
    let sealed = "bench --locked -p onward --features nats --bench sealed --";
    let has_brokers = groups.is_empty() || groups.iter().any(|group| group.starts_with(QUEUES));
    for words in [whole, brokers, sealed].into_iter().take(if has_brokers { 3 } else { 1 }) {
        let mut command = run::cargo(words);
        command.args(groups);
        figures(command, measured, &print)?;
    }
    Ok(())
}

/// The group of figures that brokers are in.
const QUEUES: &str = "queue";

/// Runs a bench and adds its figures to `measured`, those before a failure too; each JSON line is handed to
/// `print`, and anything else that it writes goes to standard error.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub(crate) fn figures(mut command: Command, measured: &mut Vec<Figure>, print: impl Fn(&str)) -> Result<()> {
    let status =
        run::each_line(&mut command, Streams::Output, |line| match serde_json::from_str::<Figure>(line) {
            Ok(figure) => {
                print(line);
                measured.push(figure);
            }
            Err(_) => eprintln!("{line}"),
        })?;
    ensure!(status.success(), "the bench ended with {status}");
    Ok(())
}
