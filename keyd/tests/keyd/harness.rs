//! A service of one's own, and a client that says exactly what a test wants said.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use onward_channels::ok2cry::cache::{CacheCall, CacheRefusal, CacheReply, CacheReplyError, CacheRequest};
use onward_keys::general::request::GeneralCall;
use onward_keys::general::{Form, Mode, Scheme};
use onward_keys::service::{Call, KeyMeta, NewKey, Refusal, Reply, ReplyError, Request, frame};
use onward_keys::{KeyId, KeyUsage, SignatureType, WipedBuffer};

pub(crate) const PASSPHRASE: &str = "a passphrase of a test";

/// What every test waits for at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running service in a directory of its own.
pub(crate) struct Daemon {
    home: tempfile::TempDir,
    child: Child,
    /// What it said of its protection.
    pub(crate) lines: Vec<String>,
}

impl Daemon {
    /// Starts an unlocked service with this policy.
    pub(crate) fn start(policy: &str) -> Self {
        Self::start_as(policy, &[], None)
    }

    /// With further options, and as another user if one is named.
    pub(crate) fn start_as(policy: &str, options: &[&str], uid: Option<u32>) -> Self {
        let home = private_dir();
        std::fs::write(home.path().join("policy.toml"), policy).unwrap();
        if let Some(uid) = uid {
            std::os::unix::fs::chown(home.path(), Some(uid), Some(uid)).unwrap();
            std::os::unix::fs::chown(home.path().join("policy.toml"), Some(uid), Some(uid)).unwrap();
        }
        let (child, lines) = spawn(home.path(), options, uid).expect("the service starts");
        Self { home, child, lines }
    }

    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("keyd.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client that nobody has told the passphrase.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// A client that has shown the passphrase.
    pub(crate) fn operator(&self) -> Client {
        let mut client = self.client();
        client.unlock(PASSPHRASE).unwrap();
        client
    }

    /// Puts another policy in the place of the present one.
    pub(crate) fn set_policy(&self, policy: &str) {
        std::fs::write(self.path().join("policy.toml"), policy).unwrap();
        self.client().done(Call::Reload).unwrap();
    }

    /// Ends it without a word, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        let (child, lines) = spawn(self.path(), &[], None).expect("the service starts again");
        (self.child, self.lines) = (child, lines);
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as a service manager does, and waits for that.
    pub(crate) fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// As [`crash`](crate::memory::crash).
    pub(crate) fn crash(&mut self) -> crate::memory::Crash {
        crate::memory::crash(&mut self.child)
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory as the service makes its own.
pub(crate) fn private_dir() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_onward-keyd")
}

/// A copy of the program in `home`: other users may not reach the folder that it was built in.
pub(crate) fn copied_binary(home: &Path) -> PathBuf {
    let copy = home.join("program");
    std::fs::copy(binary(), &copy).unwrap();
    copy
}

/// Starts a service and waits until it is ready; what it said instead, if it is not.
pub(crate) fn spawn(home: &Path, options: &[&str], uid: Option<u32>) -> Result<(Child, Vec<String>), String> {
    let program = if uid.is_some() { copied_binary(home) } else { binary().into() };
    let mut command = Command::new(program);
    command.args(["serve", "--unlock-stdin", "--create", "--dir"]).arg(home).args(options);
    // A core would be left there.
    command.current_dir(home);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let mut child = command.spawn().unwrap();
    // One that refuses to start may be gone before it has read this.
    let _ = writeln!(child.stdin.take().unwrap(), "{PASSPHRASE}");
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        match line.unwrap() {
            line if line == "ready" => return Ok((child, lines)),
            line => lines.push(line),
        }
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    Err(format!("{} {said}", status.code().unwrap_or(-1)))
}

/// A client that waits for each answer.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    input: Vec<u8>,
    next: u32,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Not {
    Refused(Refusal),
    /// The service closed the connection.
    Closed,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).unwrap())
    }

    pub(crate) fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, input: Vec::new(), next: 0 }
    }

    pub(crate) fn unlock(&mut self, passphrase: &str) -> Result<(), Not> {
        self.done(Call::Unlock { passphrase: passphrase.as_bytes(), create: false })
    }

    pub(crate) fn done(&mut self, call: Call<'_>) -> Result<(), Not> {
        self.ask(call, |reply| reply.done())
    }

    /// Asks for what yields bytes.
    pub(crate) fn bytes(&mut self, call: GeneralCall<'_>) -> Result<Vec<u8>, Not> {
        self.ask(Call::General(call), |reply| reply.bytes()).map(|bytes| bytes.to_vec())
    }

    pub(crate) fn key(&mut self, call: Call<'_>) -> Result<KeyMeta, Not> {
        self.ask(call, |reply| reply.key())
    }

    pub(crate) fn make(&mut self, usage: KeyUsage, label: &str) -> KeyMeta {
        self.key(Call::Generate(NewKey { usage, label, expires: None, extractable: false })).unwrap()
    }

    pub(crate) fn list(&mut self) -> Vec<KeyMeta> {
        self.ask(Call::List, |reply| reply.keys()).unwrap()
    }

    pub(crate) fn sign(&mut self, key: KeyId, kind: SignatureType, body: &[u8]) -> Result<[u8; 64], Not> {
        self.ask(Call::Sign { key, kind, body }, |reply| reply.signature())
    }

    pub(crate) fn agree(&mut self, key: KeyId, peer: &[u8; 32]) -> Result<[u8; 32], Not> {
        self.ask(Call::Agree { key, peer }, |reply| reply.shared()).map(|secret| *secret.as_bytes())
    }

    /// Asks the key cache, and answers with what `read` makes of the answer.
    pub(crate) fn cache<T>(
        &mut self,
        call: CacheCall<'_>,
        read: impl FnOnce(&CacheReply<'_>) -> Result<T, CacheReplyError>,
    ) -> Result<Result<T, CacheRefusal>, Not> {
        let request = CacheRequest { id: 9, call }.encode();
        let answer = self.ask(Call::Cache(&request), |reply| reply.cache().map(<[u8]>::to_vec))?;
        let reply = CacheReply::decode(&answer).unwrap();
        assert_eq!(reply.id, 9);
        Ok(read(&reply).map_err(|error| match error {
            CacheReplyError::Refused(refusal) => refusal,
            other => panic!("{other}"),
        }))
    }

    /// Asks, and answers with what `read` makes of the answer.
    pub(crate) fn ask<T>(
        &mut self,
        call: Call<'_>,
        read: impl FnOnce(&Reply<'_>) -> Result<T, ReplyError>,
    ) -> Result<T, Not> {
        self.next += 1;
        self.send(&Request { id: self.next, call });
        let content = self.receive().ok_or(Not::Closed)?;
        let reply = Reply::decode(&content).unwrap();
        assert_eq!(reply.id, self.next);
        read(&reply).map_err(|error| match error {
            ReplyError::Refused(refusal) => Not::Refused(refusal),
            other => panic!("{other}"),
        })
    }

    pub(crate) fn send(&mut self, request: &Request<'_>) {
        let mut framed = WipedBuffer::new();
        request.put(&mut framed);
        // One that is closed says so at the next read.
        let _ = self.stream.write_all(&framed);
    }

    /// The content of the next answer's frame; `None` when the service has closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((content, used)) = frame(&self.input).unwrap() {
                let content = content.to_vec();
                self.input.drain(..used);
                return Some(content);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The public half of a protocol's key.
pub(crate) fn half(key: &KeyMeta) -> [u8; 32] {
    key.public[..].try_into().unwrap()
}

/// Every operation of a key of general use, and those without a key, with arguments that are fine as such.
pub(crate) fn general_calls(key: KeyId) -> Vec<GeneralCall<'static>> {
    let usage = KeyUsage::parse("hmac-sha256:mac").unwrap();
    let new = NewKey { usage, label: "unwrapped", expires: None, extractable: false };
    vec![
        GeneralCall::SignRaw { key, scheme: Scheme::Ed25519, message: b"message" },
        GeneralCall::Verify { key, scheme: Scheme::Ed25519, message: b"message", signature: &[7; 64] },
        GeneralCall::EcdhKdf { key, peer: &[9; 32], info: b"info", bytes: 32 },
        GeneralCall::HpkeOpen { key, enc: &[4; 65], info: b"", aad: b"", ciphertext: &[7; 40] },
        GeneralCall::Encrypt { key, mode: Mode::GcmSiv, aad: b"", data: b"data" },
        GeneralCall::Encrypt { key, mode: Mode::CbcHmac, aad: b"", data: b"data" },
        GeneralCall::Decrypt { key, mode: Mode::GcmSiv, aad: b"", sealed: &[7; 64] },
        GeneralCall::Decrypt { key, mode: Mode::CbcHmac, aad: b"", sealed: &[7; 64] },
        GeneralCall::Wrap { with: key, key, form: Form::Kwp },
        GeneralCall::Unwrap { with: key, form: Form::Sealed, wrapped: b"wrapped", new },
        GeneralCall::Unwrap { with: key, form: Form::Oaep, wrapped: &[7; 256], new },
        GeneralCall::Mac { key, data: b"data" },
        GeneralCall::Encapsulate(key),
        GeneralCall::Decapsulate { key, ciphertext: &[7; 1088] },
        GeneralCall::Random { bytes: 16 },
        GeneralCall::Seal { label: "state", aad: b"", data: b"data" },
        GeneralCall::Open { label: "state", aad: b"", sealed: &[7; 64] },
        GeneralCall::Narrow(key),
    ]
}

/// Every operation, with arguments that are fine as such.
pub(crate) fn calls(key: KeyId) -> Vec<Call<'static>> {
    let new = NewKey { usage: KeyUsage::CredentialSigning, label: "new", expires: None, extractable: false };
    let mut calls = vec![
        Call::Generate(new),
        Call::Import { key: NewKey { label: "imported", ..new }, id: None, secret: &[0x77; 32] },
        Call::Public(key),
        Call::Sign { key, kind: SignatureType::Credential, body: b"body" },
        Call::Agree { key, peer: &[9; 32] },
        Call::Attest { key, body: b"body" },
        Call::Disable(key),
        Call::Enable(key),
    ];
    calls.extend(general_calls(key).into_iter().map(Call::General));
    calls.push(Call::Destroy(key));
    calls
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
