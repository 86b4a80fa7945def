//! `onward key`: the keys of the key service. Their private halves never come here, but for one that is imported.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use onward::general::wrapping::WrappedKey;
use onward::general::{Form, General};
use onward::{KeyClient, KeyId, KeyMeta, KeyState, KeyUsage, NewKey, Vault as _, read_development_key};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::keyd::{client, failed, operator, service_dir};
use crate::args::KeyCommand;
use crate::error::{CliError, Code};
use crate::output::{Output, Table};
use crate::passphrase;
use crate::state::{State, checked_name};

pub(crate) async fn run(state: &State, command: KeyCommand, output: Output) -> Result<(), CliError> {
    match command {
        KeyCommand::Create { at, label, usage, algorithm, family, extractable, private, days } => {
            let expires = days.map(|days| now() + days * 24 * 3600);
            let usage = match (usage, algorithm, family) {
                (Some(usage), ..) => parse_usage(&usage)?,
                (None, algorithm, family) => {
                    parse_general(&algorithm.unwrap_or_default(), &family.unwrap_or_default())?
                }
            };
            let new = NewKey { usage, label: &label, expires, extractable };
            let operator = operator(state, &at).await?;
            let made = if private {
                operator.import(new, None, &passphrase::ask_bytes("private half")?).await
            } else {
                operator.create(new).await
            };
            let made = made.map_err(|error| {
                let refused = failed(format!("key `{label}` was not made"), error);
                refused.help(
                    "its label may be in use; what the service does not offer, `onward keyd status` says",
                )
            })?;
            show(&made, output)
        }
        KeyCommand::Ls { at, all } => {
            let keys = if all { operator(state, &at).await? } else { client(state, &at)? };
            let keys = keys.keys().await.map_err(|error| failed("the keys cannot be listed", error))?;
            let mut table = Table::new("keys", COLUMNS);
            for key in &keys {
                table.row(row(key));
            }
            output.table(&table)
        }
        KeyCommand::Show { at, label } => {
            let operator = operator(state, &at).await?;
            show(&find(&operator, &label).await?, output)
        }
        KeyCommand::Rotate { at, label } => {
            let operator = operator(state, &at).await?;
            let old = find(&operator, &label).await?;
            if old.usage == KeyUsage::Identity {
                return Err(CliError::new(Code::KeyRefused, "an identity's key is replaced by its identity")
                    .help("onward identity rotate NAME"));
            }
            let kept = |error| failed(format!("key `{label}` is as it was"), error);
            operator.disable(old.id).await.map_err(kept)?;
            let new = NewKey {
                usage: old.usage,
                label: &old.label,
                expires: old.expires,
                extractable: old.extractable,
            };
            let made = match operator.create(new).await {
                Ok(made) => made,
                Err(error) => {
                    operator.enable(old.id).await.map_err(kept)?;
                    return Err(kept(error));
                }
            };
            show(&made, output)
        }
        KeyCommand::Disable { at, label } => {
            let operator = operator(state, &at).await?;
            let key = find(&operator, &label).await?;
            let done = operator.disable(key.id).await;
            changed(done, KeyMeta { state: KeyState::Disabled, ..key }, output)
        }
        KeyCommand::Enable { at, label } => {
            let operator = operator(state, &at).await?;
            let key = find(&operator, &label).await?;
            let done = operator.enable(key.id).await;
            changed(done, KeyMeta { state: KeyState::Active, ..key }, output)
        }
        KeyCommand::Destroy { at, label } => {
            let operator = operator(state, &at).await?;
            let key = find(&operator, &label).await?;
            let done = operator.delete(key.id).await;
            changed(done, KeyMeta { state: KeyState::Destroyed, ..key }, output)
        }
        KeyCommand::Wrap { at, label, with } => {
            let operator = operator(state, &at).await?;
            let (key, with) = (find(&operator, &label).await?, find(&operator, &with).await?);
            let wrapped = operator.wrap(with.id, key.id, Form::Sealed).await;
            let wrapped = wrapped.map_err(|error| failed(format!("key `{label}` was not wrapped"), error))?;
            let text = hex(&wrapped);
            output.object(&text, json!({ "label": key.label, "with": with.label, "wrapped": text }))
        }
        KeyCommand::Unwrap { at, with } => {
            let operator = operator(state, &at).await?;
            let with = find(&operator, &with).await?;
            let bytes = passphrase::ask_bytes("wrapped key")?;
            let was = WrappedKey::decode(&bytes)
                .map_err(|error| CliError::new(Code::Input, "it is no wrapped key").because(error))?;
            let was = was.meta;
            let KeyMeta { usage, ref label, expires, extractable, .. } = was;
            let new = NewKey { usage, label, expires, extractable };
            let taken = operator.unwrap(with.id, Form::Sealed, &bytes, new).await;
            show(&taken.map_err(|error| failed(format!("key `{label}` was not taken in"), error))?, output)
        }
        KeyCommand::Import { at, identity } => {
            let operator = operator(state, &at).await?;
            import(state, &operator, &identity, output).await?;
            state.keep_in_service(&identity, &service_dir(state, &at))
        }
    }
}

