//! The words and options of the command line.
//!
//! No option takes a secret: arguments are visible to every user of the machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use onward::ok2cry::Policy as ExchangePolicy;
use onward::queue::BrokerAddress;

use crate::config::NodePlan;
use crate::handshake::HandshakeArgs;
use crate::output::Format;

/// Messages that only the intended receiver can read, through anything that lies between.
#[derive(Debug, Parser)]
#[command(
    name = "onward",
    disable_version_flag = true,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "First steps: onward demo chain; onward help serve; onward explain CODE"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// How data is printed
    #[arg(short, long, global = true, env = "ONWARD_OUTPUT", hide_env = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Print data and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// State directory (default: ~/.local/state/onward)
    #[arg(long, global = true, env = "ONWARD_HOME", hide_env = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start, stop and list nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make a program answer messages
    #[command(after_long_help = SERVE_EXAMPLES)]
    Serve(Serve),
    /// Send a message and wait for no answer
    #[command(after_long_help = SEND_EXAMPLES)]
    Send(Message),
    /// Send a message and print the answer
    #[command(after_long_help = ASK_EXAMPLES)]
    Ask(Message),
    /// Keep routes under short names, see what each hop learns
    #[command(subcommand)]
    Route(RouteCommand),
    /// Make and show the identities that prove who you are
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Make, list and end the keys of the key service
    #[command(subcommand)]
    Key(KeyCommand),
    /// Start and steer the key service, which holds private keys
    #[command(subcommand)]
    Keyd(KeydCommand),
    /// Show the cache of disposable keys in the key service
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Make a key for one exchange, seal to it, open with it, prove its end
    #[command(subcommand, after_long_help = OK2CRY_EXAMPLES)]
    Ok2cry(Ok2cryCommand),
    /// Check and show what was done with which key
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Find what is not as it should be on this machine
    Doctor(AtService),
    /// Keep the identities of others under short names
    #[command(subcommand)]
    Peer(PeerCommand),
    /// See what waits in the queues of a running node, and mend it
    #[command(subcommand, after_long_help = QUEUE_EXAMPLES)]
    Queue(QueueCommand),
    /// Show what a running node does
    Status(OnNode),
    /// Show every limit with its value
    Limits,
    /// Explain an error code, or list them all
    Explain {
        /// A code such as E0404
        code: Option<String>,
    },
    /// See it work on this machine
    #[command(subcommand)]
    Demo(DemoCommand),
    /// Print a completion script for a shell
    #[command(after_long_help = COMPLETION_EXAMPLES)]
    Completion {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Explain a command; with --man as a manual page
    Help {
        /// Print the manual page
        #[arg(long)]
        man: bool,
        /// Write the manual pages of all commands into this directory
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        man_dir: Option<PathBuf>,
        /// Words of the command
        command: Vec<String>,
    },
    /// Print the version
    Version,
    /// One process of a demonstration.
    #[command(hide = true)]
    DemoPart {
        #[command(subcommand)]
        part: DemoPart,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Start a node and keep it running until Ctrl-C
    #[command(after_long_help = NODE_EXAMPLES)]
    Start(Box<NodeStart>),
    /// Stop a running node after it finished what it has in hand
    Stop {
        /// The node's name (default: the only one that runs)
        name: Option<String>,
        /// Longest time to finish in
        #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
        drain: Duration,
    },
    /// List nodes
    Ls,
}

#[derive(Args, Debug)]
pub(crate) struct NodeStart {
    /// The node's name (default: the configuration's, or `node`)
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) plan: NodePlan,
    /// Read these settings from a file
    #[arg(long, env = "ONWARD_CONFIG", hide_env = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) config: Option<PathBuf>,
    /// Longest time to finish in after Ctrl-C or SIGTERM
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME", hide_short_help = true)]
    pub(crate) drain: Duration,
    /// Return once it runs and leave it in the background
    #[arg(long)]
    pub(crate) background: bool,
    /// This process is the one in the background.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

#[derive(Args, Debug)]
pub(crate) struct OnNode {
    /// The node (default: the only one that runs)
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// The worker's name, the last address of routes to it
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) what: ServeWhat,
    /// Start a node that listens here instead of joining a running one
    #[arg(long, value_name = "ENDPOINT", conflicts_with = "node")]
    pub(crate) listen: Vec<String>,
    /// Use another node's queue to listen at queue:NAME, or keep one in a folder
    #[arg(long, value_name = "NAME=ROUTE", requires = "listen", hide_short_help = true)]
    pub(crate) queue: Vec<String>,
    /// Join this running node (default: the only one that runs)
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Address of the channel listener
    #[arg(long, value_name = "NAME", default_value = "secure")]
    pub(crate) channels: String,
    /// Let this peer open channels (name, identifier or file)
    #[arg(long, value_name = "PEER")]
    pub(crate) trust: Vec<String>,
    /// Let everybody open channels who proves any identity
    #[arg(long, conflicts_with = "trust")]
    pub(crate) trust_any: bool,
    /// Answer messages that come without a channel too
    #[arg(long)]
    pub(crate) plain: bool,
    /// Identity that proves who answers (default: the worker's name)
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub(crate) identity: Option<String>,
    #[command(flatten)]
    pub(crate) handshake: HandshakeArgs,
    /// Messages handled at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256), hide_short_help = true)]
    pub(crate) jobs: u16,
    /// Longest time to finish in after Ctrl-C or SIGTERM
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME", hide_short_help = true)]
    pub(crate) drain: Duration,
    /// The program and its arguments, behind `--`
    #[arg(last = true, requires = "exec", value_name = "PROGRAM")]
    pub(crate) program: Vec<std::ffi::OsString>,
}

