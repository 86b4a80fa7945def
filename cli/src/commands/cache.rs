//! `onward cache`: the disposable keys in the key service, as far as that is public.

use onward::ok2cry::cache::CacheStatus;
use onward::{CacheClient, CacheError};
use serde_json::json;

use super::key::hex;
use super::keyd::{client, failed};
use crate::args::CacheCommand;
use crate::error::{CliError, Code};
use crate::output::Output;
use crate::state::State;

pub(crate) async fn run(state: &State, command: CacheCommand, output: Output) -> Result<(), CliError> {
    match command {
        CacheCommand::Status { at } => {
            let cache = CacheClient::new(client(state, &at)?);
            status(&cache.status().await.map_err(refused)?, output)
        }
    }
}

fn status(status: &CacheStatus, output: Output) -> Result<(), CliError> {
    let CacheStatus { replica, put_key: _, log_id, signer, live, records, epochs, leaves } = status;
    let (replica, log_id, signer) = (hex(replica), hex(log_id), hex(signer));
    let text = format!(
        "live        {live}\nremembered  {records}\nepoch keys  {epochs}\nleaves      {leaves}\n\
         replica     {replica}\nlog         {log_id}\nsigner      {signer}"
    );
    output.object(
        &text,
        json!({
            "live": live,
            "remembered": records,
            "epoch_keys": epochs,
            "leaves": leaves,
            "replica": replica,
            "log": log_id,
            "signer": signer,
        }),
    )
}

fn refused(error: CacheError) -> CliError {
    let what = "the key cache does not answer";
    match error {
        CacheError::Service(error) => failed(what, error),
        error => CliError::new(Code::KeyRefused, what).because(error),
    }
}
