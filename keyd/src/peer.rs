//! Who is at the other end of a connection, as the kernel tells it, and that nobody else ever speaks there.
//!
//! The process is known when it connects. Every piece of a request comes with the credentials of its sender: a
//! descriptor that was passed on, inherited or kept by a fork is noticed at its first use.
//!
//! Specification: docs/protocol.md §7.1.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, UCred, recvmsg, sockopt,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The process at the other end.
#[derive(Debug)]
pub struct Peer {
    /// Its number.
    pub pid: Pid,
    /// Its user's number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// A handle to this process, whoever gets its number later.
    handle: OwnedFd,
}

impl Peer {
    /// The process that connected `socket`.
    ///
    /// # Errors
    /// Of the system; the process may be gone already.
    pub fn of(socket: &UnixStream) -> io::Result<Self> {
        let found = sockopt::socket_peercred(socket)?;
        let handle = pidfd_open(found.pid, PidfdFlags::empty())?;
        let peer = Self { pid: found.pid, uid: found.uid.as_raw(), gid: found.gid.as_raw(), handle };
        // The number may have been given to another process between the two calls.
        let again = sockopt::socket_peercred(socket)?;
        if !peer.sent(&again) || !peer.lives() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(peer)
    }

    /// Whether the process still runs.
    #[must_use]
    pub fn lives(&self) -> bool {
        let mut ended = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut ended, Some(&Timespec::default())) == Ok(0)
    }

    fn sent(&self, sender: &UCred) -> bool {
        (sender.pid, sender.uid.as_raw(), sender.gid.as_raw()) == (self.pid, self.uid, self.gid)
    }

    /// Puts what has come on `socket` into `room`, and says how many bytes; 0 at its end.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] when somebody else sent it, or a descriptor came with it.
    pub fn receive(&self, socket: &UnixStream, room: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut control, flags)?;
        let mut by_peer = false;
        let mut foreign = received.flags.contains(ReturnFlags::CTRUNC);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmCredentials(sender) => by_peer = self.sent(&sender),
                // Dropping them closes them.
                _ => foreign = true,
            }
        }
        if received.bytes > 0 && (!by_peer || foreign) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(received.bytes)
    }
}
