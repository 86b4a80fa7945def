//! What commands share that send messages: a short-lived node, names that stand for routes and peers.

use std::path::PathBuf;

use onward::{Identifier, Identity, Kind, Node, NodeError, Route, Trust, VerifiedHistory};

use crate::error::{CliError, Code};
use crate::state::State;

/// Starts a node for one command; with a state directory if it needs an identity.
pub(crate) async fn start_node(name: &str, state_dir: Option<PathBuf>) -> Result<Node, CliError> {
    let builder = Node::builder(name);
    let builder = match state_dir {
        Some(dir) => builder.state_dir(dir),
        None => builder,
    };
    builder.start().await.map_err(|error| match error {
        NodeError::StateInUse(_) => CliError::node(Code::IdentityInUse, "the identity is in use", error),
        NodeError::State { .. } => {
            CliError::node(Code::StateWrite, "the state directory cannot be used", error)
        }
        error => CliError::node(Code::Internal, "the node cannot start", error),
    })
}

/// The identity `name` in the state directory of `node`, made if need be.
pub(crate) async fn identity(state: &State, node: &Node, name: &str) -> Result<Identity, CliError> {
    let identity = node.load_or_create_identity(name).await;
    let identity = identity.map_err(|error| {
        CliError::node(Code::Identity, format!("identity `{name}` cannot be used"), error)
    })?;
    state.publish_history(name, &identity.export())?;
    Ok(identity)
}

/// The route that a text or a name from the route book stands for.
pub(crate) fn resolve_route(state: &State, text: &str) -> Result<Route, CliError> {
    if text == "=" {
        return Err(CliError::new(Code::Unquoted, "the route is not quoted"));
    }
    let from_book = state.routes().entries()?.remove(text);
    let route = from_book.as_deref().unwrap_or(text);
    route.parse().map_err(|error| CliError::new(Code::Route, format!("`{route}` is no route")).because(error))
}

/// Whether the first node of a route is named by an endpoint, so that it is dialled from here.
pub(crate) fn begins_with_endpoint(route: &Route) -> bool {
    route.iter().next().is_some_and(|address| address.kind() != Kind::Local)
}

/// The peer that a name, an identifier or a file with an exported identity stands for.
pub(crate) fn resolve_peer(state: &State, text: &str) -> Result<Identifier, CliError> {
    if let Some(known) = state.peers().entries()?.get(text) {
        return parse_identifier(known);
    }
    if let Ok(identifier) = text.parse() {
        return Ok(identifier);
    }
    match std::fs::read_to_string(text) {
        Ok(exported) => exported_identifier(text, &exported),
        Err(_) => Err(CliError::new(Code::Peer, format!("`{text}` is no peer"))
            .help("give a name from `onward peer ls`, an identifier (I and 64 digits) or a file")),
    }
}

/// Whom a channel listener lets in.
///
/// # Errors
/// [`Code::TrustMissing`] when nobody is named and `any` is not set.
pub(crate) fn trust(state: &State, peers: &[String], any: bool) -> Result<Trust, CliError> {
    if any {
        return Ok(Trust::dangerously_any());
    }
    if peers.is_empty() {
        return Err(CliError::new(Code::TrustMissing, "nobody is trusted to open channels"));
    }
    let pinned: Result<Vec<Identifier>, CliError> =
        peers.iter().map(|peer| resolve_peer(state, peer)).collect();
    Ok(Trust::pinned(pinned?))
}

fn parse_identifier(text: &str) -> Result<Identifier, CliError> {
    text.trim()
        .parse()
        .map_err(|error| CliError::new(Code::Peer, format!("`{text}` is no identifier")).because(error))
}

/// The identifier of an exported identity, whose history must hold.
pub(crate) fn exported_identifier(path: &str, exported: &str) -> Result<Identifier, CliError> {
    let history = VerifiedHistory::from_text(exported.trim());
    history.map(|history| history.identifier()).map_err(|error| {
        CliError::new(Code::Peer, format!("{path} holds no exported identity")).because(error)
    })
}
