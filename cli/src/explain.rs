//! The error codes: for each its number, exit code, usual help and the text `onward explain` prints.
//!
//! Families: E01 usage and configuration, E02 identity, state and policy, E03 links and handshakes,
//! E04 routing, E05 queues, E07 the key service, E08 resources, E09 the command itself. A number never changes its meaning.

/// What a process ends with, after the habits of `sysexits`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// It failed for a reason that is not one of those below.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Something that is needed is not there.
    Unavailable = 69,
    /// A file, a lock or a listener cannot be made.
    CannotCreate = 73,
    /// It may work when tried again.
    TryAgain = 75,
    /// Policy does not allow it.
    NotAllowed = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// Every failure a person can meet. The order is that of the numbers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub(crate) enum Code {
    Usage,
    Unquoted,
    Route,
    ChannelOrPlain,
    TrustMissing,
    ConfigFile,
    UnknownNumber,
    Name,
    NoEntry,
    Input,
    Environment,
    Program,
    Output,
    OutputClosed,
    Identity,
    IdentityInUse,
    Peer,
    StateUnsafe,
    StateWrite,
    NodeRuns,
    NoNode,
    WhichNode,
    AttachRefused,
    Listen,
    Connect,
    Channel,
    Control,
    Refused,
    NoWorker,
    Unreachable,
    Deadline,
    WorkerFailed,
    TooBig,
    HopLimit,
    Malformed,
    Stopped,
    AnswerForm,
    Queue,
    NoQueue,
    KeydUnreachable,
    Doctor,
    KeyRefused,
    KeydLocked,
    KeydMissing,
    Policy,
    Audit,
    Exchange,
    KeyGone,
    Unproved,
    Overloaded,
    TooManyAsks,
    InputTooBig,
    Internal,
    DemoFailed,
}

/// What is known about a code.
struct Entry {
    number: &'static str,
    exit: Exit,
    help: &'static str,
    text: &'static str,
}

impl Code {
    /// All codes. Its length follows from the last variant, so none can be left out.
    pub(crate) const ALL: [Self; Self::DemoFailed as usize + 1] = [
        Self::Usage,
        Self::Unquoted,
        Self::Route,
        Self::ChannelOrPlain,
        Self::TrustMissing,
        Self::ConfigFile,
        Self::UnknownNumber,
        Self::Name,
        Self::NoEntry,
        Self::Input,
        Self::Environment,
        Self::Program,
        Self::Output,
        Self::OutputClosed,
        Self::Identity,
        Self::IdentityInUse,
        Self::Peer,
        Self::StateUnsafe,
        Self::StateWrite,
        Self::NodeRuns,
        Self::NoNode,
        Self::WhichNode,
        Self::AttachRefused,
        Self::Listen,
        Self::Connect,
        Self::Channel,
        Self::Control,
        Self::Refused,
        Self::NoWorker,
        Self::Unreachable,
        Self::Deadline,
        Self::WorkerFailed,
        Self::TooBig,
        Self::HopLimit,
        Self::Malformed,
        Self::Stopped,
        Self::AnswerForm,
        Self::Queue,
        Self::NoQueue,
        Self::KeydUnreachable,
        Self::Doctor,
        Self::KeyRefused,
        Self::KeydLocked,
        Self::KeydMissing,
        Self::Policy,
        Self::Audit,
        Self::Exchange,
        Self::KeyGone,
        Self::Unproved,
        Self::Overloaded,
        Self::TooManyAsks,
        Self::InputTooBig,
        Self::Internal,
        Self::DemoFailed,
    ];

    /// The code with this number, as `E0404` or `404`.
    pub(crate) fn find(number: &str) -> Option<Self> {
        let digits = number.trim_start_matches(['E', 'e']);
        let wanted = format!("E{digits:0>4}");
        Self::ALL.into_iter().find(|code| code.number() == wanted)
    }

