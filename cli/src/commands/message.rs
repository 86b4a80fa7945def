//! `onward send` and `onward ask`: one message along a route, in a channel or plain.

use std::io::IsTerminal as _;
use std::time::Instant;

use onward::{AskError, Node, NodeRoute, Peer, Raw, Route};
use serde_json::json;

use crate::args::Message;
use crate::client;
use crate::control::ControlClient;
use crate::error::{CliError, Code};
use crate::input;
use crate::output::Output;
use crate::state::State;

/// Largest payload in bytes; a message carries no more.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// A route that is ready to be used, and what keeps it so.
struct Ready {
    node: Node,
    end: NodeRoute,
    shown: String,
    _held: Held,
}

impl Ready {
    /// With the endpoint that the route begins with, if it does, connected to.
    async fn connected(self) -> Result<Self, CliError> {
        let addresses: Vec<_> = self.end.route().iter().map(|address| address.to_owned()).collect();
        let Some((endpoint, rest)) =
            addresses.split_first().filter(|(first, _)| first.kind() == onward::Kind::Tcp)
        else {
            return Ok(self);
        };
        let connection = self.node.connect_tcp(endpoint.value()).await;
        let connection = connection
            .map_err(|error| CliError::node(Code::Connect, format!("cannot connect to {endpoint}"), error))?;
        let route = Route::new(std::iter::once(connection.address()).chain(rest))
            .map_err(|error| CliError::new(Code::Route, "the route is too long").because(error))?;
        Ok(Self { end: self.node.route_along(route), ..self })
    }
}

/// What must live as long as the message is under way.
struct Held {
    _channel: Option<onward::Channel>,
    _control: Option<ControlClient>,
}

pub(crate) async fn ask(state: &State, message: Message, output: Output) -> Result<(), CliError> {
    let payload = payload(&message)?;
    let began = Instant::now();
    let asking = async {
        let ready = prepare(state, &message).await?;
        let rest = message.deadline.saturating_sub(began.elapsed());
        let answer: Result<Raw, AskError> = ready.end.ask_within(&payload, rest).await;
        let answer = answer.map_err(|error| CliError::ask(&ready.shown, error));
        ready.node.shutdown(std::time::Duration::from_millis(200)).await;
        answer
    };
    let Raw(bytes) = within(&message, asking).await?;
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    if output.is_json() {
        let (text, hex) = match std::str::from_utf8(&bytes) {
            Ok(text) => (Some(text), None),
            Err(_) => (None, Some(to_hex(&bytes))),
        };
        return output.object("", json!({ "answer": text, "answer_hex": hex, "ms": milliseconds }));
    }
    output.write(&bytes)?;
    if std::io::stdout().is_terminal() && !bytes.ends_with(b"\n") {
        output.write(b"\n")?;
    }
    Ok(())
}

pub(crate) async fn send(state: &State, message: Message, output: Output) -> Result<(), CliError> {
    let payload = payload(&message)?;
    let bytes = payload.0.len();
    let sending = async {
        let ready = prepare(state, &message).await?;
        // Nobody waits for an answer, so the command must not end before the connection stands.
        let ready = ready.connected().await?;
        let sent = ready.end.send(&payload).await.map_err(|error| CliError::ask(&ready.shown, error));
        // Shutting down writes out what waits in the connection's queue.
        ready.node.shutdown(message.deadline).await;
        sent
    };
    within(&message, sending).await?;
    match output.is_json() {
        true => output.object("", json!({ "sent": true, "bytes": bytes })),
        false => {
            output.say(&format!("sent {bytes} bytes; nobody says whether they arrived"));
            Ok(())
        }
    }
}

