//! The queues of a node: those it keeps on disk and serves to others, and those of other nodes and of brokers that
//! it uses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use onward::queue::{
    self, BrokerAddress, BrokerKind, Durability, EmbeddedQueue, Lane, Mailbox, QueueError, QueueLimits,
    Server,
};
use onward::{Address, Node, RemoteQueue};

use crate::error::{CliError, Code};

/// A queue on the command line: `NAME=DIR`, `DIR`, `NAME=ROUTE` for another node's, or `NAME=nats://HOST` and the
/// like for a broker's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct QueueSpec {
    pub(crate) name: String,
    place: Place,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    Folder(PathBuf),
    Route(String),
    Broker(BrokerAddress),
}

impl FromStr for QueueSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, place) = match text.split_once('=') {
            Some((name, place)) => (name.to_owned(), place),
            None => {
                let last = Path::new(text).file_name().and_then(|name| name.to_str());
                (last.unwrap_or_default().to_owned(), text)
            }
        };
        let is_name = Address::local(&name).is_ok_and(|address| !address.value().starts_with('#'));
        if !is_name || place.is_empty() {
            return Err(format!(
                "`{text}` is no queue: write NAME=DIR, or NAME='tcp:HOST:PORT' for another node's"
            ));
        }
        if place.contains("://") {
            let address = place.parse().map_err(|error| format!("`{text}` is no queue: {error}"))?;
            return Ok(Self { name, place: Place::Broker(address) });
        }
        if place.starts_with("udp:") {
            return Err(format!(
                "`{text}`: what a queue hands out does not fit into datagrams; use tcp:HOST:PORT"
            ));
        }
        let is_route = place.starts_with("tcp:");
        let place = match is_route {
            // Another node serves its queue `NAME` at this worker.
            true if !place.contains("=>") => Place::Route(format!("{place} => {}", worker(&name))),
            true => Place::Route(place.to_owned()),
            false => Place::Folder(place.into()),
        };
        Ok(Self { name, place })
    }
}

/// The worker at which a node serves its queue of this name to others.
pub(crate) fn worker(queue: &str) -> String {
    format!("queue.{queue}")
}

/// The queues that a node has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queues {
    kept: BTreeMap<String, EmbeddedQueue>,
    used: BTreeMap<String, String>,
    brokers: BTreeMap<String, (BrokerKind, Arc<dyn Server>)>,
}

/// A queue in a list.
#[derive(Clone, Debug, Decode, Default, Encode)]
pub(crate) struct QueueRow {
    #[n(0)]
    pub(crate) queue: String,
    #[n(1)]
    pub(crate) backend: String,
    /// What a message survives once it is acknowledged.
    #[n(2)]
    pub(crate) ack_means: String,
    #[n(3)]
    pub(crate) lanes: Vec<LaneRow>,
    #[n(4)]
    pub(crate) note: String,
}

/// A lane of a mailbox in a list.
#[derive(Clone, Debug, Decode, Default, Encode)]
pub(crate) struct LaneRow {
    #[n(0)]
    pub(crate) mailbox: String,
    #[n(1)]
    pub(crate) lane: String,
    #[n(2)]
    pub(crate) messages: u64,
    #[n(3)]
    pub(crate) bytes: u64,
    #[n(4)]
    pub(crate) unsettled: u64,
    #[n(5)]
    pub(crate) subscribers: u64,
    /// Seconds since the Unix epoch.
    #[n(6)]
    pub(crate) oldest: Option<u64>,
}

/// A dead letter in a list.
#[derive(Clone, Debug, Decode, Default, Encode)]
pub(crate) struct LetterRow {
    #[n(0)]
    pub(crate) mid: String,
    /// Seconds since the Unix epoch.
    #[n(1)]
    pub(crate) died: u64,
    #[n(2)]
    pub(crate) reason: String,
    #[n(3)]
    pub(crate) attempts: u32,
    #[n(4)]
    pub(crate) bytes: u64,
}

