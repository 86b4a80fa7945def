//! The loop of the service: one thread, every client in turn, nothing that waits for one of them.
//!
//! A turn takes a few requests of each client that has any, so that a greedy one costs the others no more than its
//! share; answers leave after what they did is on record. Bytes that carried a secret are wiped as soon as they were
//! read or sent.
//!
//! Specification: docs/protocol.md §7.1.

use std::io::{self, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use onward_keys::WipedBuffer;
use onward_keys::service::{Call, Outcome, Request, frame, put_answer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::peer::Peer;
use crate::policy::Client;
use crate::program::Examiner;
use crate::service::{Caller, Now, REQUEST_BYTES_MAX, Service};

/// Connected clients, at most; further ones wait to be accepted.
pub const CLIENTS_MAX: usize = 256;

/// Requests of a client in one turn while no other client has any.
pub const TURN_ALONE: usize = 16;

/// Requests of a client in one turn while others have some, too.
pub const TURN_SHARED: usize = 1;

/// Answers that wait for a client to read them, in bytes; above, it is asked nothing more of.
pub const UNREAD_BYTES_MAX: usize = 256 * 1024;

/// Runs the service on `listener` until `stop` can be read from; a byte on `hang_up` locks it.
#[derive(Debug)]
pub struct Server {
    /// Who is answered.
    pub listener: UnixListener,
    /// What answers.
    pub service: Service,
    /// Looks at clients' programs, if the policy asked for it at the start.
    pub examiner: Option<Examiner>,
    /// Can be read when the process is to end.
    pub stop: UnixStream,
    /// Can be read when the service is to be locked.
    pub hang_up: UnixStream,
}

impl Server {
    /// Serves until it is told to stop. The service is locked then, and its record complete.
    ///
    /// # Errors
    /// Of the system, when the listener or waiting fails.
    pub fn run(mut self) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        self.hang_up.set_nonblocking(true)?;
        let mut clients: Vec<Connection> = Vec::new();
        let mut due = None;
        loop {
            let ready = self.wait(&clients, due)?;
            if ready.stop {
                // Locked already is as good.
                let _ = self.service.lock(Now::read());
                return Ok(());
            }
            if ready.hang_up {
                self.hang_up()?;
            }
            for (client, events) in clients.iter_mut().zip(&ready.clients) {
                let bytes_max = self.service.request_bytes_max(Now::read(), &client.caller.client);
                client.move_bytes(*events, bytes_max);
            }
            if ready.listener && clients.len() < CLIENTS_MAX {
                clients.extend(self.accept());
            }
            let waiting = clients.iter().filter(|client| client.has_request()).count();
            let turn = if waiting > 1 { TURN_SHARED } else { TURN_ALONE };
            let connected = clients.len() as u32;
            for client in &mut clients {
                client.serve(turn, connected, &mut self.service, self.examiner.as_mut());
            }
            due = self.service.tick(Now::read());
            if self.service.record(Now::read()).is_err() {
                // What is not on record is not answered, and nothing more is done.
                let _ = self.service.lock(Now::read());
                clients.clear();
            }
            for client in &mut clients {
                client.send();
            }
            clients.retain(|client| !client.ended);
        }
    }

    /// Waits until there is something to do.
    ///
    /// `due` is when the key cache has something to do, by the clock that counts sleep.
    fn wait(&self, clients: &[Connection], due: Option<Duration>) -> io::Result<Ready> {
        let busy = clients.iter().any(Connection::has_request);
        // The record gets a signed head a second after the last use.
        let head = self.service.is_unlocked().then_some(Duration::from_secs(1));
        let cache = due.map(|due| due.saturating_sub(Now::read().boot));
        let idle = [head, cache].into_iter().flatten().min();
        let timeout = if busy { Some(Duration::ZERO) } else { idle };
        let timeout = timeout
            .map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() });
        let mut waited = Vec::with_capacity(clients.len() + 3);
        waited.push(PollFd::new(&self.stop, PollFlags::IN));
        waited.push(PollFd::new(&self.hang_up, PollFlags::IN));
        let room = if clients.len() < CLIENTS_MAX { PollFlags::IN } else { PollFlags::empty() };
        waited.push(PollFd::new(&self.listener, room));
        waited.extend(clients.iter().map(|client| PollFd::new(&client.socket, client.interest())));
        match poll(&mut waited, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = waited.iter().map(PollFd::revents);
        let mut is_ready = || events.next().is_some_and(|events| !events.is_empty());
        let (stop, hang_up, listener) = (is_ready(), is_ready(), is_ready());
        Ok(Ready { stop, hang_up, listener, clients: events.collect() })
    }

    fn hang_up(&mut self) -> io::Result<()> {
        let mut signals = [0; 16];
        match io::Read::read(&mut self.hang_up, &mut signals) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        // Locked already is as good.
        let _ = self.service.lock(Now::read());
        Ok(())
    }

    /// Takes the next connection; `None` if its process is gone or it has none.
    fn accept(&mut self) -> Option<Connection> {
        let (socket, _) = self.listener.accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        // Each piece of a request then comes with its sender's credentials.
        sockopt::set_socket_passcred(&socket, true).ok()?;
        let peer = Peer::of(&socket).ok()?;
        let client = Client { uid: peer.uid, gid: peer.gid, exe: None };
        let mut connection = Connection {
            socket,
            peer,
            caller: Caller { client, operator: None },
            input: WipedBuffer::new(),
            output: WipedBuffer::new(),
            request_bytes_max: REQUEST_BYTES_MAX,
            ended: false,
        };
        connection.examine(self.examiner.as_mut());
        Some(connection)
    }
}

