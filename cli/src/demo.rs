//! `onward demo chain`: a multi-hop chain of real processes on this machine, checked while it is shown.
//!
//! A client asks a service through the hops of two companies. Afterwards the text is looked for where
//! it must be, at the two ends, and where it must not be: in every byte each hop received and in each
//! hop's memory. If asked to, a hop then attacks the channel in use, and what it achieved is counted at the two
//! ends. What is printed was checked in this run; what could not be checked says so.

mod attack;
mod journey;
mod keys;
mod part;
mod pin;
mod search;
mod tally;
mod tap;

use std::fmt::Write as _;

use onward::queue::BrokerAddress;
use serde_json::{Value, json};

use crate::args::DemoPart;
use crate::error::{CliError, Code};
use crate::output::Output;
use crate::running::Termination;

pub(crate) use pin::pin;

use journey::{Journey, Kept, Siege, Station};
use search::Search;

/// What is sent when no text is given: an invented card's.
const TEXT: &str = "card 4000 0012 3456 7899, PIN 4821";
/// Longest text in bytes; the tap keeps every byte it sees.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Runs the demonstration, with so many attacks, and prints it.
///
/// # Errors
/// [`Code::DemoFailed`], after printing, when the text was where it must not be or not where it must, or when an
/// attack got through.
pub(crate) async fn chain(
    text: Option<String>,
    attacks: u64,
    broker: Option<BrokerAddress>,
    keyd: bool,
    output: Output,
) -> Result<(), CliError> {
    let text = text.unwrap_or_else(|| TEXT.to_owned());
    if text.len() > TEXT_BYTES_MAX {
        return Err(CliError::new(
            Code::InputTooBig,
            format!("the text has more than {TEXT_BYTES_MAX} bytes"),
        ));
    }
    output.say("starting a client, two hops and a service, each a process of its own");
    let mut stop = Termination::new()?;
    let journey = tokio::select! {
        journey = journey::run(&text, attacks, broker.as_ref(), keyd) => journey?,
        // The processes of the demonstration end with their standard input, which ends here.
        () = stop.received() => {
            return Err(CliError::new(Code::DemoFailed, "stopped before its end"));
        }
    };
    output.object(&to_text(&journey), to_json(&journey))?;
    match journey.ok() {
        Some(false) => Err(CliError::new(Code::DemoFailed, "the demonstration did not show what it should")),
        _ => Ok(()),
    }
}

/// Runs one process of the demonstration.
pub(crate) async fn part(part: DemoPart) -> Result<(), CliError> {
    part::run(part).await
}

fn to_json(journey: &Journey) -> Value {
    let hops: Vec<Value> = journey
        .hops
        .iter()
        .map(|hop| {
            json!({
                "name": hop.name,
                "forwarded": hop.forwarded,
                "bytes": hop.bytes,
                "found": hop.found(),
                "memory_searched": hop.memory.is_some(),
                "queue_bytes_searched": hop.files.as_ref().map(|search| search.bytes),
            })
        })
        .collect();
    let mut shown = json!({
        "ok": journey.ok(),
        "links": journey.links,
        "hops": hops,
        "found_at": journey.stations().filter(|station| station.found()).map(|station| station.name).collect::<Vec<_>>(),
        "journey_ms": journey.journey_ms,
    });
    if let Some(kept) = journey.kept {
        shown["keys_in_service"] = json!(kept.keys);
        shown["keys_found_in_apps"] = json!(kept.found);
    }
    if let Some(siege) = &journey.siege {
        shown["attacks"] = json!(siege.made);
        shown["accepted_attacks"] = json!(siege.accepted());
        shown["reached_unexposed"] = json!(siege.reached_unexposed);
        shown["answered_under_attack"] = json!(siege.answers.arrived);
        shown["lost_under_attack"] = json!(siege.requests.missing + siege.answers.missing);
    }
    shown
}

