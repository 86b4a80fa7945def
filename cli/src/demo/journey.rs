//! The course of the demonstration: starts its processes, sends the text, searches, decides.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use onward::queue::BrokerAddress;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::attack::{ATTACKS_PER_FRAME, Counts};
use super::keys::{KeyService, KeysAt};
use super::part::{
    Answered, Arrived, CHANNELS, Errand, Orders, QUEUE_WORKER, Ready, Request, Seen, WORKER, confirmation,
    order,
};
use super::search::{Needle, Search};
use super::tally::Tally;
use crate::error::{CliError, Code};

/// Names of the two hops, which belong to other companies.
const HOPS: [&str; 2] = ["fintech", ATTACKER];
/// The hop that attacks when it is asked to: the one nearest to the service.
const ATTACKER: &str = "card-api";
/// Orders that the client sends beyond those needed for the attacks.
const ORDERS_MIN: u64 = 64;
/// How long any one step may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much longer it may take for each attack.
const ATTACK_PATIENCE: Duration = Duration::from_millis(2);

/// What happened, and what was found where.
#[derive(Debug)]
pub(super) struct Journey {
    /// What carries messages from each station to the next.
    pub(super) links: [&'static str; 3],
    pub(super) route: String,
    pub(super) text_bytes: usize,
    pub(super) answered: bool,
    pub(super) channel_ms: f64,
    pub(super) journey_ms: f64,
    pub(super) client: Station,
    pub(super) hops: Vec<Station>,
    pub(super) service: Station,
    pub(super) siege: Option<Siege>,
    /// What became of the keys, if they were in a key service.
    pub(super) kept: Option<Kept>,
}

/// What became of a channel in use while the hop nearest to the service attacked it.
#[derive(Debug)]
pub(super) struct Siege {
    /// Name of the hop.
    pub(super) by: &'static str,
    /// Attacks that were asked for.
    pub(super) meant: u64,
    /// Attacks that were made.
    pub(super) made: Counts,
    /// The client's requests, at the service.
    pub(super) requests: Tally,
    /// The service's answers, at the client.
    pub(super) answers: Tally,
    /// Messages that reached a worker at either end which is not exposed.
    pub(super) reached_unexposed: u64,
    pub(super) seconds: f64,
}

impl Siege {
    /// Messages that an end accepted and the other had not sent.
    pub(super) fn accepted(&self) -> u64 {
        self.requests.surplus + self.answers.surplus
    }

    /// Whether nothing got through but what was sent, and all of that.
    fn withstood(&self) -> bool {
        self.made.values().sum::<u64>() == self.meant
            && self.accepted() == 0
            && self.reached_unexposed == 0
            && self.requests.missing + self.answers.missing == 0
            && self.answers.arrived > 0
    }
}

/// Keys in a key service, looked for in the processes of the journey.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// How many there are.
    pub(super) keys: usize,
    /// How often one was found; `None` when a process could not be searched.
    pub(super) found: Option<usize>,
}

/// One process of the journey and what it saw.
#[derive(Debug)]
pub(super) struct Station {
    pub(super) name: &'static str,
    /// Messages it handed on.
    pub(super) forwarded: u64,
    /// Bytes on the connections it has, both ways.
    pub(super) bytes: usize,
    /// Encodings in which the text stood in those bytes.
    pub(super) in_bytes: Vec<&'static str>,
    /// What the search of its memory saw; `None` when it could not be searched.
    pub(super) memory: Option<Search>,
    /// What the search of its queue's files saw, if it keeps a queue.
    pub(super) files: Option<Search>,
}

impl Journey {
    /// The processes in the order of the journey.
    pub(super) fn stations(&self) -> impl Iterator<Item = &Station> {
        std::iter::once(&self.client).chain(&self.hops).chain(std::iter::once(&self.service))
    }

