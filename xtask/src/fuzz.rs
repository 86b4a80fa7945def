//! `cargo xtask fuzz`: runs the fuzz targets for a time or for a number of inputs.
//!
//! New inputs are kept under `target/`, never in the tracked corpora: whoever finds one worth
//! keeping adds it by hand, and a crash goes to `fuzz/regressions/<target>/` with its fix.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::run;

/// How much, and which target.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Time for each target (`60s`, `10m`, `2h`) unless `--runs` is given, then one target or none.
    #[arg(value_name = "TIME [TARGET]", num_args = 0..=2)]
    words: Vec<String>,
    /// Inputs for each target, instead of a time.
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
}

/// The version of cargo-fuzz that is installed when there is none.
const CARGO_FUZZ: &str = "0.13.2";

/// Fuzzes each target in turn and stops at the first crash.
///
/// # Errors
/// When the arguments make no sense, a tool is missing and cannot be installed, or a target fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (limit, named) = limit(arguments)?;
    let targets = targets()?;
    let chosen: Vec<&String> = match named {
        None => targets.iter().collect(),
        Some(name) => {
            let target = targets.iter().find(|target| *target == name);
            vec![target.with_context(|| format!("no such target; there are {targets:?}"))?]
        }
    };

    require_nightly()?;
    if !run::has_subcommand("fuzz") {
        eprintln!("cargo-fuzz is not installed: installing {CARGO_FUZZ}");
        run::succeed(run::cargo("install --locked cargo-fuzz --version").arg(CARGO_FUZZ))?;
    }
    for target in &chosen {
        run::succeed(&mut fuzz(target, &limit)?)?;
    }
    println!("no failure in {chosen:?}");
    Ok(())
}

/// One run of cargo-fuzz. What it finds goes to a folder of its own; the tracked ones are only read.
fn fuzz(target: &str, limit: &str) -> Result<Command> {
    let found = run::target_directory().join("fuzz-found").join(target);
    std::fs::create_dir_all(&found).with_context(|| format!("{}", found.display()))?;
    // By way of rustup: the cargo that runs this program is not the nightly one.
    let mut command = Command::new("rustup");
    command.current_dir(run::root());
    command.args(["run", "nightly", "cargo", "fuzz", "run", target, "--features", "libfuzzer"]);
    command.arg(found);
    for kept in ["corpus", "regressions"] {
        let folder = format!("fuzz/{kept}/{target}");
        if run::root().join(&folder).is_dir() {
            command.arg(folder);
        }
    }
    command.args(["--", limit, "-timeout=10", "-rss_limit_mb=2048"]);
    Ok(command)
}

/// The limit as libFuzzer takes it, and the target that was named.
fn limit(arguments: &Arguments) -> Result<(String, Option<&String>)> {
    match (arguments.runs, arguments.words.as_slice()) {
        (Some(runs), []) => Ok((format!("-runs={runs}"), None)),
        (Some(runs), [target]) => Ok((format!("-runs={runs}"), Some(target))),
        (None, [time, target @ ..]) => {
            let seconds = parse_time(time)?.as_secs();
            Ok((format!("-max_total_time={seconds}"), target.first()))
        }
        _ => bail!("usage: fuzz TIME [TARGET], or fuzz --runs N [TARGET]"),
    }
}

/// The targets: every file of `fuzz/fuzz_targets/`, in the order of their names.
fn targets() -> Result<Vec<String>> {
    let folder = run::root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn require_nightly() -> Result<()> {
    let found = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ensure!(
        found.is_ok_and(|status| status.success()),
        "fuzzing needs a nightly toolchain: rustup toolchain install nightly"
    );
    Ok(())
}

/// Reads `60s`, `10m` or `2h`; at least one second.
fn parse_time(text: &str) -> Result<Duration> {
    let explain = || format!("{text:?} is no time; write 60s, 10m or 2h");
    let number = text.trim_end_matches(['s', 'm', 'h']);
    let unit = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!(explain()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match seconds {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => bail!(explain()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str], runs: Option<u64>) -> Arguments {
        Arguments { words: words.iter().map(|word| (*word).to_owned()).collect(), runs }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(parse_time("10m").unwrap(), Duration::from_secs(600));
        for wrong in ["", "10", "m", "0s", "-1s", "1d", "1ss"] {
            assert!(parse_time(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_time_or_a_number_of_runs_is_required() {
        let timed = arguments(&["2s", "f1_stream"], None);
        let (text, target) = limit(&timed).unwrap();
        assert_eq!((text.as_str(), target), ("-max_total_time=2", Some(&timed.words[1])));
        assert_eq!(limit(&arguments(&[], Some(5))).unwrap(), ("-runs=5".into(), None));
        assert!(limit(&arguments(&[], None)).is_err());
        assert!(limit(&arguments(&["2s", "f1_stream"], Some(5))).is_err());
    }
}
