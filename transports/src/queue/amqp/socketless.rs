//! A connection of the AMQP client by a socket that it did not make.
//!
//! The client opens its sockets by the runtime it is given, and encrypts them only by stacks that would be a second
//! implementation of TLS here. So its runtime opens none, and each connection begins with a socket that is ready,
//! encrypted or not, as [`socket::dial`] makes it for every broker.

use core::future::{Future, ready};
use core::time::Duration;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::SocketAddr;
use std::time::Instant;

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::io::{AsyncRead, AsyncWrite};
use futures_util::stream::Stream;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use tokio::time::timeout;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use super::super::BrokerAddress;
use super::super::server::ANSWER;
use super::super::socket::{self, Socket};

/// Connects to the broker at `address`, and greets it as `uri` says.
///
/// # Errors
/// Those of [`socket::dial`], as errors of the client, and of the greeting.
///
/// # Cancel safety
/// It is not connected then; a socket that is there is closed.
pub(super) async fn connect(address: BrokerAddress, uri: AMQPUri) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Socketless(tokio)));
    let dial = async move |_, _| {
        let socket = timeout(ANSWER, socket::dial(&address)).await.map_err(Error::from)??;
        Ok(AsyncTcpStream::Plain(socket.compat()))
    };
    Connection::connector(uri, runtime, dial, ConnectionProperties::default()).await
}

/// What the client waits with: the clock of the runtime, and no sockets.
#[derive(Clone, Debug)]
struct Socketless(Tokio);

impl Reactor for Socketless {
    type TcpStream = Compat<Box<dyn Socket>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(none())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = Result<Self::TcpStream>> + Send + 'static {
        ready(Err(none()))
    }
}

fn none() -> Error {
    Error::from(ErrorKind::Unsupported)
}