impl Queues {
    /// Opens what is kept here and makes all of them known to the node. What is kept here is served too; the
    /// workers' names are returned.
    pub(crate) async fn mount(node: &Node, specs: &[String]) -> Result<(Self, Vec<String>), CliError> {
        let mut queues = Self::default();
        let mut workers = Vec::new();
        for text in specs {
            let spec: QueueSpec =
                text.parse().map_err(|sentence: String| CliError::new(Code::Usage, sentence))?;
            let name = spec.name;
            if queues.has(&name) {
                return Err(CliError::new(Code::Usage, format!("two queues are named `{name}`")));
            }
            let mounting =
                |error| CliError::node(Code::Queue, format!("queue `{name}` cannot be used"), error);
            match spec.place {
                Place::Folder(folder) => {
                    let queue = open(&name, &folder).await?;
                    node.mount_queue(&name, Arc::new(queue.clone())).map_err(mounting)?;
                    node.serve_queue(&worker(&name), &name).map_err(mounting)?;
                    workers.push(worker(&name));
                    queues.kept.insert(name, queue);
                }
                Place::Route(route) => {
                    let remote = RemoteQueue::new(node.route(&route).map_err(mounting)?);
                    node.mount_queue(&name, Arc::new(remote)).map_err(mounting)?;
                    queues.used.insert(name, route);
                }
                Place::Broker(address) => {
                    let broker = connect(&name, &address).await?;
                    node.mount_queue(&name, broker.clone()).map_err(mounting)?;
                    queues.brokers.insert(name, (address.kind(), broker));
                }
            }
        }
        Ok((queues, workers))
    }

    fn has(&self, name: &str) -> bool {
        self.kept.contains_key(name) || self.used.contains_key(name) || self.brokers.contains_key(name)
    }

    /// The route by which others reach a mailbox here: through the node that has its queue, if that is another.
    pub(crate) fn way_to(&self, endpoint: &str) -> String {
        let queue = endpoint.strip_prefix("queue:").and_then(|queue| queue.split_once('/'));
        let route = queue.and_then(|(name, _)| self.used.get(name));
        match route.and_then(|route| route.rsplit_once(" => ")) {
            Some((before, _)) => format!("{before} => {endpoint}"),
            None => endpoint.to_owned(),
        }
    }

    /// All of them, with what waits in those that are kept here.
    pub(crate) async fn list(&self) -> Result<Vec<QueueRow>, QueueError> {
        let mut rows = Vec::new();
        for (name, queue) in &self.kept {
            rows.push(QueueRow {
                queue: name.clone(),
                backend: "embedded".to_owned(),
                ack_means: means(Durability::Disk).to_owned(),
                lanes: queue.mailboxes().await?.into_iter().map(LaneRow::from).collect(),
                note: String::new(),
            });
        }
        rows.extend(self.used.iter().map(|(name, route)| QueueRow {
            queue: name.clone(),
            backend: "served".to_owned(),
            ack_means: means(Durability::BrokerDisk).to_owned(),
            lanes: Vec::new(),
            note: format!("at {route}"),
        }));
        rows.extend(self.brokers.iter().map(|(name, (kind, broker))| {
            let standing = broker.standing();
            let told = standing.warnings.iter().map(|warning| format!("{}: {}", warning.what, warning.mend));
            QueueRow {
                queue: name.clone(),
                backend: kind.name().to_owned(),
                ack_means: means(standing.durability).to_owned(),
                lanes: Vec::new(),
                note: told.collect::<Vec<_>>().join("; "),
            }
        }));
        Ok(rows)
    }

    /// The dead letters of a mailbox, oldest first; none of a queue that is not kept here.
    pub(crate) async fn dead(
        &self,
        queue: &str,
        mailbox: &Mailbox,
    ) -> Option<Result<Vec<LetterRow>, QueueError>> {
        let letters = self.kept.get(queue)?.dead_letters(mailbox).await;
        let row = |dead: queue::DeadRow| LetterRow {
            mid: dead.mid.to_string(),
            died: dead.died,
            reason: dead.letter.reason.to_string(),
            attempts: dead.letter.attempts,
            bytes: dead.letter.original.len() as u64,
        };
        Some(letters.map(|letters| letters.into_iter().map(row).collect()))
    }

    /// Removes what is in a mailbox, or its dead letters; how many.
    pub(crate) async fn purge(
        &self,
        queue: &str,
        mailbox: &Mailbox,
        dead: bool,
    ) -> Option<Result<u64, QueueError>> {
        let lane = if dead { Lane::DeadLetters } else { Lane::Messages };
        Some(self.kept.get(queue)?.purge(&mailbox.lane(lane)).await)
    }