    /// Whether everything was as it must be; `None` when nothing speaks against it but a search is missing.
    pub(super) fn ok(&self) -> Option<bool> {
        let leaked = self.hops.iter().any(Station::found);
        let missing_at_an_end =
            [&self.client, &self.service].iter().any(|end| end.memory.is_some() && !end.found());
        let silent_hop = self.hops.iter().any(|hop| hop.forwarded == 0 || hop.bytes == 0);
        let fallen = self.siege.as_ref().is_some_and(|siege| !siege.withstood());
        let keys_out = self.kept.is_some_and(|kept| kept.found.is_some_and(|found| found > 0));
        if !self.answered || keys_out || leaked || missing_at_an_end || silent_hop || fallen {
            return Some(false);
        }
        self.stations().all(|station| station.memory.is_some()).then_some(true)
    }
}

impl Station {
    /// Whether the text was found in its bytes or memory.
    pub(super) fn found(&self) -> bool {
        let searches = [&self.memory, &self.files];
        !self.in_bytes.is_empty() || searches.into_iter().flatten().any(|search| !search.found.is_empty())
    }
}

/// Runs the journey of `text`: over UDP, TCP and a queue on disk. With `attacks` all links are TCP, and the last
/// hop then makes so many attacks on the channel. With
/// `keyd`, every long-term key is in a key service.
///
/// # Errors
/// [`Code::DemoFailed`] when a process does not do its part. All of them have ended then.
pub(super) async fn run(
    text: &str,
    attacks: u64,
    broker: Option<&BrokerAddress>,
    keyd: bool,
) -> Result<Journey, CliError> {
    let tag = random_tag()?;
    let tagged = format!("{text} {tag}");
    let (mut client, mut service) = (Part::start("client")?, Part::start("service")?);
    let mut hops = [Part::start("hop")?, Part::start("hop")?];

    let service_of_keys = if keyd { Some(KeyService::start().await?) } else { None };
    let keys = |name| service_of_keys.as_ref().map(|keys| keys.at(name));
    client.tell(&Orders { keys: keys("client"), ..Orders::default() }).await?;
    let known: Ready = client.hear().await?;
    let folder =
        tempfile::tempdir().map_err(|error| failed("there is no folder for a queue").because(error))?;
    let queue = folder.path().join("queue");
    let (links, (route, far)) = match (attacks, broker) {
        (0, Some(broker)) => {
            let link = broker.kind().name();
            let way = by_broker(&mut hops, &mut service, known, keys("service"), broker).await?;
            (["udp", "tcp", link], way)
        }
        (0, None) => (
            ["udp", "tcp", "queue"],
            by_queue(&mut hops, &mut service, known, keys("service"), &queue).await?,
        ),
        _ => (["tcp"; 3], by_tcp(&mut hops, &mut service, known, keys("service")).await?),
    };
    client.tell(&Errand { route: route.clone(), peer: far.identifier, text: tagged.clone() }).await?;
    let answered: Answered = client.hear().await?;

    let needle = Needle::new(&[&tagged, &tag]);
    let mut tapped = Vec::new();
    for part in hops.iter_mut().chain([&mut service]) {
        part.tell(&Request::Report).await?;
        tapped.push(Link::of(part.hear().await?, &needle)?);
    }
    let siege = match attacks {
        0 => None,
        _ => Some(besiege(&mut client, &mut hops, &mut service, &tagged, attacks).await?),
    };
    let stations = HOPS.into_iter().zip(&hops).zip(tapped.windows(2));
    let mut hop_stations: Vec<Station> = stations
        .map(|((name, part), sides)| {
            // A hop sees the link before it and the one behind it, which the next one's tap kept.
            let in_bytes = sides.iter().flat_map(|link| link.found.clone()).collect();
            let bytes = sides.iter().map(|link| link.bytes).sum();
            let memory = part.search(&needle);
            Station { name, forwarded: sides[0].forwarded, bytes, in_bytes, memory, files: None }
        })
        .collect();
    if links.contains(&"queue")
        && let Some(last) = hop_stations.last_mut()
    {
        let searched = needle.search_folder(&queue);
        last.files =
            Some(searched.map_err(|error| failed("the queue's files were not searched").because(error))?);
    }
    let end = |name, part: &Part| Station {
        name,
        forwarded: 0,
        bytes: 0,
        in_bytes: Vec::new(),
        memory: part.search(&needle),
        files: None,
    };
    let parts = || [&client].into_iter().chain(&hops).chain([&service]);
    let kept = service_of_keys.as_ref().map(|keys| Kept {
        keys: keys.count(),
        found: parts().map(|part| keys.found_in(part.child.id())).sum(),
    });
    Ok(Journey {
        kept,
        links,
        route: format!("{route} => {WORKER}"),
        text_bytes: tagged.len(),
        answered: answered.answer.as_bytes() == confirmation(tagged.as_bytes()),
        channel_ms: answered.channel_ms,
        journey_ms: answered.journey_ms,
        client: end("client", &client),
        hops: hop_stations,
        service: end("service", &service),
        siege,
    })
}