fn to_text(journey: &Journey) -> String {
    let mut text = String::new();
    let names: Vec<&str> = journey.stations().map(|station| station.name).collect();
    let links = journey.links.map(|link| format!(" -{link}-> "));
    let links = links.iter().map(String::as_str).chain([""]);
    let way: String = names.into_iter().zip(links).flat_map(|(name, link)| [name, link]).collect();
    let _ = writeln!(text, "journey    {way}");
    let _ = writeln!(text, "route      {}", journey.route);
    let _ = writeln!(text, "channel    client to service in {:.1} ms, past both hops", journey.channel_ms);
    let _ = writeln!(
        text,
        "answer     {} in {:.1} ms, back along the return route",
        if journey.answered { "correct" } else { "WRONG" },
        journey.journey_ms
    );
    let _ = writeln!(text);
    let _ = writeln!(
        text,
        "The text and a random tag, {} bytes, were looked for as they are, in hexadecimal,",
        journey.text_bytes
    );
    let _ = writeln!(
        text,
        "base64 and UTF-16, in all bytes that a hop received, in its queue's files and in each process's memory:"
    );
    let _ = writeln!(
        text,
        "  {:<10}{:>10}{:>12}{:>12}{:>12}  found",
        "", "forwarded", "bytes seen", "queue", "memory"
    );
    for station in journey.stations() {
        let _ = writeln!(text, "{}", row(station));
    }
    let _ = writeln!(text);
    if let Some(Kept { keys, found }) = journey.kept {
        let found = match found {
            Some(0) => "found in none of these processes".to_owned(),
            Some(found) => format!("FOUND {found} TIMES in these processes"),
            None => "not looked for everywhere".to_owned(),
        };
        let _ = writeln!(text, "All {keys} long-term keys are in the key service, and were {found}.");
        let _ = writeln!(text);
    }
    if let Some(siege) = &journey.siege {
        text.push_str(&siege_to_text(siege));
    }
    let _ = match journey.ok() {
        Some(true) => writeln!(text, "ok: read at both ends and nowhere between"),
        Some(false) => writeln!(text, "NOT ok"),
        None => {
            writeln!(text, "undecided: some memory was not searched (another user's process, or no /proc)")
        }
    };
    text
}

fn siege_to_text(siege: &Siege) -> String {
    let mut text = String::new();
    let made: u64 = siege.made.values().sum();
    let _ = writeln!(
        text,
        "{} then attacked the channel while it was in use, {made} times in {:.1} s:",
        siege.by, siege.seconds
    );
    for (kind, count) in &siege.made {
        let _ = writeln!(text, "  {count:>10}  {}", kind.name());
    }
    let _ = writeln!(text, "Counted at both ends:");
    let _ = writeln!(text, "  {:>10}  accepted", siege.accepted());
    let _ = writeln!(text, "  {:>10}  reached a worker that is not exposed", siege.reached_unexposed);
    let lost = siege.requests.missing + siege.answers.missing;
    let _ =
        writeln!(text, "  {:>10}  requests were answered, {lost} messages were lost", siege.answers.arrived);
    let _ = writeln!(text);
    text
}

fn row(station: &Station) -> String {
    let searched = |search: &Search| format!("{:.1} MiB", search.bytes as f64 / f64::from(1 << 20));
    let memory = station.memory.as_ref().map_or_else(|| "no access".to_owned(), searched);
    let files = station.files.as_ref().map_or_else(|| "-".to_owned(), searched);
    let end = ["client", "service"].contains(&station.name);
    let (forwarded, bytes) = match end {
        true => ("-".to_owned(), "-".to_owned()),
        false => (station.forwarded.to_string(), station.bytes.to_string()),
    };
    let found = match (station.found(), end) {
        (true, true) => "yes, it is meant to",
        (true, false) => "YES",
        (false, _) => "no",
    };
    format!("  {:<10}{forwarded:>10}{bytes:>12}{files:>12}{memory:>12}  {found}", station.name)
}
