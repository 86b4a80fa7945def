//! `onward audit`: the key service's record of what was done with which key.

use onward::audit::{Tree, segment_name, verify};
use onward::{PublicKey, SignatureAlgorithm};
use serde_json::json;

use super::keyd::service_dir;
use crate::args::{AtService, AuditCommand};
use crate::error::{CliError, Code};
use crate::output::{Output, Table};
use crate::state::State;

pub(crate) fn run(state: &State, command: AuditCommand, output: Output) -> Result<(), CliError> {
    match command {
        AuditCommand::Verify { at, signer } => {
            let log = read_log(state, &at)?;
            let heads = read(state, &at, "audit.heads")?;
            let signer = match signer {
                Some(signer) => signer,
                None => String::from_utf8_lossy(&read(state, &at, "audit.pub")?).trim().to_owned(),
            };
            let key = parse_signer(&signer)?;
            let verified = verify(&log[..], &heads[..], &key)
                .map_err(|error| CliError::new(Code::Audit, "the record was changed").because(error))?;
            output.object(
                &format!(
                    "{} leaves, {} of them signed for by {} heads of {signer}",
                    verified.leaves, verified.signed, verified.heads
                ),
                json!({
                    "leaves": verified.leaves,
                    "signed": verified.signed,
                    "heads": verified.heads,
                    "signer": signer,
                }),
            )
        }
        AuditCommand::Show { at, last } => {
            let log = read_log(state, &at)?;
            let mut leaves = Vec::new();
            Tree::read(&log[..], |leaf, _, _| leaves.push(leaf.clone()))
                .map_err(|error| CliError::new(Code::Audit, "the record was changed").because(error))?;
            let mut table = Table::new("leaves", &["seq", "time_ms", "event", "operation", "rule", "name"]);
            for leaf in &leaves[leaves.len().saturating_sub(last)..] {
                let entry = &leaf.entry;
                let key = entry.key.map_or_else(|| "-".to_owned(), |key| super::key::hex(&key[..8]));
                table.row([
                    json!(leaf.seq),
                    json!(leaf.time_ms),
                    json!(entry.event.name()),
                    json!(leaf.call().map_or("-", |call| call.name())),
                    json!(entry.policy),
                    json!(key),
                ]);
            }
            output.table(&table)
        }
    }
}

/// All segments of the record.
fn read_log(state: &State, at: &AtService) -> Result<Vec<u8>, CliError> {
    let mut log = read(state, at, LOG)?;
    let directory = service_dir(state, at);
    for segment in (1..).map(|number| segment_name(LOG, number)) {
        if !directory.join(&segment).exists() {
            break;
        }
        log.append(&mut read(state, at, &segment)?);
    }
    Ok(log)
}

const LOG: &str = "audit.log";

fn read(state: &State, at: &AtService, name: &str) -> Result<Vec<u8>, CliError> {
    let path = service_dir(state, at).join(name);
    std::fs::read(&path).map_err(|error| {
        CliError::new(Code::Audit, format!("{} cannot be read", path.display())).because(error)
    })
}

fn parse_signer(text: &str) -> Result<PublicKey, CliError> {
    let refused = || CliError::new(Code::Usage, format!("`{text}` is no public key: 64 hexadecimal digits"));
    if text.len() != 64 || !text.is_ascii() {
        return Err(refused());
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| refused())?;
    }
    PublicKey::new(SignatureAlgorithm::Ed25519, &bytes).map_err(|_| refused())
}