    /// The number people quote, `E` and four digits.
    pub(crate) fn number(self) -> &'static str {
        self.entry().number
    }

    /// What the process ends with.
    pub(crate) fn exit(self) -> Exit {
        self.entry().exit
    }

    /// What usually helps, in one line.
    pub(crate) fn help(self) -> &'static str {
        self.entry().help
    }

    /// What `onward explain` prints.
    pub(crate) fn text(self) -> &'static str {
        self.entry().text
    }

    /// Whether the same command may succeed later without being changed.
    pub(crate) fn retryable(self) -> bool {
        self.exit() == Exit::TryAgain
    }

    fn entry(self) -> Entry {
        let entry = |number, exit, help, text| Entry { number, exit, help, text };
        match self {
            Self::Usage => entry(
                "E0101",
                Exit::Usage,
                "run `onward help` or the command with --help",
                "The command line has a word or an option that the command does not know, or lacks one that it needs.",
            ),
            Self::Unquoted => entry(
                "E0102",
                Exit::Usage,
                "quote the route: onward ask 'tcp:127.0.0.1:4000 => upper' hello --plain",
                "A route has ` => ` between its addresses, and an unquoted `>` is a redirection to the shell: the rest of the route became the name of a file. Put the route into single quotes. The shell may have made an empty file with the name of the next address; remove it.",
            ),
            Self::Route => entry(
                "E0103",
                Exit::Usage,
                "write addresses with ` => ` between them: 'tcp:127.0.0.1:4000 => hop => upper'",
                "A route is 1 to 16 addresses with ` => ` between them. An address is a worker's name (letters, digits, `_`, `-`, `.`; at most 64) or an endpoint such as tcp:host:4000, tcp:127.0.0.1:4000 or tcp:[::1]:4000. A name that stands alone may also be one from the route book.",
            ),
            Self::ChannelOrPlain => entry(
                "E0104",
                Exit::Usage,
                "add --peer I… for a secure channel, or --plain to send readable bytes",
                "Whoever carries a message can read it unless it travels in a secure channel. The command has no default: --peer names the identity that must be at the end of the route, --plain says that everybody on the way may read and change the message.",
            ),
            Self::TrustMissing => entry(
                "E0105",
                Exit::Usage,
                "add --trust PEER for each peer that is to be believed, or --trust-any",
                "A channel listener needs to know who may open channels with it, and whoever seals or opens needs to know whose signature counts. --trust takes a name from the list of peers, a file with an exported identity, or an identifier; --trust-any lets everybody in who proves any identity at all, and believes a disposable key for having come along.",
            ),
            Self::ConfigFile => entry(
                "E0106",
                Exit::Config,
                "see `onward node start --help` for the keys, which are the options' names",
                "The configuration file cannot be read, is not TOML, or has a key that does not exist. Keys are name, listen, expose, hop, allow, channels, trust, trust-any, channel-expose and identity, as the options of `onward node start`.",
            ),
            Self::UnknownNumber => entry(
                "E0107",
                Exit::Usage,
                "onward explain lists all codes",
                "Error codes are an E and four digits, as they stand in an error message.",
            ),
            Self::Name => entry(
                "E0108",
                Exit::Usage,
                "use letters, digits, `_`, `-` and `.`, at most 64 of them",
                "Names of nodes, workers, routes, peers and identities follow one rule: 1 to 64 letters, digits, `_`, `-` and `.`. They become file names too, so `.` and `..` are refused.",
            ),
            Self::NoEntry => entry(
                "E0109",
                Exit::Failed,
                "list what there is with `ls`",
                "The name is not in the route book or the list of peers of this state directory (ONWARD_HOME).",
            ),
            Self::Input => entry(
                "E0110",
                Exit::Failed,
                "check the file's name and its mode",
                "The file or standard input that should have been sent cannot be read.",
            ),
            Self::Environment => entry(
                "E0111",
                Exit::Config,
                "unset the variable or give it one of the values named above",
                "One of the environment's settings has a value that cannot be used. The command reads ONWARD_HOME, ONWARD_CONFIG, ONWARD_LOG, ONWARD_LOG_FORMAT, ONWARD_OUTPUT, ONWARD_TIMEOUT and NO_COLOR.",
            ),
            Self::Program => entry(
                "E0112",
                Exit::Unavailable,
                "try to run the program yourself; everything after `--` is the program and its arguments",
                "The program behind `serve --exec` cannot be started. No shell is involved: the first word is the program, looked up in PATH, the others are its arguments as they are.",
            ),
            Self::Output => entry(
                "E0113",
                Exit::Failed,
                "check that there is space left where the output goes",
                "Standard output, or the file that was named for it, cannot be written.",
            ),
            Self::OutputClosed => entry(
                "E0114",
                Exit::Ok,
                "nothing to do: the reader of the output has seen enough",
                "The reader of a pipe, such as `head`, ended before all was written. The command ends quietly with exit code 0.",
            ),
            Self::Identity => entry(
                "E0201",
                Exit::Failed,
                "onward identity create NAME makes one",
                "An identity is a key pair whose private half stays in the state directory, with a public history. It is missing, damaged, or cannot be used.",
            ),
            Self::IdentityInUse => entry(
                "E0202",
                Exit::TryAgain,
                "wait, stop the process that uses it, or name another with --identity",
                "One process at a time holds the keys of an identity: a running node, a served program, or a command with --identity. The lock ends with the process, however it ends.",
            ),
            Self::Peer => entry(
                "E0203",
                Exit::NotAllowed,
                "compare the identifier with the one the other side prints at its start",
                "The text is no identifier (an I and 64 digits), no known peer's name and no file with an exported identity; or somebody else than the expected peer answered.",
            ),
            Self::StateUnsafe => entry(
                "E0204",
                Exit::NotAllowed,
                "chmod 700 the directory, or set ONWARD_HOME to one of your own",
                "The state directory holds private keys, so it must belong to you and be closed to everybody else (mode 0700). The command does not change the mode of a directory that it did not make.",
            ),
            Self::StateWrite => entry(
                "E0205",
                Exit::CannotCreate,
                "check space and permissions of the state directory, or set ONWARD_HOME",
                "A file of the state directory cannot be read or written. Files are replaced whole: written beside the old one, synced, then renamed, so the old content is still there.",
            ),
            Self::NodeRuns => entry(
                "E0206",
                Exit::CannotCreate,
                "give the node another name, or stop the running one: onward node stop NAME",
                "A node holds a lock on its directory as long as it runs, and another process holds it. The lock ends with the process, however it ends.",
            ),
            Self::NoNode => entry(
                "E0207",
                Exit::Unavailable,
                "start one: onward node start NAME --listen tcp:127.0.0.1:4000 --background",
                "The command needs a node that runs under this state directory, and there is none of that name.",
            ),
            Self::WhichNode => entry(
                "E0208",
                Exit::Usage,
                "name one with --node NAME; onward node ls lists them",
                "More than one node runs under this state directory and the command does not guess.",
            ),
            Self::AttachRefused => entry(
                "E0209",
                Exit::CannotCreate,
                "serve under another name; onward status lists the names in use",
                "The node already has a worker or a served program of that name.",
            ),
            Self::Listen => entry(
                "E0301",
                Exit::CannotCreate,
                "take another port (0 lets the system choose) or stop what listens there",
                "The node cannot listen on the address: it is in use, not one of this machine's, or needs more rights.",
            ),
            Self::Connect => entry(
                "E0302",
                Exit::Unavailable,
                "check that the other node runs and listens on that address",
                "The first node of the route cannot be connected to.",
            ),
            Self::Channel => entry(
                "E0303",
                Exit::Unavailable,
                "check each hop with `onward route explain`, and that the one before the last address is the channel listener",
                "The handshake of the secure channel did not complete: the channel listener cannot be reached, it does not trust this identity, it has as many channels as it may have, or somebody else than the expected peer answered. An untrusted peer is answered with silence, so this may also end as a deadline.",
            ),
            Self::Control => entry(
                "E0304",
                Exit::Unavailable,
                "onward node ls shows which nodes run",
                "The running node does not answer on its control socket. Only the owner of the state directory may use it.",
            ),
            Self::Refused => entry(
                "E0401",
                Exit::NotAllowed,
                "on the node that refused: expose the worker or hop on that listener, or allow the next endpoint with --allow",
                "Policy of a node on the way does not let the message go on. Nothing is reachable from outside unless it is exposed (--expose, --hop, --channels), and no endpoint is dialled for others unless it is allowed (--allow). A node tells strangers no more than `refused`.",
            ),
            Self::NoWorker => entry(
                "E0402",
                Exit::Unavailable,
                "check the spelling; `onward status --node NAME` lists a node's workers",
                "The node that was reached has no worker of that name.",
            ),
            Self::Unreachable => entry(
                "E0403",
                Exit::TryAgain,
                "check that the next node runs; whether the message was handled is unknown",
                "A connection on the way cannot be made or was lost. If the message had left already, it is unknown whether it was handled: repeat only what may happen twice.",
            ),
            Self::Deadline => entry(
                "E0404",
                Exit::TryAgain,
                "give more time with --deadline, or check each hop with `onward route explain`",
                "No answer came before the deadline. A node that refuses a stranger's message says nothing by default, so a hop that is not exposed, an endpoint that is not allowed or an untrusted identity ends this way too. Whether the message was handled is unknown.",
            ),
            Self::WorkerFailed => entry(
                "E0405",
                Exit::Failed,
                "read the log of the serving side: it has the reason, strangers are not told",
                "The worker received the message and failed while it handled it. For a served program: it ended with another exit code than 0, was killed, or wrote more than fits into a message.",
            ),
            Self::TooBig => entry(
                "E0406",
                Exit::Failed,
                "send less at a time",
                "The message is larger than a node or transport on its way carries.",
            ),
            Self::HopLimit => entry(
                "E0407",
                Exit::Failed,
                "look for a relay that leads back to itself",
                "The message was passed on more often than its hop budget allows, or a route grew beyond 16 addresses.",
            ),
            Self::Malformed => entry(
                "E0408",
                Exit::Failed,
                "send what the worker expects",
                "The worker takes another form of message.",
            ),
            Self::Stopped => entry(
                "E0409",
                Exit::TryAgain,
                "ask again once it runs",
                "The worker stopped before it answered.",
            ),
            Self::AnswerForm => entry(
                "E0410",
                Exit::Failed,
                "use the same version on both sides",
                "An answer came but has another form than the command expects.",
            ),
            Self::Queue => entry(
                "E0501",
                Exit::CannotCreate,
                "check the folder, its owner and its disk",
                "A queue cannot be opened or used: its folder is in use by another process, is open to other users, cannot be written, or its disk is full.",
            ),
            Self::NoQueue => entry(
                "E0502",
                Exit::Failed,
                "list the node's queues with `onward queue ls`",
                "The node has no queue of this name.",
            ),
            Self::KeydUnreachable => entry(
                "E0701",
                Exit::Unavailable,
                "start it with onward keyd start, or name its directory with --service",
                "The key service is a process of its own that holds private keys. It cannot be reached at its socket, runs as another user than the owner of its directory, or did not answer in 2 s. What was asked may have been done.",
            ),
            Self::Doctor => entry(
                "E0702",
                Exit::Failed,
                "the table above says for each check what was found",
                "onward doctor found something that has to be changed. Keys that may be written to swap: raise LimitMEMLOCK for onward-keyd, or use a kernel that has memfd_secret. A locked service: onward keyd unlock.",
            ),
            Self::KeyRefused => entry(
                "E0703",
                Exit::NotAllowed,
                "onward keyd policy explain says which rule decides",
                "The key service did not do what was asked: no rule of its policy allows it, there is no such key, the passphrase is wrong, or the key's usage, label or state forbid it. A key that may not be used and one that does not exist are not told apart.",
            ),
            Self::KeydLocked => entry(
                "E0704",
                Exit::Unavailable,
                "onward keyd unlock asks for the passphrase",
                "The key service is locked: its private keys are sealed on disk, none is in memory. It is locked after its start until the passphrase is given, by onward keyd lock, and by SIGHUP.",
            ),
            Self::KeydMissing => entry(
                "E0705",
                Exit::Unavailable,
                "cargo build --release --package onward-keyd puts it beside onward",
                "The program onward-keyd cannot be found or started, or ended before it was ready. It is looked for beside onward and in PATH.",
            ),
            Self::Policy => entry(
                "E0706",
                Exit::Config,
                "docs/key-service.md lists what a rule can say",
                "The policy file is not TOML, has a word that is not known, or a rule that says what cannot be. A rule that was misspelt is an error, because it could quietly allow more than was meant.",
            ),
            Self::Audit => entry(
                "E0707",
                Exit::Failed,
                "compare with a copy of audit.log and audit.heads that was made before",
                "The record of the key service cannot be read, or a leaf or head does not fit: something was edited, dropped or moved. The cause names the first one that does not fit.",
            ),
            Self::Exchange => entry(
                "E0708",
                Exit::NotAllowed,
                "onward ok2cry inspect shows what a key or something sealed says",
                "A disposable key, or what was sealed to one, was refused: nobody who is trusted signed it, its time is over, it is for another audience, request or direction, or the content does not follow the schema that the key names. Except with the policy noise, whose sealer is shown inside, what was sealed is verified before its key is used, so that a forgery costs no key.",
            ),
            Self::KeyGone => entry(
                "E0709",
                Exit::Unavailable,
                "have another key made: onward ok2cry new; what became of this one: onward ok2cry proof",
                "There is no such disposable key for you: it was used, its time was over, the key service was locked or started again since, or it is somebody else's. A key opens once, and these are not told apart.",
            ),
            Self::Unproved => entry(
                "E0710",
                Exit::Failed,
                "try again in a second; if it stays, compare the heads of the log that others have seen",
                "The log of the key cache does not prove what it should: a head is not signed by the key that was noted when the disposable key was made, the log is not the one seen before, grown, or a leaf is not in it.",
            ),
            Self::Overloaded => entry(
                "E0801",
                Exit::TryAgain,
                "wait, or let the service do more at a time with --jobs",
                "A mailbox or connection on the way is full.",
            ),
            Self::TooManyAsks => entry(
                "E0802",
                Exit::TryAgain,
                "wait for answers first",
                "The node already waits for as many answers as its limits allow.",
            ),
            Self::InputTooBig => entry(
                "E0803",
                Exit::Failed,
                "split it; `onward limits` shows the largest payload",
                "A message carries at most 1 MiB; what is sealed to a disposable key has at most 1 MiB, or 65,535 bytes in the Noise policies.",
            ),
            Self::Internal => entry(
                "E0901",
                Exit::Failed,
                "run it again with ONWARD_LOG=debug and report what it prints",
                "The command met something that should not happen.",
            ),
            Self::DemoFailed => entry(
                "E0902",
                Exit::Failed,
                "run it again with ONWARD_LOG=debug",
                "A part of the demonstration did not do what it should: it did not start, its answer was wrong, or the text was found where it must not be.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_number_help_and_text_and_they_are_distinct_and_sorted() {
        for (place, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, place, "{code:?} stands at its place");
            assert!(code.number().len() == 5 && code.number().starts_with('E'), "{code:?}");
            assert!(code.number()[1..].bytes().all(|digit| digit.is_ascii_digit()), "{code:?}");
            assert!(code.help().len() > 10 && !code.help().ends_with('.'), "{code:?}");
            assert!(code.text().len() > 30 && code.text().ends_with('.'), "{code:?}");
        }
        assert!(Code::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
    }

    #[test]
    fn families_have_the_exit_codes_they_promise() {
        for code in Code::ALL {
            let family = &code.number()[..3];
            assert!(["E01", "E02", "E03", "E04", "E05", "E07", "E08", "E09"].contains(&family), "{code:?}");
            assert_eq!(code.exit() == Exit::Ok, code == Code::OutputClosed, "{code:?}");
        }
        assert_eq!(Code::Deadline.exit() as u8, 75);
        assert_eq!(Code::Refused.exit() as u8, 77);
        assert!(Code::Unreachable.retryable() && !Code::NoWorker.retryable());
    }

    #[test]
    fn a_code_is_found_however_it_is_written() {
        for text in ["E0404", "e0404", "0404", "404"] {
            assert_eq!(Code::find(text), Some(Code::Deadline), "{text}");
        }
        assert_eq!(Code::find("E9999"), None);
        assert_eq!(Code::find("no"), None);
    }
}