/// What answers the messages.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct ServeWhat {
    /// Run a program per message: payload on its input, output is the answer
    #[arg(long)]
    pub(crate) exec: bool,
    /// Answer with the same bytes
    #[arg(long)]
    pub(crate) echo: bool,
    /// Answer in capitals
    #[arg(long)]
    pub(crate) upper: bool,
}

/// A message for `send` and `ask`.
#[derive(Args, Debug)]
pub(crate) struct Message {
    /// Route to the worker, quoted, or a name from the route book
    pub(crate) route: String,
    /// The text; `-` or nothing reads standard input
    pub(crate) text: Option<String>,
    /// Send the content of a file
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(crate) file: Option<PathBuf>,
    /// Open a channel to this identity (name, identifier or file)
    #[arg(long, value_name = "PEER")]
    pub(crate) peer: Option<String>,
    /// No channel: whoever carries the message can read it
    #[arg(long, conflicts_with = "peer")]
    pub(crate) plain: bool,
    /// Own identity in the channel (default: a fresh one that ends with the command)
    #[arg(long, value_name = "NAME")]
    pub(crate) identity: Option<String>,
    #[command(flatten)]
    pub(crate) handshake: HandshakeArgs,
    /// Longest time until the answer
    #[arg(long, env = "ONWARD_TIMEOUT", hide_env = true, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) deadline: Duration,
    /// Begin a route of names at this running node (default: the only one)
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues: what waits, and what an acknowledgement means
    Ls {
        #[command(flatten)]
        on: OnNode,
    },
    /// List the mailboxes of a queue
    Show {
        queue: String,
        #[command(flatten)]
        on: OnNode,
    },
    /// Print a fresh mailbox, which only those know who are told
    New { queue: String },
    /// List the messages of a mailbox that could not be handled
    Dead {
        /// NAME/MAILBOX
        mailbox: String,
        #[command(flatten)]
        on: OnNode,
    },
    /// Remove what waits in a mailbox
    Purge {
        /// NAME/MAILBOX
        mailbox: String,
        /// Remove its dead letters instead
        #[arg(long)]
        dead: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        on: OnNode,
    },
    /// Let the dead letters of a mailbox be handled again
    Redeliver {
        /// NAME/MAILBOX
        mailbox: String,
        #[command(flatten)]
        on: OnNode,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// Keep a route under a name
    Add { name: String, route: String },
    /// Forget a route
    Rm { name: String },
    /// List the route book
    Ls,
    /// Say hop by hop what each one learns
    #[command(after_long_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// A route, quoted, or a name from the route book
        route: String,
        /// As without a channel
        #[arg(long)]
        plain: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Make an identity
    Create {
        #[arg(default_value = "default")]
        name: String,
        /// Keep its private keys in the key service, whose passphrase is asked for
        #[arg(long)]
        keyd: bool,
        #[command(flatten)]
        at: AtService,
    },
    /// Print identifiers
    Show {
        /// Which one (default: all)
        name: Option<String>,
    },
    /// Print the public history, which others need to know you by
    Export {
        #[arg(default_value = "default")]
        name: String,
    },
    /// Print what lets a peer know an identity's channel key beforehand, for 30 days
    Introduce {
        #[arg(default_value = "default")]
        name: String,
    },
    /// Replace the key; the identifier stays
    Rotate {
        #[arg(default_value = "default")]
        name: String,
    },
}

/// Which key service is meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct AtService {
    /// Directory of the key service (default: keyd in the state directory)
    #[arg(long, value_name = "DIR")]
    pub(crate) service: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; its private half never leaves the service
    Create {
        /// Its name, which policies know it by
        label: String,
        /// What it may do in this project's protocols, such as channel-static or credential-signing
        #[arg(long, required_unless_present = "algorithm", conflicts_with = "algorithm")]
        usage: Option<String>,
        /// A key of general use, of this type, such as p-256, rsa-3072 or aes-256
        #[arg(long = "type", value_name = "TYPE", requires = "family")]
        algorithm: Option<String>,
        /// What it may do, such as sign-raw, ecdh-kdf, wrap or aead
        #[arg(long = "for", value_name = "FAMILY", requires = "algorithm")]
        family: Option<String>,
        /// It may leave the service, wrapped by another key
        #[arg(long, requires = "algorithm")]
        extractable: bool,
        /// Take its private half in, which is asked for in hexadecimal, instead of making one
        #[arg(long, requires = "algorithm")]
        private: bool,
        /// It ends after so many days
        #[arg(long, value_name = "N")]
        days: Option<u64>,
        #[command(flatten)]
        at: AtService,
    },
    /// List the keys that this user's programs may list
    Ls {
        /// All keys; asks for the passphrase
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        at: AtService,
    },
    /// Print what is publicly known of a key
    Show {
        label: String,
        #[command(flatten)]
        at: AtService,
    },
    /// Make a new key of the same label and usage; the old one rests
    Rotate {
        label: String,
        #[command(flatten)]
        at: AtService,
    },
    /// Let a key rest
    Disable {
        label: String,
        #[command(flatten)]
        at: AtService,
    },
    /// End a key's rest
    Enable {
        label: String,
        #[command(flatten)]
        at: AtService,
    },
    /// Destroy a key for good
    Destroy {
        label: String,
        #[command(flatten)]
        at: AtService,
    },
    /// Print a key that was made extractable, wrapped by another of the service
    Wrap {
        label: String,
        /// The key that wraps: aes-128 or aes-256, for wrap
        #[arg(long, value_name = "LABEL")]
        with: String,
        #[command(flatten)]
        at: AtService,
    },
    /// Take in what `onward key wrap` printed elsewhere, which is asked for
    Unwrap {
        /// The key that wrapped it
        #[arg(long, value_name = "LABEL")]
        with: String,
        #[command(flatten)]
        at: AtService,
    },
    /// Take the development keys of an identity over
    Import {
        /// The identity's name
        identity: String,
        #[command(flatten)]
        at: AtService,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeydCommand {
    /// Start the key service and stay with it; asks for its passphrase
    Start {
        /// Return once it runs and leave it in the background
        #[arg(long)]
        background: bool,
        /// Run even where no memory can be kept from swap
        #[arg(long)]
        allow_swappable: bool,
        #[command(flatten)]
        at: AtService,
    },
    /// Show its state and what protects its memory
    Status {
        #[command(flatten)]
        at: AtService,
    },
    /// Open its store; asks for the passphrase
    Unlock {
        #[command(flatten)]
        at: AtService,
    },
    /// Put another passphrase in the place of the present one; asks for both
    Passphrase {
        #[command(flatten)]
        at: AtService,
    },
    /// Wipe every private half from memory
    Lock {
        #[command(flatten)]
        at: AtService,
    },
    /// Put a changed policy in force
    Reload {
        #[command(flatten)]
        at: AtService,
    },
    /// Check a policy, see why it decides as it does
    #[command(subcommand)]
    Policy(KeydPolicyCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show how many disposable keys live, and the log of their lives
    Status {
        #[command(flatten)]
        at: AtService,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ok2cryCommand {
    /// Make a key that opens once; its private half stays in the key service
    New(NewExchange),
    /// Seal standard input, or a file, to a key that somebody made
    Seal(SealExchange),
    /// Open what was sealed to a key of one's own, and so end the key
    Open(OpenExchange),
    /// Show what a key, something sealed or evidence says, and what was checked
    Inspect {
        /// What `new`, `seal` or `proof --out` wrote (default: standard input)
        file: Option<PathBuf>,
    },
    /// Check in the log what became of a key of one's own
    Proof {
        /// What `new` printed, or its id
        which: String,
        /// Write the evidence into a file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        at: AtService,
    },
}

#[derive(Args, Debug)]
pub(crate) struct NewExchange {
    #[command(flatten)]
    pub(crate) about: ExchangeAbout,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "exchange")]
    pub(crate) purpose: String,
    /// How long it lives, 1s to 15m (default: as the service has it)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// With what is sealed: strong, noise, noise-anonymous or strong-pq
    #[arg(long, value_name = "NAME", default_value = "strong", value_parser = parse_exchange_policy)]
    pub(crate) policy: ExchangePolicy,
    /// JSON schema that the content has to follow
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// Identity that signs it (default: a fresh one that ends with the command)
    #[arg(long, value_name = "NAME")]
    pub(crate) identity: Option<String>,
    /// Write the key into a file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) at: AtService,
}

#[derive(Args, Debug)]
pub(crate) struct SealExchange {
    /// What `onward ok2cry new` printed, in a file
    pub(crate) object: PathBuf,
    #[command(flatten)]
    pub(crate) about: ExchangeAbout,
    #[command(flatten)]
    pub(crate) believed: Believed,
    /// Seal the content of a file (default: standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// JSON schema of the content, if the key names one
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// Identity that signs it (default: a fresh one that ends with the command)
    #[arg(long, value_name = "NAME")]
    pub(crate) identity: Option<String>,
    /// Write what was sealed into a file
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct OpenExchange {
    #[command(flatten)]
    pub(crate) believed: Believed,
    /// What was sealed, in a file (default: standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// JSON schema of the content, if the key names one
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// Write the content into a file that only its owner may read
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) at: AtService,
}

/// What both ends of an exchange must say alike.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExchangeAbout {
    /// The name that the API has for itself
    #[arg(long, value_name = "NAME")]
    pub(crate) audience: String,
    /// The one request it is for: 'METHOD RESOURCE ID'
    #[arg(long, value_name = "TEXT", value_parser = parse_exchange_request)]
    pub(crate) request: Option<ExchangeRequest>,
    /// Which way the secret goes: an answer to the key's maker, or a request to it
    #[arg(long, value_enum, default_value_t, hide_short_help = true)]
    pub(crate) direction: ExchangeDirection,
}

/// Whose signature counts.
#[derive(Args, Clone, Debug)]
pub(crate) struct Believed {
    /// Believe this peer's signature (name, identifier or file)
    #[arg(long, value_name = "PEER")]
    pub(crate) trust: Vec<String>,
    /// Believe whatever came along: whoever carried it may have put in its own
    #[arg(long, conflicts_with = "trust")]
    pub(crate) trust_any: bool,
}

/// Which way the secret of an exchange goes.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum ExchangeDirection {
    #[default]
    Answer,
    Request,
}

/// What identifies the request that an exchange is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ExchangeRequest {
    pub(crate) method: String,
    pub(crate) resource: String,
    pub(crate) id: String,
}

