//! `onward serve`: make a program answer messages, on a node of its own or on one that runs.

use std::time::Duration;

use onward::{Identity, Node};
use serde_json::json;

use crate::args::Serve;
use crate::client;
use crate::config::NodePlan;
use crate::control::{Answer, ControlClient, Request};
use crate::error::{CliError, Code};
use crate::output::Output;
use crate::program::{Handler, Service, Work};
use crate::running::{Running, Termination};
use crate::state::{State, checked_name};

/// How often a served program makes sure that its node still knows it.
const ATTACH_AGAIN: Duration = Duration::from_secs(2);

/// How long the answers of finished work may take to leave.
const FLUSH: Duration = Duration::from_secs(1);

pub(crate) async fn run(state: &State, serve: Serve, output: Output) -> Result<(), CliError> {
    checked_name(&serve.name)?;
    checked_name(&serve.channels)?;
    let handler = match (serve.what.exec, serve.what.echo) {
        (true, _) => Handler::Exec(serve.program.clone().into()),
        (_, true) => Handler::Echo,
        _ => Handler::Upper,
    };
    handler.check()?;
    match serve.listen.is_empty() {
        true => on_running_node(state, &serve, &handler, output).await,
        false => on_own_node(state, &serve, &handler, output).await,
    }
}

async fn on_own_node(
    state: &State,
    serve: &Serve,
    handler: &Handler,
    output: Output,
) -> Result<(), CliError> {
    let plan = NodePlan {
        listen: serve.listen.clone(),
        queue: serve.queue.clone(),
        expose: if serve.plain { vec![serve.name.clone()] } else { Vec::new() },
        channels: Some(serve.channels.clone()),
        channel_expose: vec![serve.name.clone()],
        trust: serve.trust.clone(),
        trust_any: serve.trust_any,
        identity: serve.identity.clone(),
        handshake: serve.handshake.clone(),
        ..NodePlan::default()
    };
    let mut running = Running::start(state, &serve.name, &plan).await?;
    let service = Service::start(&running.node, &serve.name, handler, serve.jobs)?;
    let identifier = running.identifier.map(|identifier| identifier.to_string()).unwrap_or_default();
    let endpoints = running.endpoints();
    let way = endpoints.first().map(|endpoint| running.queues.way_to(endpoint)).unwrap_or_default();
    announce(serve, &identifier, &way, &[], output)?;
    let drain = running.until_stopped(serve.drain).await?;
    let finishing = finish(service, &running.node, drain, output);
    report(&serve.name, running.signals.unless_again(finishing).await, output);
    running.queues.close().await;
    Ok(())
}

async fn on_running_node(
    state: &State,
    serve: &Serve,
    handler: &Handler,
    output: Output,
) -> Result<(), CliError> {
    let trust = client::trust(state, &serve.trust, serve.trust_any)?;
    let identity_name = serve.identity.as_deref().unwrap_or(&serve.name);
    let node = client::start_node_with(state, &serve.name, identity_name).await?;
    let control = match ControlClient::connect_from(node.clone(), state, serve.node.as_deref()).await {
        Err(error) if error.code() == Code::NoNode && serve.node.is_none() => {
            return Err(error.help(format!(
                "add --listen tcp:127.0.0.1:4001 to serve `{}` on a node of its own",
                serve.name
            )));
        }
        other => other?,
    };
    let identity: Identity = client::identity(state, &node, identity_name).await?;
    let failed =
        |error| CliError::node(Code::AttachRefused, format!("`{}` cannot be served", serve.name), error);
    let options = serve.handshake.options()?;
    let channels = node.accept_channels_with(&serve.channels, &identity, trust, &options).map_err(failed)?;
    channels.expose(&serve.name).map_err(failed)?;
    let service = Service::start(&node, &serve.name, handler, serve.jobs)?;
    control.connection.expose(&serve.channels).map_err(failed)?;
    if serve.plain {
        control.connection.expose(&serve.name).map_err(failed)?;
    }
    let listeners = match control.ask(Request::Attach(serve.name.clone())).await? {
        Answer::Attached(listeners) => listeners,
        _ => {
            let sentence = format!("node `{}` already has a worker named `{}`", control.name(), serve.name);
            return Err(CliError::new(Code::AttachRefused, sentence));
        }
    };
    let endpoint = listeners.first().map_or("", String::as_str);
    announce(serve, &identity.identifier().to_string(), endpoint, &[&serve.name], output)?;
    let mut signals = Termination::new()?;
    tokio::select! {
        () = signals.received() => {}
        () = stay_attached(&control, &serve.name) => {}
    }
    let finishing = async {
        // No new messages first: what is in hand can then be finished.
        if let Err(error) = control.ask(Request::Detach(serve.name.clone())).await {
            tracing::debug!(%error, "the node was gone already");
        }
        finish(service, &node, serve.drain, output).await
    };
    report(&serve.name, signals.unless_again(finishing).await, output);
    Ok(())
}

/// Joins the node again whenever it was restarted.
async fn stay_attached(control: &ControlClient, name: &str) {
    loop {
        tokio::time::sleep(ATTACH_AGAIN).await;
        if let Err(error) = control.ask(Request::Attach(name.to_owned())).await {
            tracing::warn!(%error, "the node does not answer; trying again");
        }
    }
}

/// Says who serves, and the line by which another terminal asks it.
fn announce(
    serve: &Serve,
    identifier: &str,
    endpoint: &str,
    through: &[&str],
    output: Output,
) -> Result<(), CliError> {
    let start: Vec<&str> =
        std::iter::once(endpoint).filter(|text| !text.is_empty()).chain(through.iter().copied()).collect();
    let route = |end: &[&str]| [&start[..], end].concat().join(" => ");
    let sealed = format!("onward ask '{}' --peer {identifier} hello", route(&[&serve.channels, &serve.name]));
    let plain = format!("onward ask '{}' --plain hello", route(&[&serve.name]));
    let mut text = format!("`{}` is served\n  identity  {identifier}\n  ask it    {sealed}", serve.name);
    if serve.plain {
        text.push_str(&format!("\n  readable  {plain}"));
    }
    if serve.trust_any {
        output.say("anybody who proves an identity may ask; name them with --trust to choose");
    }
    output.object(
        &text,
        json!({
            "service": serve.name,
            "identifier": identifier,
            "endpoint": endpoint,
            "ask": sealed,
            "plain": serve.plain.then_some(plain),
        }),
    )
}

async fn finish(service: Service, node: &Node, drain: Duration, output: Output) -> Work {
    output.say(&format!("finishing what is in hand, {drain:?} at most"));
    let work = service.drain(drain).await;
    node.shutdown(FLUSH).await;
    work
}

/// Says what was done, unless a second signal has cut that short.
fn report(name: &str, work: Option<Work>, output: Output) {
    let Some(Work { answered, failed, abandoned }) = work else {
        return output.say(&format!("`{name}` stopped at once, as a second signal asked"));
    };
    output.say(&format!("`{name}` stopped: {answered} answered, {failed} failed, {abandoned} abandoned"));
}
