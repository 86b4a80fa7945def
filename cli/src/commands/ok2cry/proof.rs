//! `onward ok2cry proof`: what became of a key, as the log of the key cache proves it.
//!
//! The log is watched across commands: its newest head is kept, and the next one must continue it.

use std::path::Path;
use std::time::{Duration, Instant};

use onward::ok2cry::DisposableKeyId;
use onward::ok2cry::cache::{CacheRefusal, DisposableKeyState, KeyLife};
use onward::{CacheClient, CacheError, OwnKey};
use serde_json::json;

use super::{TEXT_BYTES_MAX, cache_in, decode_shown, hex, refused, write_out};
use crate::args::AtService;
use crate::armour::{self, Label};
use crate::error::{CliError, Code};
use crate::handshake::from_hex;
use crate::input;
use crate::output::Output;
use crate::own_keys;
use crate::state::State;

pub(super) async fn run(
    state: &State,
    which: &str,
    out: Option<&Path>,
    at: &AtService,
    output: Output,
) -> Result<(), CliError> {
    let id = match from_hex(which).and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => DisposableKeyId::from_bytes(bytes),
        None => decode_shown(&input::read(Some(Path::new(which)), TEXT_BYTES_MAX)?)?.body.key_id,
    };
    let record = own_keys::find(state, id)?;
    let key = record.key()?;
    let cache = cache_in(at.service.as_deref().unwrap_or(record.service()))?;
    let mut watch = record.watch(state)?;
    let seen = watch.latest().map(|head| head.size);
    let over = is_over(&cache, &key).await?;
    let until = Instant::now() + PATIENCE;
    let (life, evidence) = loop {
        match cache.life(key.made(), &mut watch).await {
            Ok((life, evidence)) if life.ended.is_some() || !over => break (life, evidence),
            Ok(_) | Err(CacheError::Refused(CacheRefusal::Busy)) if Instant::now() < until => {
                tokio::time::sleep(LOOK).await;
            }
            Ok(_) => return Err(CliError::new(Code::Unproved, "no head of the log shows the key's end")),
            Err(error) => return Err(refused("what became of the key is not proved", error.into())),
        }
    };
    record.keep_head(state, &watch)?;
    if let Some(path) = out {
        write_out(path, armour::write(Label::Evidence, &evidence.encode()).as_bytes())?;
    }
    let head = &evidence.head.head;
    let KeyLife { created_ms, ended, wiped_ms } = life;
    let end = ended.map_or_else(|| "it lives".to_owned(), |(end, at)| format!("{} {at}", end.name()));
    let wiped = wiped_ms.map_or_else(|| "not yet".to_owned(), |at| at.to_string());
    let grown = seen.map_or_else(String::new, |seen| format!(", continuing the {seen} seen before"));
    let text = format!(
        "key      {id}\nmade     {created_ms}\nended    {end}\nwiped    {wiped}\nlog      {}\nhead     {} leaves at {}\n\
         checked  {} leaves are in the log; its key signed the head{grown}",
        hex(&head.log_id),
        head.size,
        head.time,
        evidence.leaves.len(),
    );
    output.object(
        &text,
        json!({
            "id": id.to_string(),
            "created_ms": created_ms,
            "end": ended.map(|(end, _)| end.name()),
            "ended_ms": ended.map(|(_, at)| at),
            "wiped_ms": wiped_ms,
            "log": hex(&head.log_id),
            "leaves": evidence.leaves.len(),
            "head": { "size": head.size, "time": head.time, "root": hex(&head.root) },
            "seen_before": seen,
        }),
    )
}

/// Whether the key's end must be in the log soon.
async fn is_over(cache: &CacheClient, key: &OwnKey) -> Result<bool, CliError> {
    match cache.stat(key.body().key_id).await {
        Ok(stat) => Ok(stat.state != DisposableKeyState::Live),
        // So it is said of a key whose time is over; of one that never was there is no evidence either.
        Err(CacheError::Refused(CacheRefusal::NotFound)) => Ok(true),
        Err(error) => Err(refused("the key cache does not say what became of the key", error.into())),
    }
}

/// Longest time until a head shows what happened: one is due each second.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);
