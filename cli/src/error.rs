//! What goes wrong for the person who typed a command: one sentence, its causes, what to do about it.
//!
//! Every failure carries a [`Code`]; what the code means, which exit code it ends in and what usually
//! helps is written in `explain`. Nothing here prints a payload or a key.

use std::error::Error;
use std::fmt::Write as _;

use onward::{AskError, ErrorCode, NodeError, SendError};
use serde_json::json;

pub(crate) use crate::explain::{Code, Exit};
use crate::output::paint_error;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct CliError {
    code: Code,
    sentence: String,
    help: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl CliError {
    /// A failure that is said in one sentence: lower case, without a full stop.
    pub(crate) fn new(code: Code, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into(), help: None, source: None }
    }

    /// Says what helps here, in place of what usually helps.
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Names the cause, which is printed below the sentence with its own causes.
    pub(crate) fn because(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// What the node said when it was asked to do `what`.
    pub(crate) fn node(code: Code, what: impl Into<String>, error: NodeError) -> Self {
        Self::new(code, what).because(error)
    }

    /// Why a request or a message along `route` failed.
    pub(crate) fn ask(route: &str, error: AskError) -> Self {
        let (code, sentence) = match &error {
            AskError::NotSent(send) => (Code::of(send_code(send)), "the message was not sent"),
            AskError::Reported { code, .. } => (Code::of(*code), "the request failed on its way"),
            AskError::Deadline(_) => (Code::Deadline, "no answer came in time"),
            AskError::ConnectionLost => {
                (Code::Unreachable, "the connection was lost while waiting for the answer")
            }
            AskError::Answer(_) => (Code::AnswerForm, "the answer cannot be read"),
            AskError::TooManyAsks => (Code::TooManyAsks, "too many requests are waiting"),
            _ => (Code::Internal, "the request failed"),
        };
        Self::new(code, format!("{sentence}, along `{route}`")).because(error)
    }

    /// The code of the failure.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// The help line: the particular one, or the code's.
    pub(crate) fn help_line(&self) -> &str {
        self.help.as_deref().unwrap_or(self.code.help())
    }

    /// The texts of the causes, nearest first, without repetitions.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let mut next = self.source.as_deref().map(|source| source as &(dyn Error + 'static));
        while let Some(cause) = next {
            let text = cause.to_string();
            if causes.last() != Some(&text) {
                causes.push(text);
            }
            next = cause.source();
        }
        causes
    }

    /// The failure as people read it, ending with a line break.
    pub(crate) fn to_text(&self, colour: bool) -> String {
        let mut text = format!(
            "{}: {}\n",
            paint_error(&format!("error[{}]", self.code.number()), colour),
            self.sentence
        );
        for cause in self.causes() {
            let _ = writeln!(text, "  cause: {cause}");
        }
        let _ = writeln!(text, "  help: {}", self.help_line());
        let _ = writeln!(text, "  more: onward explain {}", self.code.number());
        text
    }

    /// The failure as programs read it.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!({
            "schema": 1,
            "error": {
                "code": self.code.number(),
                "message": self.sentence,
                "causes": self.causes(),
                "help": self.help_line(),
                "retryable": self.code.retryable(),
                "exit": self.code.exit() as u8,
            }
        })
    }
}

impl Error for CliError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Writing to standard output failed; a closed pipe is not worth a word.
impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Code::OutputClosed, "standard output was closed"),
            _ => Self::new(Code::Output, "standard output cannot be written").because(error),
        }
    }
}

impl Code {
    /// The code for what a node reported.
    fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Refused => Self::Refused,
            ErrorCode::NoWorker => Self::NoWorker,
            ErrorCode::Unreachable => Self::Unreachable,
            ErrorCode::Overloaded => Self::Overloaded,
            ErrorCode::Expired => Self::Deadline,
            ErrorCode::Stopped => Self::Stopped,
            ErrorCode::Failed => Self::WorkerFailed,
            ErrorCode::TooBig => Self::TooBig,
            ErrorCode::HopLimit => Self::HopLimit,
            ErrorCode::Malformed => Self::Malformed,
            _ => Self::Internal,
        }
    }
}

fn send_code(error: &SendError) -> ErrorCode {
    error.code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_like_rustc_says_it() {
        let io = std::io::Error::new(std::io::ErrorKind::AddrInUse, "address in use");
        let error = CliError::new(Code::Listen, "cannot listen on tcp:127.0.0.1:4000")
            .because(io)
            .help("take another port");
        assert_eq!(
            error.to_text(false),
            "error[E0301]: cannot listen on tcp:127.0.0.1:4000\n  cause: address in use\n  help: take another port\n  more: onward explain E0301\n"
        );
        let json = error.to_json();
        assert_eq!(json["error"]["code"], "E0301");
        assert_eq!(json["error"]["exit"], 73);
        assert_eq!(json["schema"], 1);
    }

    #[test]
    fn colour_is_only_added_when_asked_for() {
        let error = CliError::new(Code::Usage, "x");
        assert!(error.to_text(true).contains('\u{1b}'));
        assert!(!error.to_text(false).contains('\u{1b}'));
    }

    #[test]
    fn a_code_without_particular_help_gives_its_usual_help() {
        assert_eq!(CliError::new(Code::Deadline, "x").help_line(), Code::Deadline.help());
    }
}