/// Starts the hops and the service so that all links are TCP, from the far end to the near one; the route to the
/// channel listener, and the service.
async fn by_tcp(
    hops: &mut [Part; 2],
    service: &mut Part,
    client: Ready,
    keys: Option<KeysAt>,
) -> Result<(String, Ready), CliError> {
    service.tell(&Orders { trust: client.identifier, keys, ..Orders::default() }).await?;
    let far: Ready = service.hear().await?;
    let mut next = far.endpoint.clone();
    let mut route = CHANNELS.to_owned();
    for (name, hop) in HOPS.into_iter().zip(hops).rev() {
        let attacks = name == ATTACKER;
        hop.tell(&Orders { name: name.to_owned(), next, attacks, ..Orders::default() }).await?;
        let ready: Ready = hop.hear().await?;
        next = ready.endpoint;
        route = format!("{name} => {} => {route}", ready.next);
    }
    Ok((format!("{next} => {route}"), far))
}

/// Starts the hops and the service so that the links are UDP, TCP and a queue in `folder`, which the last hop
/// keeps and the service fetches from; the route to the channel listener, and the service.
async fn by_queue(
    hops: &mut [Part; 2],
    service: &mut Part,
    client: Ready,
    keys: Option<KeysAt>,
    folder: &Path,
) -> Result<(String, Ready), CliError> {
    let [first, last] = hops;
    let queue = folder.display().to_string();
    last.tell(&Orders { name: HOPS[1].to_owned(), queue, ..Orders::default() }).await?;
    let keeper: Ready = last.hear().await?;
    let queue = format!("{} => {QUEUE_WORKER}", keeper.endpoint);
    service.tell(&Orders { trust: client.identifier, queue, keys, ..Orders::default() }).await?;
    let far: Ready = service.hear().await?;
    by_datagrams(first, &keeper, far).await
}

/// As [`by_queue`], with a queue of a broker, which the last hop publishes to and the service fetches from.
async fn by_broker(
    hops: &mut [Part; 2],
    service: &mut Part,
    client: Ready,
    keys: Option<KeysAt>,
    broker: &BrokerAddress,
) -> Result<(String, Ready), CliError> {
    let [first, last] = hops;
    let broker = broker.with_files();
    last.tell(&Orders { name: HOPS[1].to_owned(), broker: broker.clone(), ..Orders::default() }).await?;
    let keeper: Ready = last.hear().await?;
    service.tell(&Orders { trust: client.identifier, broker, keys, ..Orders::default() }).await?;
    let far: Ready = service.hear().await?;
    by_datagrams(first, &keeper, far).await
}

/// Starts the first hop, which listens for datagrams and leads to the last, `keeper`; the route to the channel
/// listener, and the service.
async fn by_datagrams(first: &mut Part, keeper: &Ready, far: Ready) -> Result<(String, Ready), CliError> {
    let next = keeper.endpoint.clone();
    first.tell(&Orders { name: HOPS[0].to_owned(), next, udp: true, ..Orders::default() }).await?;
    let near: Ready = first.hear().await?;
    let hops = [near.endpoint.as_str(), HOPS[0], &keeper.endpoint, HOPS[1], &far.endpoint, CHANNELS];
    Ok((hops.join(" => "), far))
}

