//! `onward doctor`: what of this machine and its key service is not as it should be.
//!
//! Each check has a name of its own and says in one line what it found. Nothing is changed.

use std::fs;
use std::time::Instant;

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use super::keyd::client;
use crate::args::AtService;
use crate::error::{CliError, Code};
use crate::output::{Format, Output, Table};
use crate::state::State;

/// Files that a busy node may have open.
const OPEN_FILES: u64 = 12_064;

/// What a check found.
struct Finding {
    group: &'static str,
    check: &'static str,
    verdict: Verdict,
    text: String,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Verdict {
    Good,
    Warning,
    Problem,
}

impl Verdict {
    fn of(good: bool, otherwise: Self) -> Self {
        if good { Self::Good } else { otherwise }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Good => "√",
            Self::Warning => "!",
            Self::Problem => "×",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

pub(crate) async fn run(state: &State, at: &AtService, output: Output) -> Result<(), CliError> {
    let mut findings = host(state);
    findings.extend(keyd(state, at).await);
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (problems, warnings) = (count(Verdict::Problem), count(Verdict::Warning));
    let mut table = Table::new("checks", &["verdict", "group", "check", "found"]);
    let people = output.format == Format::Table;
    for Finding { group, check, verdict, text } in &findings {
        let shown = if people { verdict.sign() } else { verdict.name() };
        table.row([json!(shown), json!(group), json!(check), Value::String(text.clone())]);
    }
    output.table(&table)?;
    if problems > 0 {
        return Err(CliError::new(Code::Doctor, format!("{problems} problems, {warnings} warnings")));
    }
    output.say(&format!("no problems, {warnings} warnings"));
    Ok(())
}

fn host(state: &State) -> Vec<Finding> {
    let finding = |check, verdict, text| Finding { group: "host", check, verdict, text };
    let cores = getrlimit(Resource::Core).current;
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let swap = swaps.lines().count() > 1;
    let ptrace = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let guarded = ptrace.trim().parse().is_ok_and(|scope: u8| scope > 0);
    vec![
        finding(
            "cores",
            Verdict::of(cores == Some(0), Verdict::Warning),
            match cores {
                Some(0) => "no core dumps".to_owned(),
                _ => "programs may dump their memory (ulimit -c 0 forbids it; onward-keyd never does)"
                    .to_owned(),
            },
        ),
        finding(
            "files",
            Verdict::of(files >= OPEN_FILES, Verdict::Warning),
            format!("{files} files may be open (a busy node has {OPEN_FILES})"),
        ),
        finding(
            "swap",
            Verdict::of(!swap, Verdict::Warning),
            if swap { "swap is on: memory that is not locked may be written to it" } else { "swap is off" }
                .to_owned(),
        ),
        finding(
            "ptrace",
            Verdict::of(guarded, Verdict::Warning),
            if guarded {
                "processes look only into their own children (Yama)"
            } else {
                "processes of one user may look into each other: give applications users of their own"
            }
            .to_owned(),
        ),
        finding("state", Verdict::Good, format!("state directory {}, mode 0700", state.home().display())),
    ]
}

async fn keyd(state: &State, at: &AtService) -> Vec<Finding> {
    let finding = |check, verdict, text| Finding { group: "keyd", check, verdict, text };
    let Ok(client) = client(state, at) else {
        let text = "there is none: keys are in the programs that use them (onward keyd start)".to_owned();
        return vec![finding("present", Verdict::Warning, text)];
    };
    let asked = Instant::now();
    let said = match client.status().await {
        Ok(said) => said,
        Err(error) => {
            return vec![finding("present", Verdict::Problem, format!("it does not answer: {error}"))];
        }
    };
    let took = asked.elapsed().as_secs_f64() * 1000.0;
    let owner = super::keyd::service_dir(state, at);
    let owner = fs::metadata(owner).map(|found| std::os::unix::fs::MetadataExt::uid(&found)).ok();
    let apart = owner.is_some_and(|owner| owner != rustix::process::geteuid().as_raw());
    let mut findings = vec![
        finding("present", Verdict::Good, format!("answers in {took:.1} ms")),
        finding(
            "user",
            Verdict::of(apart, Verdict::Warning),
            if apart { "runs as a user of its own" } else { "runs as your user: give it one of its own" }
                .to_owned(),
        ),
        finding(
            "unlocked",
            Verdict::of(said.unlocked, Verdict::Problem),
            if said.unlocked { "unlocked" } else { "locked: onward keyd unlock" }.to_owned(),
        ),
        finding(
            "policy",
            Verdict::of(said.rules > 0, Verdict::Warning),
            format!("{} rules{}", said.rules, if said.rules == 0 { ": every client is denied" } else { "" }),
        ),
    ];
    findings.extend(said.protection.iter().map(|line| {
        let good = line.starts_with('+');
        // Keys that lie in swappable memory are what the service is there to avoid.
        let worst = if line.contains("keys at rest") { Verdict::Problem } else { Verdict::Warning };
        finding("protection", Verdict::of(good, worst), line.trim_start_matches(['+', '-', ' ']).to_owned())
    }));
    findings
}
