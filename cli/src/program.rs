//! What `onward serve` answers with: a program per message, the same bytes, or capitals.
//!
//! A worker handles one message at a time, so a service is one worker that takes the messages and
//! several that handle them; it forwards each to the one with the least to do, and the answer goes
//! straight to who asked. No shell is involved, and a program's output is bounded.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use onward::{Context, Failure, Node, Raw, Route, Worker, WorkerHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::error::{CliError, Code};

/// Largest answer of a program in bytes: what a message carries.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// How a message is answered.
#[derive(Clone, Debug)]
pub(crate) enum Handler {
    /// With its own bytes.
    Echo,
    /// In capitals.
    Upper,
    /// With what this program prints when it gets the payload as input.
    Exec(Arc<[OsString]>),
}

/// A service that runs on a node.
#[derive(Debug)]
pub(crate) struct Service {
    front: WorkerHandle,
    jobs: Vec<WorkerHandle>,
    load: Arc<Load>,
}

/// What a service did until it ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Work {
    /// Messages answered.
    pub(crate) answered: u64,
    /// Messages whose handling failed.
    pub(crate) failed: u64,
    /// Messages in hand when the time to finish was over.
    pub(crate) abandoned: u64,
}

#[derive(Debug)]
struct Load {
    waiting: Vec<AtomicUsize>,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Takes a service's messages and passes each to the job with the least to do.
struct Front {
    routes: Vec<Route>,
    load: Arc<Load>,
}

/// Handles messages, one at a time.
struct Job {
    number: usize,
    handler: Handler,
    load: Arc<Load>,
}

impl Service {
    /// Starts a worker `name` that handles up to `jobs` messages at the same time.
    pub(crate) fn start(node: &Node, name: &str, handler: &Handler, jobs: u16) -> Result<Self, CliError> {
        let taken = |error| CliError::node(Code::AttachRefused, format!("`{name}` cannot be served"), error);
        let load = Arc::new(Load {
            waiting: (0..jobs).map(|_| AtomicUsize::new(0)).collect(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let (mut handles, mut routes) = (Vec::new(), Vec::new());
        for number in 0..usize::from(jobs) {
            // Nothing exposes a job: the front is the only way to it.
            let job = Job { number, handler: handler.clone(), load: Arc::clone(&load) };
            let handle = node.start_worker(&format!("{name}.{}", number + 1), job).map_err(taken)?;
            routes.push(Route::from(handle.address().clone()));
            handles.push(handle);
        }
        let front = node.start_worker(name, Front { routes, load: Arc::clone(&load) }).map_err(taken)?;
        Ok(Self { front, jobs: handles, load })
    }

    /// Takes no more messages, handles those it has, and says what it did; gives up after `drain`.
    pub(crate) async fn drain(self, drain: Duration) -> Work {
        let finish = async {
            self.front.drain().await;
            for job in &self.jobs {
                job.drain().await;
            }
        };
        // What did not end in time is counted below.
        let _ = tokio::time::timeout(drain, finish).await;
        Work {
            answered: self.load.answered.load(Ordering::Relaxed),
            failed: self.load.failed.load(Ordering::Relaxed),
            abandoned: self.load.waiting.iter().map(|count| count.load(Ordering::Relaxed) as u64).sum(),
        }
    }
}

impl Worker for Front {
    type Request = Raw;
    type Reply = onward::NoReply;

    async fn handle(&mut self, context: &mut Context, _: Raw) -> Result<onward::NoReply, Failure> {
        let loads = self.load.waiting.iter().map(|count| count.load(Ordering::Relaxed));
        let least = loads.enumerate().min_by_key(|(_, load)| *load).map_or(0, |(number, _)| number);
        self.load.waiting[least].fetch_add(1, Ordering::Relaxed);
        if let Err(error) = context.forward(&self.routes[least]).await {
            self.load.waiting[least].fetch_sub(1, Ordering::Relaxed);
            let code = error.code();
            context.router().report(error.into_message(), code);
        }
        Ok(onward::NoReply)
    }
}

impl Worker for Job {
    type Request = Raw;
    type Reply = Raw;

    async fn handle(&mut self, _: &mut Context, request: Raw) -> Result<Raw, Failure> {
        let answer = self.handler.answer(&request.0).await;
        let count = if answer.is_ok() { &self.load.answered } else { &self.load.failed };
        count.fetch_add(1, Ordering::Relaxed);
        self.load.waiting[self.number].fetch_sub(1, Ordering::Relaxed);
        answer.map(|bytes| Raw(bytes.into()))
    }
}

impl Handler {
    /// Checks that the program can be found, so that a typing error shows at once.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        let Self::Exec(words) = self else { return Ok(()) };
        let Some(program) = words.first() else {
            return Err(CliError::new(Code::Usage, "--exec needs a program behind `--`"));
        };
        let found = match program.to_string_lossy().contains('/') {
            true => std::path::Path::new(program).is_file(),
            false => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
            }
        };
        match found {
            true => Ok(()),
            false => {
                Err(CliError::new(Code::Program, format!("there is no program `{}`", program.display())))
            }
        }
    }

    async fn answer(&self, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Echo => Ok(payload.to_vec()),
            Self::Upper => match std::str::from_utf8(payload) {
                Ok(text) => Ok(text.to_uppercase().into_bytes()),
                Err(_) => Ok(payload.to_ascii_uppercase()),
            },
            Self::Exec(words) => run_program(words, payload).await,
        }
    }
}

/// Runs a program with `payload` on its input; its output is the answer.
async fn run_program(words: &[OsString], payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let (program, arguments) = words.split_first().ok_or_else(|| Failure::new("no program"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        // Ctrl-C is for the service, which lets its programs finish.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let feed = async {
        if let Some(mut input) = input {
            // A program may end without reading all of its input.
            let _ = input.write_all(payload).await;
        }
    };
    let read = async {
        let mut bytes = Vec::new();
        if let Some(output) = output {
            output.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes).await?;
        }
        if bytes.len() as u64 > ANSWER_BYTES_MAX {
            return Err(Failure::new(format!("the program printed more than {ANSWER_BYTES_MAX} bytes")));
        }
        Ok(bytes)
    };
    let ((), answer) = tokio::join!(feed, read);
    let answer = answer?;
    let status = child.wait().await?;
    match status.success() {
        true => Ok(answer),
        false => Err(Failure::new(format!("the program ended with {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(words: &[&str]) -> Handler {
        Handler::Exec(words.iter().map(OsString::from).collect())
    }

    #[tokio::test]
    async fn programs_get_the_payload_and_their_output_is_the_answer() {
        assert_eq!(exec(&["cat"]).answer(b"a\0b").await.unwrap(), b"a\0b");
        assert_eq!(exec(&["printf", "%s", "$HOME; ls"]).answer(b"").await.unwrap(), b"$HOME; ls", "no shell");
        assert_eq!(Handler::Upper.answer("grüße".as_bytes()).await.unwrap(), "GRÜSSE".as_bytes());
        assert_eq!(Handler::Upper.answer(b"\xffa").await.unwrap(), b"\xffA");
    }

    #[tokio::test]
    async fn a_failing_or_boundless_program_is_a_failure() {
        assert!(exec(&["false"]).answer(b"x").await.is_err());
        assert!(exec(&["/nonexistent"]).answer(b"x").await.is_err());
        assert!(exec(&["yes"]).answer(b"").await.is_err(), "bounded output");
        // More input than a pipe holds, for a program that reads none of it.
        assert!(exec(&["true"]).answer(&vec![0; 1 << 20]).await.unwrap().is_empty());
    }

    #[test]
    fn a_missing_program_is_noticed_before_the_first_message() {
        assert_eq!(exec(&["no-such-program-here"]).check().unwrap_err().code(), Code::Program);
        assert_eq!(exec(&[]).check().unwrap_err().code(), Code::Usage);
        exec(&["cat"]).check().unwrap();
    }
}
