//! What the maker of a disposable key keeps of it, so that later commands can open with it and prove its end.
//!
//! Never a private half: those are in the key service. A record is of use to the key's owner alone, and is cleared away
//! an hour after the key's time, when the service has no evidence of it any more.

use std::path::{Path, PathBuf};

use onward::OwnKey;
use onward::audit::{Head, Watch};
use onward::ok2cry::cache::MadeKey;
use onward::ok2cry::{DisposableKeyId, KeyObject};
use onward::{PublicKey, SignatureAlgorithm};
use serde::{Deserialize, Serialize};

use crate::commands::key::{hex, now};
use crate::error::{CliError, Code};
use crate::handshake::from_hex;
use crate::state::{State, write_whole};

/// A key of one's own and where it is. Bytes are in hexadecimal.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct OwnRecord {
    object: String,
    commitment: String,
    ctx: String,
    /// The public key of the heads of the log that the key's life is in, as it was said when the key was made.
    signer: String,
    /// The directory of the key service.
    service: PathBuf,
}

impl OwnRecord {
    /// A record of `key`, which is in the key service in `service`, whose log `signer` signs.
    pub(crate) fn new(key: &OwnKey, signer: &[u8; 32], service: &Path) -> Self {
        Self {
            object: hex(&key.object().encode()),
            commitment: hex(&key.made().commitment),
            ctx: hex(key.ctx()),
            signer: hex(signer),
            service: std::path::absolute(service).unwrap_or_else(|_| service.to_owned()),
        }
    }

    /// Where the key service is.
    pub(crate) fn service(&self) -> &Path {
        &self.service
    }

    /// The key.
    pub(crate) fn key(&self) -> Result<OwnKey, CliError> {
        let read = || {
            let object = KeyObject::decode(&from_hex(&self.object)?).ok()?;
            let commitment = array(&self.commitment)?;
            let made = MadeKey { body: object.body.encode(), commitment };
            Some(OwnKey::kept(made, object, array(&self.ctx)?))
        };
        read().ok_or_else(damaged)
    }

    /// Who watches the log, from the newest head on that this state directory has seen.
    pub(crate) fn watch(&self, state: &State) -> Result<Watch, CliError> {
        let signer: [u8; 32] = array(&self.signer).ok_or_else(damaged)?;
        let signer = PublicKey::new(SignatureAlgorithm::Ed25519, &signer).map_err(|_| damaged())?;
        match state.heads().entries()?.get(&self.signer) {
            Some(seen) => Ok(Watch::from_head(signer, read_head(seen).ok_or_else(damaged)?)),
            None => Ok(Watch::new(signer)),
        }
    }

    /// Keeps the newest head that `watch` has seen.
    pub(crate) fn keep_head(&self, state: &State, watch: &Watch) -> Result<(), CliError> {
        match watch.latest() {
            Some(Head { log_id, size, time, root }) => {
                let text = format!("{} {size} {time} {}", hex(log_id), hex(root));
                // Of two commands at once, the later one may have seen the shorter log.
                let is_older = |kept: &str| read_head(kept).is_none_or(|head| head.size <= *size);
                state.heads().advance(&self.signer, &text, is_older)
            }
            None => Ok(()),
        }
    }
}

/// Keeps a record, and clears those away that are of no use any more.
pub(crate) fn keep(state: &State, record: &OwnRecord) -> Result<(), CliError> {
    let directory = state.exchanges_dir()?;
    for name in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
        let is_over = |record: &OwnRecord| {
            record.key().is_ok_and(|key| key.body().exp().saturating_add(KEPT_SECONDS) < now())
        };
        if read(&name.path()).is_ok_and(|record| is_over(&record)) {
            // Another command may have done it.
            let _ = std::fs::remove_file(name.path());
        }
    }
    let path = directory.join(record.key()?.body().key_id.to_string());
    let text = toml::to_string(record)
        .map_err(|error| CliError::new(Code::Internal, "the record cannot be written").because(error))?;
    write_whole(&path, text.as_bytes()).map_err(|error| {
        CliError::new(Code::StateWrite, format!("{} cannot be written", path.display())).because(error)
    })
}

/// The record of the key `id`.
///
/// # Errors
/// [`Code::KeyGone`] if there is none.
pub(crate) fn find(state: &State, id: DisposableKeyId) -> Result<OwnRecord, CliError> {
    let path = state.exchanges_dir()?.join(id.to_string());
    if !path.exists() {
        let sentence = format!("no key {id} was made under this state directory, or its time is long over");
        return Err(CliError::new(Code::KeyGone, sentence));
    }
    read(&path)
}

fn read(path: &Path) -> Result<OwnRecord, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| damaged().because(error))?;
    toml::from_str(&text).map_err(|error| damaged().because(error))
}

fn read_head(text: &str) -> Option<Head> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [log_id, size, time, root] = <[&str; 4]>::try_from(words).ok()?;
    Some(Head {
        log_id: array(log_id)?,
        size: size.parse().ok()?,
        time: time.parse().ok()?,
        root: array(root)?,
    })
}

fn array<const N: usize>(text: &str) -> Option<[u8; N]> {
    from_hex(text)?.try_into().ok()
}

fn damaged() -> CliError {
    CliError::new(Code::StateWrite, "a record of a disposable key is damaged")
        .help("have another key made; records are in `exchanges` in the state directory")
}

/// How long a record is kept after its key's time.
const KEPT_SECONDS: u64 = 3600;