/// Starts a node and opens what the route needs: a channel, or the way through a running node.
async fn prepare(state: &State, message: &Message) -> Result<Ready, CliError> {
    let route = client::resolve_route(state, &message.route)?;
    let peer = match (&message.peer, message.plain) {
        (Some(peer), _) => Some(client::resolve_peer(state, peer)?),
        (None, true) => None,
        (None, false) => {
            return Err(CliError::new(Code::ChannelOrPlain, "neither --peer nor --plain is given"));
        }
    };
    let name = message.identity.as_deref();
    let node = match name.filter(|_| peer.is_some()) {
        Some(name) => client::start_node_with(state, "ask", name).await?,
        None => client::start_node("ask").await?,
    };
    let shown = route.to_string();
    let (route, control) = match client::begins_with_endpoint(&route) {
        true => (route, None),
        false => {
            let control = ControlClient::connect_from(node.clone(), state, message.node.as_deref()).await?;
            let mut through = Route::from(control.connection.address().clone());
            through
                .extend(route.as_ref())
                .map_err(|error| CliError::new(Code::Route, "the route is too long").because(error))?;
            (through, Some(control))
        }
    };
    let Some(peer) = peer else {
        let end = node.route_along(route);
        return Ok(Ready { node, end, shown, _held: Held { _channel: None, _control: control } });
    };
    let (listener, worker) = split_last(&route).ok_or_else(|| {
        CliError::new(Code::Route, format!("`{shown}` has no channel listener before the worker")).help(
            "with --peer a route ends in LISTENER => WORKER, such as 'tcp:127.0.0.1:4001 => secure => upper'",
        )
    })?;
    let identity = match name {
        Some(name) => client::identity(state, &node, name).await?,
        None => node
            .create_identity()
            .await
            .map_err(|error| CliError::node(Code::Identity, "no identity could be made", error))?,
    };
    let options = message.handshake.options()?;
    let channel = node.open_channel_with(&identity, listener, Peer::Identity(peer), options).await;
    let channel = channel.map_err(|error| {
        CliError::node(Code::Channel, format!("no channel could be opened along `{shown}`"), error)
    })?;
    let inner = channel.route_to(&worker).map_err(|error| {
        CliError::node(Code::Route, format!("`{worker}` cannot be reached in a channel"), error)
    })?;
    let end = node.route_along(inner);
    Ok(Ready { node, end, shown, _held: Held { _channel: Some(channel), _control: control } })
}

async fn within<T>(
    message: &Message,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(message.deadline, work).await {
        Ok(result) => result,
        Err(_) => {
            let sentence = format!("no answer within {:?}, along `{}`", message.deadline, message.route);
            Err(CliError::new(Code::Deadline, sentence))
        }
    }
}

/// The route without its last address, and that address; `None` for a route of one or a mere connection.
fn split_last(route: &Route) -> Option<(Route, String)> {
    let addresses: Vec<_> = route.iter().map(|address| address.to_owned()).collect();
    let (last, rest) = addresses.split_last()?;
    let names_listener = rest.last().is_some_and(|listener| listener.kind() == onward::Kind::Local);
    if !names_listener {
        return None;
    }
    Some((Route::new(rest).ok()?, last.to_string()))
}

/// What is to be sent: the text, a file, or standard input.
fn payload(message: &Message) -> Result<Raw, CliError> {
    let bytes = match (&message.file, message.text.as_deref()) {
        (None, Some(text)) if text != "-" && text.len() > PAYLOAD_BYTES_MAX => {
            let sentence = format!("the text has more than {PAYLOAD_BYTES_MAX} bytes");
            return Err(CliError::new(Code::InputTooBig, sentence));
        }
        (None, Some(text)) if text != "-" => text.as_bytes().to_vec(),
        (None, None) if std::io::stdin().is_terminal() => {
            return Err(CliError::new(Code::Usage, "there is nothing to send")
                .help("give a text, --file FILE, or `-` to type it and end with Ctrl-D"));
        }
        (file, _) => input::read(file.as_deref(), PAYLOAD_BYTES_MAX)?.to_vec(),
    };
    Ok(Raw(bytes.into()))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_addresses_are_the_listener_and_the_worker() {
        let split = |text: &str| {
            split_last(&text.parse().unwrap()).map(|(route, worker)| (route.to_string(), worker))
        };
        assert_eq!(split("tcp:h:1 => bank => upper"), Some(("tcp:h:1 => bank".into(), "upper".into())));
        assert_eq!(split("tcp:h:1 => upper"), None, "an endpoint is no channel listener");
        assert_eq!(split("upper"), None);
    }
}
