//! `onward status`: what a running node does.

use std::fmt::Write as _;

use serde_json::json;

use crate::control::{ControlClient, Status};
use crate::error::CliError;
use crate::output::Output;
use crate::state::State;

pub(crate) async fn run(state: &State, node: Option<&str>, output: Output) -> Result<(), CliError> {
    let client = ControlClient::connect(state, node).await?;
    let status = client.status().await;
    client.close().await;
    let status = status?;
    output.object(&text(&status), json(&status))
}

fn text(status: &Status) -> String {
    let mut text = format!(
        "node `{}` runs since {:.1} s (process {})\n",
        status.name,
        status.uptime_ms as f64 / 1000.0,
        status.pid
    );
    if let Some(identifier) = &status.identifier {
        let _ = writeln!(text, "  identity   {identifier}");
    }
    for listener in &status.listeners {
        let exposed = listener.exposed.join(", ");
        let _ = writeln!(text, "  listens on {}  exposes {exposed}", listener.address);
    }
    let _ = writeln!(text, "  workers    {}", status.workers.join(", "));
    if !status.attached.is_empty() {
        let _ = writeln!(text, "  served     {}", status.attached.join(", "));
    }
    let counts = status.counters;
    let _ = writeln!(
        text,
        "  messages   {} delivered, {} forwarded, {} denied, {} undeliverable",
        counts.delivered, counts.forwarded, counts.denied, counts.undeliverable
    );
    text
}

fn json(status: &Status) -> serde_json::Value {
    let listeners: Vec<_> = status
        .listeners
        .iter()
        .map(|listener| json!({ "address": listener.address, "exposed": listener.exposed }))
        .collect();
    let counts = status.counters;
    json!({
        "node": status.name,
        "pid": status.pid,
        "uptime_ms": status.uptime_ms,
        "identifier": status.identifier,
        "listeners": listeners,
        "workers": status.workers,
        "served": status.attached,
        "messages": {
            "delivered": counts.delivered,
            "forwarded": counts.forwarded,
            "denied": counts.denied,
            "undeliverable": counts.undeliverable,
            "reports": counts.reports,
        },
    })
}