/// Lets the client send so many orders that the attacks find frames enough to be made on, and compares what
/// arrived at both ends with what was sent. `text` is what the client had sent before.
async fn besiege(
    client: &mut Part,
    hops: &mut [Part],
    service: &mut Part,
    text: &str,
    attacks: u64,
) -> Result<Siege, CliError> {
    let began = Instant::now();
    let attacker = hops.last_mut().ok_or_else(|| failed("there is no hop"))?;
    attacker.tell(&Request::Attack(attacks)).await?;
    attacker.hear::<Counts>().await?;
    // An order and its answer are two frames. Some frames are only held back, which is no attack yet.
    let orders = attacks / (2 * ATTACKS_PER_FRAME - 1) + ORDERS_MIN;
    client.tell(&Request::Shop(orders)).await?;
    let patience = PATIENCE + ATTACK_PATIENCE.saturating_mul(u32::try_from(attacks).unwrap_or(u32::MAX));
    let at_client: Arrived = client.hear_within(patience).await?;
    attacker.tell(&Request::Attack(0)).await?;
    let made = attacker.hear().await?;
    service.tell(&Request::Count).await?;
    let at_service: Arrived = service.hear().await?;

    let orders: Vec<String> = (0..orders).map(order).collect();
    let answer = |order: &String| String::from_utf8_lossy(&confirmation(order.as_bytes())).into_owned();
    let answers: Vec<String> = orders.iter().map(answer).collect();
    let requests = orders.iter().map(String::as_str).chain([text]);
    Ok(Siege {
        by: ATTACKER,
        meant: attacks,
        made,
        requests: Tally::of(requests, at_service.texts.iter().map(String::as_str)),
        answers: Tally::of(answers.iter().map(String::as_str), at_client.texts.iter().map(String::as_str)),
        reached_unexposed: at_client.unexposed + at_service.unexposed,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// What the tap in front of a process kept.
struct Link {
    forwarded: u64,
    bytes: usize,
    found: Vec<&'static str>,
}

impl Link {
    fn of(seen: Seen, needle: &Needle) -> Result<Self, CliError> {
        let mut link = Self { forwarded: seen.forwarded, bytes: 0, found: Vec::new() };
        for stream in &seen.streams {
            let bytes = from_hex(stream).ok_or_else(|| failed("a record is damaged"))?;
            link.bytes += bytes.len();
            link.found.extend(needle.find(&bytes));
        }
        Ok(link)
    }
}

/// A process of the demonstration; it is killed when this is dropped.
struct Part {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Part {
    fn start(part: &str) -> Result<Self, CliError> {
        let program =
            std::env::current_exe().map_err(|error| failed("this program cannot be found").because(error))?;
        let mut child = Command::new(program)
            .args(["demo-part", part])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("a process cannot be started").because(error))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { child, input, output: BufReader::new(output) }),
            _ => Err(failed("a process has no pipes")),
        }
    }

    async fn tell(&mut self, orders: &impl Serialize) -> Result<(), CliError> {
        let line = serde_json::to_string(orders)
            .map_err(|error| failed("orders cannot be written").because(error))?;
        let written = self.input.write_all(format!("{line}\n").as_bytes()).await;
        written.map_err(|error| failed("a process takes no orders").because(error))
    }

    async fn hear<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, CliError> {
        self.hear_within(PATIENCE).await
    }

    async fn hear_within<T: for<'de> Deserialize<'de>>(&mut self, patience: Duration) -> Result<T, CliError> {
        let mut line = String::new();
        let read = tokio::time::timeout(patience, self.output.read_line(&mut line)).await;
        match read {
            Ok(Ok(0)) => Err(failed("a process ended early")),
            Ok(Ok(_)) => serde_json::from_str(&line)
                .map_err(|error| failed("a process said something else").because(error)),
            Ok(Err(error)) => Err(failed("a process cannot be heard").because(error)),
            Err(error) => Err(failed("a process says nothing").because(error)),
        }
    }

    /// Searches its memory; `None` when the system does not let it be searched.
    fn search(&self, needle: &Needle) -> Option<Search> {
        let searched = self.child.id().map(|pid| needle.search_process(pid))?;
        searched.inspect_err(|error| tracing::info!(%error, "memory was not searched")).ok()
    }
}

/// 16 random letters and digits.
pub(super) fn random_tag() -> Result<String, CliError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| failed("the system gives no randomness").because(error))?;
    let letters = b"abcdefghijklmnopqrstuvwxyz234567";
    Ok(bytes.iter().map(|byte| char::from(letters[usize::from(byte % 32)])).collect())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