    /// Gives the dead letters of a mailbox back to it; how many.
    pub(crate) async fn redeliver(&self, queue: &str, mailbox: &Mailbox) -> Option<Result<u64, QueueError>> {
        Some(self.kept.get(queue)?.redeliver(mailbox).await)
    }

    /// Commits what is under way; other processes can open the folders then.
    pub(crate) async fn close(&self) {
        for (name, queue) in &self.kept {
            if let Err(error) = queue.close().await {
                tracing::warn!(queue = %name, %error, "messages that were settled may come again");
            }
        }
    }
}

impl From<queue::MailboxRow> for LaneRow {
    fn from(row: queue::MailboxRow) -> Self {
        Self {
            mailbox: row.subject.mailbox().to_string(),
            lane: match row.subject.lane() {
                Lane::Messages => "messages",
                Lane::Receipts => "receipts",
                Lane::DeadLetters => "dead",
            }
            .to_owned(),
            messages: row.messages,
            bytes: row.bytes,
            unsettled: row.unsettled,
            subscribers: row.subscribers,
            oldest: row.oldest,
        }
    }
}

/// Opens the queue in `folder`.
pub(crate) async fn open(name: &str, folder: &Path) -> Result<EmbeddedQueue, CliError> {
    EmbeddedQueue::open(folder, QueueLimits::default()).await.map_err(|error| {
        let help = match &error {
            QueueError::InUse(_) => "stop the node that has it, or ask that node",
            QueueError::NotPrivate(_) => "chmod 700 the folder; nobody else may read what waits in it",
            QueueError::StorageFull => "free some space on its disk",
            _ => "check the folder and its disk",
        };
        CliError::new(Code::Queue, format!("queue `{name}` in {} cannot be opened", folder.display()))
            .help(help)
            .because(error)
    })
}

/// Connects to the broker that the node calls `name`.
pub(crate) async fn connect(name: &str, address: &BrokerAddress) -> Result<Arc<dyn Server>, CliError> {
    queue::connect(address).await.map_err(|error| {
        let help = match &error {
            QueueError::NotPrivate(_) => "chmod 600 the file with the credentials, and 700 the folder of the spool",
            QueueError::InUse(_) => "stop the node that has this spool, or name another folder",
            QueueError::Credentials(_) => "write USER:PASSWORD into the file that ?credentials= names, and certificates into that of ?ca=",
            QueueError::Refused(_) => "check the credentials, and that the broker allows queues",
            QueueError::NotBuilt("kafka") => "build the command with it: cargo build -p onward-cli --features kafka",
            _ => "check that the broker runs and can be reached",
        };
        CliError::new(Code::Queue, format!("queue `{name}` at {address} cannot be used"))
            .help(help)
            .because(error)
    })
}

/// What an acknowledgement means, in words.
pub(crate) fn means(durability: Durability) -> &'static str {
    match durability {
        Durability::Disk => "on disk (fsync)",
        Durability::BrokerDisk => "on the broker's disk",
        Durability::BrokerReplicated => "on several brokers, not on disk",
        _ => "in the broker's memory",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_a_folder_or_a_route_with_a_name() {
        let read = |text: &str| text.parse::<QueueSpec>();
        let folder = |name: &str, folder: &str| {
            Ok(QueueSpec { name: name.to_owned(), place: Place::Folder(folder.into()) })
        };
        let route = |name: &str, route: &str| {
            Ok(QueueSpec { name: name.to_owned(), place: Place::Route(route.to_owned()) })
        };
        assert_eq!(read("cards=/var/q"), folder("cards", "/var/q"));
        assert_eq!(read("./cards"), folder("cards", "./cards"));
        assert_eq!(read("cards=tcp:a.example:1"), route("cards", "tcp:a.example:1 => queue.cards"));
        assert_eq!(read("c=tcp:a.example:1 => hop => q"), route("c", "tcp:a.example:1 => hop => q"));
        let broker = read("cards=nats://a.example?credentials=cards").unwrap();
        assert_eq!(broker.name, "cards");
        assert!(matches!(broker.place, Place::Broker(address) if address.kind() == BrokerKind::Nats));
        let wrong = ["", "=x", "a=", "..", "a b=x", "/", "a=udp:a.example:1", "c=http://a"];
        for wrong in wrong.into_iter().chain(["c=nats://user:secret@a"]) {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