/// What there is to do.
struct Ready {
    stop: bool,
    hang_up: bool,
    listener: bool,
    /// In the order of the clients.
    clients: Vec<PollFlags>,
}

/// A client's connection.
#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    peer: Peer,
    caller: Caller,
    /// What came and is not done yet.
    input: WipedBuffer,
    /// Answers that have not left yet.
    output: WipedBuffer,
    /// Bytes of one request, at most; as many wait.
    request_bytes_max: usize,
    ended: bool,
}

impl Connection {
    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        if self.input.len() < self.request_bytes_max + 4 && self.output.len() < UNREAD_BYTES_MAX {
            interest |= PollFlags::IN;
        }
        if !self.output.is_empty() {
            interest |= PollFlags::OUT;
        }
        interest
    }

    /// Whether a whole request waits whose answer there is room for. What cannot be a request counts as one, too.
    fn has_request(&self) -> bool {
        !self.ended && self.output.len() < UNREAD_BYTES_MAX && !matches!(frame(&self.input), Ok(None))
    }

    fn move_bytes(&mut self, events: PollFlags, request_bytes_max: usize) {
        self.request_bytes_max = request_bytes_max;
        if events.contains(PollFlags::OUT) {
            self.send();
        }
        if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.receive();
        }
    }

    fn receive(&mut self) {
        match self.input.fill(CHUNK_BYTES, |room| self.peer.receive(&self.socket, room)) {
            Ok(0) => self.ended = true,
            Ok(_) => self.ended = self.announces_too_much(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended = true,
        }
    }

    /// A frame that is longer than any request ends the connection at its first bytes.
    fn announces_too_much(&self) -> bool {
        self.input
            .first_chunk::<4>()
            .is_some_and(|length| u32::from_be_bytes(*length) as usize > self.request_bytes_max)
    }

    /// Does up to `turn` requests.
    fn serve(
        &mut self,
        turn: usize,
        connected: u32,
        service: &mut Service,
        mut examiner: Option<&mut Examiner>,
    ) {
        for _ in 0..turn {
            if !self.has_request() {
                return;
            }
            let Ok(Some((content, used))) = frame(&self.input) else {
                self.ended = true;
                return;
            };
            let Ok(request) = Request::decode(content) else {
                // Whoever does not speak the protocol is not answered.
                self.ended = true;
                return;
            };
            let id = request.id;
            if service.looks_at_programs() {
                let exe = examiner.as_mut().and_then(|examiner| look(&self.peer, examiner));
                self.caller.client.exe = exe;
            }
            let mut answer = service.answer(Now::read(), &mut self.caller, &request.call);
            if let (Call::Status, Ok(Outcome::State(state))) = (&request.call, &mut answer) {
                state.clients = connected;
            }
            put_answer(&mut self.output, id, &answer);
            self.input.consume(used);
        }
    }

    fn examine(&mut self, examiner: Option<&mut Examiner>) {
        self.caller.client.exe = examiner.and_then(|examiner| look(&self.peer, examiner));
    }

    fn send(&mut self) {
        while !self.output.is_empty() && !self.ended {
            match self.socket.write(&self.output) {
                Ok(0) => self.ended = true,
                Ok(sent) => self.output.consume(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.ended = true,
            }
        }
    }
}

/// The program of the process, if it is still the one that connected.
fn look(peer: &Peer, examiner: &mut Examiner) -> Option<[u8; 32]> {
    let digest = examiner.digest(peer.pid.as_raw_nonzero().get());
    digest.filter(|_| peer.lives())
}

/// Bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;
