//! `cargo xtask ci`: format, lints, documentation, dependencies, and then `cargo xtask test`.
//!
//! Runs on whatever toolchain calls it; `.ci/run` brings the tools that a bare machine lacks.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::{run, servers};

/// Runs the checks in the order of their cost, stops at the first that fails, and ends with the tests.
///
/// # Errors
/// When a check fails or a tool is missing.
pub(crate) fn run() -> Result<ExitCode> {
    let checks = [
        "fmt --all --check",
        "fmt --manifest-path fuzz/Cargo.toml --check",
        "fmt --manifest-path benches/peers/Cargo.toml --check",
        "clippy --workspace --all-targets --locked -- -D warnings",
        // The smallest build: pure Rust, one transport and channels.
        "clippy -p onward --no-default-features --features tcp,channels --locked -- -D warnings",
    ];
    for check in checks {
        run::succeed(&mut run::cargo(check))?;
    }
    if servers::has_tools() {
        let kafka = "clippy -p onward-transports --features amqp,kafka,mqtt,nats,redis --all-targets --locked -- -D warnings";
        run::succeed(&mut run::cargo(kafka))?;
    }
    // What the documentation refers to must be there.
    run::succeed(run::cargo("doc --no-deps --workspace --locked").env("RUSTDOCFLAGS", "-D warnings"))?;
    dependencies()?;
    run::finish(&mut run::cargo("xtask test"))
}

/// Licences, sources and banned crates always; advisories where a copy of the database lies.
fn dependencies() -> Result<()> {
    ensure!(run::has_subcommand("deny"), "cargo-deny is not installed: cargo install --locked cargo-deny");
    run::succeed(&mut run::cargo("deny --locked check -D warnings bans licenses sources"))?;
    match advisory_database() {
        Some(database) => {
            lend(&database)?;
            run::succeed(&mut run::cargo("deny --locked --offline check advisories"))
        }
        None => {
            println!(
                "advisories NOT checked: {DATABASE} names no copy of the RustSec advisory \
                 database, and there is none in $CARGO_HOME/advisory-db"
            );
            Ok(())
        }
    }
}

/// Names the folder that holds a clone of the RustSec advisory database.
const DATABASE: &str = "ONWARD_ADVISORY_DB";

fn advisory_database() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(DATABASE) {
        return Some(PathBuf::from(named));
    }
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("advisory-db")).filter(|database| database.is_dir())
}

/// Puts a link to `database` where cargo-deny looks for its own clone, see `db-path` in `deny.toml`.
fn lend(database: &Path) -> Result<()> {
    let database =
        std::fs::canonicalize(database).with_context(|| format!("{DATABASE}: {}", database.display()))?;
    let folder = run::root().join("target/advisory-dbs");
    std::fs::create_dir_all(&folder)?;
    let link = folder.join(CLONE);
    if link.is_symlink() {
        std::fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(&database, &link)
        .with_context(|| format!("{} -> {}", link.display(), database.display()))
}

/// The name that cargo-deny gives to its clone of <https://github.com/RustSec/advisory-db>.
const CLONE: &str = "advisory-db-3157b0e258782691";
