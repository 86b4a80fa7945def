//! Runs the command with a state directory of its own; what it starts ends with the test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

/// The longest anything here may take, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A state directory that ends with the test.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

/// What a command that ended left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that goes on running; killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// The state directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A file beside the state directory.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The command with these words, in an environment that says nothing else.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onward"));
        command.args(words).env_clear().env("ONWARD_HOME", self.path()).env("PATH", "/usr/bin:/bin");
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Done {
        finish(self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Runs the command to its end with `input` on its standard input.
    pub(crate) fn run_with_input(&self, words: &[&str], input: &[u8]) -> Done {
        let mut command = self.command(words);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that fails early does not read all of it.
        let _ = child.stdin.take().unwrap().write_all(input);
        finish(child)
    }

    /// Starts a command that goes on, and returns the JSON object that it prints first.
    pub(crate) fn start(&self, words: &[&str]) -> (Running, Value) {
        let words = [words, &["-o", "json"]].concat();
        self.start_command(&mut self.command(&words))
    }

    /// As [`Home::start`], of a command that is put together already.
    pub(crate) fn start_command(&self, command: &mut Command) -> (Running, Value) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let mut running = Running { child, output: Some(output) };
        match serde_json::from_str(&line) {
            Ok(value) => (running, value),
            Err(_) => {
                let _ = running.child.kill();
                panic!("it said {line:?} and {}", running.stderr());
            }
        }
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the end; returns how it ended and what it told people.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child);
        (status, self.stderr())
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.output.take());
    }
}

impl Done {
    /// Its standard output, if it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// Its standard output as JSON, if it succeeded.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.ok();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema"], 1, "{text}");
        value
    }

    /// Checks that it failed with this error code and exit code.
    #[track_caller]
    pub(crate) fn fails(&self, code: &str, exit: i32) {
        assert!(self.stderr.contains(&format!("error[{code}]: ")), "{self:?}");
        assert!(self.stderr.contains("help: "), "{self:?}");
        assert_eq!(self.code, exit, "{self:?}");
    }
}

/// Waits until `condition` gives something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal by its name to a process; not every machine has a program for that.
pub(crate) fn signal(pid: u32, name: &str) {
    let signal = match name {
        "CONT" => Signal::CONT,
        "INT" => Signal::INT,
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "TERM" => Signal::TERM,
        other => panic!("no signal {other}"),
    };
    rustix::process::kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[track_caller]
fn finish(mut child: Child) -> Done {
    // Both pipes are read while it runs, or a full one would stop it.
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        let _ = sender.send(text);
    });
    let (out_sender, out_receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        let _ = out_sender.send(bytes);
    });
    let status = wait(&mut child);
    let stdout = String::from_utf8_lossy(&out_receiver.recv_timeout(PATIENCE).unwrap()).into_owned();
    let stderr = receiver.recv_timeout(PATIENCE).unwrap();
    Done { code: status.code().unwrap_or(-1), stdout, stderr }
}

#[track_caller]
fn wait(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the command did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
