//! `onward identity`: the identities by which others know this person's programs.

use serde_json::json;

use super::keyd;
use crate::args::IdentityCommand;
use crate::client;
use crate::error::{CliError, Code};
use crate::handshake::introduction_text;
use crate::output::{Output, Table};
use crate::state::{State, checked_name};

pub(crate) async fn run(state: &State, command: IdentityCommand, output: Output) -> Result<(), CliError> {
    match command {
        IdentityCommand::Create { name, keyd, at } => {
            if state.public_history(checked_name(&name)?).is_some() {
                return Err(CliError::new(Code::Identity, format!("identity `{name}` exists already"))
                    .help(format!("onward identity show {name} prints it; rotate replaces its key")));
            }
            if keyd {
                state.keep_in_service(&name, &keyd::service_dir(state, &at))?;
            }
            let node = client::start_node_to_change(state, &name).await?;
            client::identity(state, &node, &name).await?;
            if keyd {
                output.say(&format!(
                    "its keys are used as the policy of the key service allows:\n{}",
                    rule(&name)
                ));
            }
            show(state, &name, output)
        }
        IdentityCommand::Show { name: Some(name) } => show(state, &name, output),
        IdentityCommand::Show { name: None } => {
            let mut table = Table::new("identities", &["name", "identifier"]);
            for name in state.identities() {
                table.row([json!(name), json!(public(state, &name)?.0)]);
            }
            output.table(&table)
        }
        IdentityCommand::Export { name } => {
            let (identifier, history) = public(state, &name)?;
            output.object(&history, json!({ "name": name, "identifier": identifier, "history": history }))
        }
        IdentityCommand::Introduce { name } => {
            let (identifier, _) = public(state, &name)?;
            let node = client::start_node_with(state, "identity", &name).await?;
            let identity = client::identity(state, &node, &name).await?;
            let text = introduction_text(&identity.introduction());
            output.object(&text, json!({ "name": name, "identifier": identifier, "introduction": text }))
        }
        IdentityCommand::Rotate { name } => {
            public(state, &name)?;
            let node = client::start_node_to_change(state, &name).await?;
            let rotated = node.rotate_identity(&name).await;
            let identity = rotated.map_err(|error| {
                CliError::node(Code::Identity, format!("identity `{name}` keeps its key"), error)
            })?;
            state.publish_history(&name, &identity.export())?;
            let identifier = identity.identifier().to_string();
            output.object(
                &format!("{name} has a new key; the identifier stays {identifier}"),
                json!({ "name": name, "identifier": identifier, "rotated": true }),
            )
        }
    }
}

fn show(state: &State, name: &str, output: Output) -> Result<(), CliError> {
    let (identifier, _) = public(state, name)?;
    output.object(&identifier, json!({ "name": name, "identifier": identifier }))
}

/// The rule of a policy without which a program cannot use an identity's keys.
fn rule(name: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nlabels = [\"{name}/*\"]\nops = [\"public\", \"agree\", \"attest\"]")
}

/// The identifier and the public history of an identity.
fn public(state: &State, name: &str) -> Result<(String, String), CliError> {
    let Some(history) = state.public_history(checked_name(name)?) else {
        return Err(CliError::new(Code::Identity, format!("there is no identity `{name}`"))
            .help(format!("onward identity create {name} makes it")));
    };
    let identifier = client::exported_identifier(name, &history)?;
    Ok((identifier.to_string(), history))
}
