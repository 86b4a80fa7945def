//! `onward peer`: the identities of others under short names.

use serde_json::json;

use crate::args::PeerCommand;
use crate::client::resolve_peer;
use crate::error::CliError;
use crate::output::{Output, Table};
use crate::state::State;

pub(crate) fn run(state: &State, command: PeerCommand, output: Output) -> Result<(), CliError> {
    match command {
        PeerCommand::Add { name, peer } => {
            let identifier = resolve_peer(state, &peer)?.to_string();
            state.peers().add(&name, &identifier)?;
            output.object(&format!("{name}: {identifier}"), json!({ "name": name, "identifier": identifier }))
        }
        PeerCommand::Rm { name } => {
            state.peers().remove(&name)?;
            output.object(&format!("{name} is forgotten"), json!({ "name": name, "removed": true }))
        }
        PeerCommand::Ls => {
            let mut table = Table::new("peers", &["name", "identifier"]);
            for (name, identifier) in state.peers().entries()? {
                table.row([json!(name), json!(identifier)]);
            }
            output.table(&table)
        }
    }
}