fn parse_exchange_policy(name: &str) -> Result<ExchangePolicy, String> {
    ExchangePolicy::parse(name).ok_or_else(|| {
        let names = ExchangePolicy::ALL.map(ExchangePolicy::name).join(", ");
        format!("there is no policy `{name}`; there are {names}")
    })
}

fn parse_exchange_request(text: &str) -> Result<ExchangeRequest, String> {
    let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
    match <[String; 3]>::try_from(words) {
        Ok([method, resource, id]) => Ok(ExchangeRequest { method, resource, id }),
        Err(_) => Err("give three words, such as 'GET /cards/7/pin 42'".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeydPolicyCommand {
    /// Say whether a policy can be put in force
    Check {
        /// The file (default: the service's own)
        file: Option<PathBuf>,
        #[command(flatten)]
        at: AtService,
    },
    /// Say rule by rule what a policy decides
    #[command(after_long_help = POLICY_EXAMPLES)]
    Explain {
        /// The file (default: the service's own)
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// uid=N gid=N label=TEXT usage=NAME op=NAME type=NAME hour=N
        wish: Vec<String>,
        #[command(flatten)]
        at: AtService,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that nothing was edited, dropped or moved
    Verify {
        /// Public key of the heads, as noted elsewhere (default: the one that lies beside them)
        #[arg(long, value_name = "HEX")]
        signer: Option<String>,
        #[command(flatten)]
        at: AtService,
    },
    /// List what was done
    Show {
        /// Only so many, the newest
        #[arg(long, default_value_t = 20, value_name = "N")]
        last: usize,
        #[command(flatten)]
        at: AtService,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// Keep a peer under a name
    Add {
        name: String,
        /// Identifier, or file with an exported identity
        peer: String,
    },
    /// List known peers
    Ls,
    /// Forget a peer
    Rm { name: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// Ask a service through two companies' hops; search their bytes and memory for the text
    #[command(after_long_help = DEMO_EXAMPLES)]
    Chain {
        /// The text to send (default: an invented card PIN)
        #[arg(long)]
        text: Option<String>,
        /// Then let a hop attack the channel this many times, and count at both ends what got through
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        #[arg(value_parser = clap::value_parser!(u64).range(..=ATTACKS_MAX))]
        attack: u64,
        /// Let the last link be a broker's queue, such as nats://127.0.0.1, instead of one on disk
        #[arg(long, value_name = "URL", conflicts_with = "attack")]
        broker: Option<BrokerAddress>,
        /// Keep every long-term key in the key service, and search the other processes for them
        #[arg(long)]
        keyd: bool,
    },
    /// Read a PIN through a company that attacks, in three trust modes
    Pin {
        /// Keep the customer's keys, the disposable one too, in the key service
        #[arg(long)]
        keyd: bool,
    },
}

/// Most attacks of one demonstration: what arrives meanwhile is kept to be compared.
const ATTACKS_MAX: u64 = 10_000_000;

#[derive(Debug, Subcommand)]
pub(crate) enum DemoPart {
    Service,
    Hop,
    Client,
}

/// Reads `250ms`, `5s`, `2m` or a number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 =
        number.parse().map_err(|_| "give a number with a unit, such as 500ms, 5s or 2m".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("`{unit}` is no unit; use ms, s or m")),
    }
}

const NODE_EXAMPLES: &str = "Examples:
  A hop that passes messages on to one endpoint and no other:
    onward node start relay --listen tcp:127.0.0.1:4000 --hop hop --allow tcp:127.0.0.1:4001
  The same in the background, and its end:
    onward node start relay --listen tcp:127.0.0.1:4000 --hop hop --background
    onward node stop relay";

const QUEUE_EXAMPLES: &str = "Examples:
  A node that keeps a queue, and lets its peers send to the mailboxes in it:
    onward node start relay --listen tcp:127.0.0.1:4000 --queue cards=./cards --allow 'queue:cards/*'
  What waits in it, and what an acknowledgement of it means:
    onward queue ls
  A service without an open port, which fetches from there:
    onward serve upper --upper --queue cards=tcp:127.0.0.1:4000 --listen queue:cards --trust-any";

const OK2CRY_EXAMPLES: &str = "Examples:
  Whoever wants to be answered in secret makes a key, here bound to one request:
    onward ok2cry new --audience cards --request 'GET /pin 42' --identity app --out shown
  Whoever answers seals to that key, and to nobody else's:
    onward ok2cry seal shown --audience cards --request 'GET /pin 42' --trust app --out sealed
  It opens once; then its end is proved:
    onward ok2cry open --file sealed --trust bank
    onward ok2cry proof shown";

const SERVE_EXAMPLES: &str = "Examples:
  Answer in capitals, through secure channels only, on a port of its own:
    onward serve upper --upper --listen tcp:127.0.0.1:4001 --trust-any
  Run a program for each message:
    onward serve count --exec --listen tcp:127.0.0.1:4002 --trust-any -- wc -w
  Join the node that runs already:
    onward serve upper --upper --trust-any";

const SEND_EXAMPLES: &str = "Examples:
  onward send 'tcp:127.0.0.1:4001 => secure => upper' hello --peer bank
  onward send 'udp:127.0.0.1:4001 => secure => upper' hello --peer bank
  echo hello | onward send 'tcp:127.0.0.1:4001 => upper' - --plain";

const ASK_EXAMPLES: &str =
    "With --peer the last address is the worker inside the channel and the one before it the
channel listener; everything before them only carries bytes that it cannot read.

Examples:
  onward ask 'tcp:127.0.0.1:4001 => secure => upper' hello --peer bank
  onward ask 'tcp:127.0.0.1:4000 => hop => tcp:127.0.0.1:4001 => secure => upper' hello --peer bank
  onward ask 'tcp:127.0.0.1:4001 => upper' hello --plain --deadline 2s";

const EXPLAIN_EXAMPLES: &str = "Examples:
  onward route explain 'tcp:127.0.0.1:4000 => hop => tcp:127.0.0.1:4001 => secure => upper'
  onward route explain 'tcp:127.0.0.1:4001 => upper' --plain";

const POLICY_EXAMPLES: &str = "Examples:
  onward keyd policy explain uid=1000 label=orders/static usage=channel-static op=agree";

const DEMO_EXAMPLES: &str = "Examples:
  onward demo chain
  onward demo chain --text 'my own secret' -o json
  onward demo chain --attack 10000
  onward demo chain --keyd";

const COMPLETION_EXAMPLES: &str = "Examples:
  onward completion bash > ~/.local/share/bash-completion/completions/onward
  onward completion fish > ~/.config/fish/completions/onward.fish";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "s", "5h", "-1s", "1.5s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn no_option_is_named_like_a_secret() {
        fn walk(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                for word in ["secret", "password", "token", "key"] {
                    let is_there = name.split(['_', '-']).any(|part| part == word);
                    assert!(!is_there, "{} {name}", command.get_name());
                }
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
