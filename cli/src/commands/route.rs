//! `onward route`: the route book, and what each hop of a route learns.

use onward::{Kind, Route};
use serde_json::{Value, json};

use crate::args::RouteCommand;
use crate::client::resolve_route;
use crate::error::CliError;
use crate::output::{Output, Table};
use crate::state::{State, checked_name};

pub(crate) fn run(state: &State, command: RouteCommand, output: Output) -> Result<(), CliError> {
    match command {
        RouteCommand::Add { name, route } => {
            checked_name(&name)?;
            let route = resolve_route(state, &route)?.to_string();
            state.routes().add(&name, &route)?;
            output.object(&format!("{name}: {route}"), json!({ "name": name, "route": route }))
        }
        RouteCommand::Rm { name } => {
            state.routes().remove(&name)?;
            output.object(&format!("{name} is forgotten"), json!({ "name": name, "removed": true }))
        }
        RouteCommand::Ls => {
            let mut table = Table::new("routes", &["name", "route"]);
            for (name, route) in state.routes().entries()? {
                table.row([json!(name), json!(route)]);
            }
            output.table(&table)
        }
        RouteCommand::Explain { route, plain } => {
            let route = resolve_route(state, &route)?;
            output.table(&explain(&route, !plain))
        }
    }
}

/// One row for each node that a route visits.
fn explain(route: &Route, sealed: bool) -> Table {
    let mut table = Table::new("hops", &["hop", "node", "workers", "learns", "can_read"]);
    let nodes = nodes(route);
    // A channel needs a listener before the worker; without one nothing is sealed.
    let sealed = sealed && nodes.last().is_some_and(|node| node.workers.len() >= 2);
    for (number, node) in nodes.iter().enumerate() {
        let before = match number {
            0 => "this command".to_owned(),
            _ => nodes[number - 1].shown(),
        };
        let (learns, reads) = match nodes.get(number + 1) {
            Some(next) => (
                format!("from {before}, on to {}; the addresses after it; sizes and times", next.shown()),
                if sealed { "nothing of the payload" } else { "everything" },
            ),
            None if sealed => {
                (format!("from {before}; who asks, and the worker's name"), "it opens the channel")
            }
            None => (format!("from {before}; the worker's name"), "everything"),
        };
        let place: Value = json!(number + 1);
        table.row([place, json!(node.shown()), json!(node.workers), json!(learns), json!(reads)]);
    }
    table
}

/// A node on a route: the endpoint it is reached by, and what the message visits there.
struct Visited {
    endpoint: Option<String>,
    workers: Vec<String>,
}

impl Visited {
    fn shown(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| "the running node".to_owned())
    }
}

fn nodes(route: &Route) -> Vec<Visited> {
    let mut nodes: Vec<Visited> = Vec::new();
    for address in route.iter() {
        match (address.kind(), nodes.last_mut()) {
            (Kind::Local, Some(node)) => node.workers.push(address.value().to_owned()),
            (Kind::Local, None) => {
                nodes.push(Visited { endpoint: None, workers: vec![address.value().to_owned()] });
            }
            _ => nodes.push(Visited { endpoint: Some(address.to_string()), workers: Vec::new() }),
        }
    }
    nodes
}