fn failed(what: &str) -> CliError {
    CliError::new(Code::DemoFailed, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::attack::Kind;

    fn station(name: &'static str, found: bool) -> Station {
        let found = if found { vec!["text"] } else { Vec::new() };
        Station {
            name,
            forwarded: 3,
            bytes: 100,
            in_bytes: Vec::new(),
            memory: Some(Search { bytes: 1, found }),
            files: None,
        }
    }

    fn journey() -> Journey {
        Journey {
            links: ["tcp"; 3],
            route: String::new(),
            text_bytes: 20,
            answered: true,
            channel_ms: 1.0,
            journey_ms: 1.0,
            client: station("client", true),
            hops: vec![station("one", false), station("two", false)],
            service: station("service", true),
            siege: None,
            kept: None,
        }
    }

    fn siege() -> Siege {
        Siege {
            by: ATTACKER,
            meant: 7,
            made: [(Kind::Replay, 3), (Kind::Forge, 4)].into(),
            requests: Tally { arrived: 5, ..Tally::default() },
            answers: Tally { arrived: 5, ..Tally::default() },
            reached_unexposed: 0,
            seconds: 1.0,
        }
    }

    #[test]
    fn an_attack_that_got_through_or_was_not_made_is_not_ok() {
        let withstood = Journey { siege: Some(siege()), ..journey() };
        assert_eq!(withstood.ok(), Some(true));
        let spoiled: [fn(&mut Siege); 6] = [
            |siege| siege.requests.surplus = 1,
            |siege| siege.answers.surplus = 1,
            |siege| siege.requests.missing = 1,
            |siege| siege.answers.missing = 1,
            |siege| siege.reached_unexposed = 1,
            |siege| siege.meant = 8,
        ];
        for spoil in spoiled {
            let mut siege = siege();
            spoil(&mut siege);
            let journey = Journey { siege: Some(siege), ..journey() };
            assert_eq!(journey.ok(), Some(false), "{journey:?}");
        }
    }

    #[test]
    fn it_is_ok_only_if_both_ends_have_the_text_and_no_hop_has() {
        assert_eq!(journey().ok(), Some(true));
        let spoiled: [fn(&mut Journey); 6] = [
            |journey| journey.answered = false,
            |journey| journey.client = station("client", false),
            |journey| journey.service = station("service", false),
            |journey| journey.hops[1] = station("two", true),
            |journey| journey.hops[0].in_bytes.push("hex"),
            |journey| journey.hops[0].forwarded = 0,
        ];
        for spoil in spoiled {
            let mut journey = journey();
            spoil(&mut journey);
            assert_eq!(journey.ok(), Some(false));
        }
    }

    #[test]
    fn without_a_search_it_is_undecided_unless_something_speaks_against_it() {
        let mut journey = journey();
        journey.hops[0].memory = None;
        assert_eq!(journey.ok(), None);
        journey.hops[1] = station("two", true);
        assert_eq!(journey.ok(), Some(false));
    }

    #[test]
    fn tags_are_random_and_long() {
        let (one, other) = (random_tag().unwrap(), random_tag().unwrap());
        assert!(one.len() == 16 && one != other);
    }
}