/// Takes the development keys of an identity over, under the names by which the identity knows them.
async fn import(state: &State, operator: &KeyClient, identity: &str, output: Output) -> Result<(), CliError> {
    let directory = state.identity_dir(checked_name(identity)?)?.join("keys");
    let mut table = Table::new("keys", COLUMNS);
    for (key, _) in take_over(operator, &directory, identity).await? {
        table.row(row(&key));
    }
    output.say(&format!(
        "identity `{identity}` uses the service from now on; its files are still in {}: erase them once the service is \
         backed up",
        directory.display()
    ));
    output.table(&table)
}

/// Hands the keys of a software vault's directory to the service, labelled `NAME/…`.
///
/// Answers with each key and its private half, which its files still have.
pub(crate) async fn take_over(
    operator: &KeyClient,
    directory: &Path,
    name: &str,
) -> Result<Vec<(KeyMeta, Zeroizing<[u8; 32]>)>, CliError> {
    let unreadable = |error: std::io::Error| {
        CliError::new(Code::Identity, format!("identity `{name}` has no development keys")).because(error)
    };
    let mut taken = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(id) = path.file_stem().and_then(|stem| KeyId::parse(stem.to_str()?)) else {
            continue;
        };
        let (usage, secret) = read_development_key(&path)
            .map_err(|error| failed(format!("{} cannot be read", path.display()), error))?;
        let label = format!("{name}/{usage}-{}", &id.to_string()[..8]);
        let new = NewKey { usage, label: &label, expires: None, extractable: false };
        let key = operator.import(new, Some(id), &secret[..]).await;
        taken
            .push((key.map_err(|error| failed(format!("key `{label}` was not taken over"), error))?, secret));
    }
    Ok(taken)
}

const COLUMNS: &[&str] = &["label", "type", "usage", "state", "id", "public"];

fn row(key: &KeyMeta) -> [Value; 6] {
    [
        json!(key.label),
        json!(key.usage.type_name()),
        json!(key.usage.name()),
        json!(key.state.name()),
        json!(key.id.to_string()),
        json!(hex(key.public.get(..LISTED_PUBLIC_BYTES).unwrap_or(&key.public))),
    ]
}

/// The key of this label or id: the one in use, else the newest.
async fn find(client: &KeyClient, label: &str) -> Result<KeyMeta, CliError> {
    let keys = client.keys().await.map_err(|error| failed("the keys cannot be listed", error))?;
    let id = KeyId::parse(label);
    let mut found: Vec<KeyMeta> =
        keys.into_iter().filter(|key| key.label == label || Some(key.id) == id).collect();
    found.sort_by_key(|key| (key.state == KeyState::Active, key.created));
    found.pop().ok_or_else(|| {
        CliError::new(Code::KeyRefused, format!("there is no key `{label}`"))
            .help("onward key ls --all lists them")
    })
}

fn changed(done: Result<(), onward::KeyError>, key: KeyMeta, output: Output) -> Result<(), CliError> {
    done.map_err(|error| failed(format!("key `{}` is as it was", key.label), error))?;
    show(&key, output)
}

fn show(key: &KeyMeta, output: Output) -> Result<(), CliError> {
    let expires = key.expires.map_or_else(|| "never".to_owned(), |at| at.to_string());
    let leaves = if key.extractable { "wrapped" } else { "never" };
    let text = format!(
        "{}\ntype     {}\nusage    {}\nstate    {}\nid       {}\npublic   {}\nmade     {}\nends     {expires}\nleaves   {leaves}",
        key.label,
        key.usage.type_name(),
        key.usage,
        key.state.name(),
        key.id,
        hex(&key.public),
        key.created
    );
    let value: Value = json!({
        "label": key.label,
        "type": key.usage.type_name(),
        "usage": key.usage.name(),
        "state": key.state.name(),
        "id": key.id.to_string(),
        "public": hex(&key.public),
        "created": key.created,
        "expires": key.expires,
        "extractable": key.extractable,
    });
    output.object(&text, value)
}

fn parse_usage(name: &str) -> Result<KeyUsage, CliError> {
    KeyUsage::parse(name).ok_or_else(|| {
        let names = KeyUsage::ALL.map(KeyUsage::name).join(", ");
        CliError::new(Code::Usage, format!("there is no usage `{name}`")).help(format!("one of {names}"))
    })
}

fn parse_general(algorithm: &str, family: &str) -> Result<KeyUsage, CliError> {
    let name = format!("{algorithm}:{family}");
    General::parse(&name).map(KeyUsage::General).ok_or_else(|| {
        let names = General::ALL.map(General::name).join(", ");
        CliError::new(Code::Usage, format!("there is no key of type `{algorithm}` for `{family}`"))
            .help(format!("one of {names}"))
    })
}

/// A public half is listed by its first bytes: enough to know it by. `show` prints the whole.
const LISTED_PUBLIC_BYTES: usize = 32;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Now, Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
