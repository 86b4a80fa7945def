//! What commands share that send messages: a short-lived node, names that stand for routes and peers.

use std::sync::Arc;

use onward::{Identifier, Identity, Kind, Node, NodeBuilder, NodeError, Route, Trust, VerifiedHistory};

use crate::commands::keyd::{service_client, unlocked};
use crate::error::{CliError, Code};
use crate::state::State;

/// Starts a node without a kept identity.
pub(crate) async fn start_node(name: &str) -> Result<Node, CliError> {
    start(Node::builder(name)).await
}

/// Starts a node that can use `identity`, whose keys are in its directory or in a key service.
pub(crate) async fn start_node_with(state: &State, name: &str, identity: &str) -> Result<Node, CliError> {
    let builder = Node::builder(name).state_dir(state.identity_dir(identity)?);
    match state.service_of(identity) {
        Some(service) => start(builder.vault(Arc::new(service_client(&service, identity)?))).await,
        None => start(builder).await,
    }
}

/// As [`start_node_with`], for what changes the identity itself: keys in a service then need the passphrase.
pub(crate) async fn start_node_to_change(state: &State, identity: &str) -> Result<Node, CliError> {
    let Some(service) = state.service_of(identity) else {
        return start_node_with(state, "identity", identity).await;
    };
    let operator = unlocked(service_client(&service, identity)?).await?;
    start(Node::builder("identity").state_dir(state.identity_dir(identity)?).vault(Arc::new(operator))).await
}

async fn start(builder: NodeBuilder) -> Result<Node, CliError> {
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
        let what = format!("identity `{name}` cannot be used");
        match state.service_of(name) {
            Some(_) => CliError::node(Code::KeyRefused, what, error)
                .help("onward keyd status; a rule of the service's policy must allow what a program does with its keys"),
            None => CliError::node(Code::Identity, what, error),
        }
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
