//! Two nodes, connected over TCP, with or without a secure channel and a hop node between them.

use onward::{
    Channel, ChannelListener, Connection, Echo, Identity, Listener, Node, NodeRoute, Peer, Route, Trust,
};

/// A client and a server, and how the client reaches workers of the server.
pub(crate) struct Pair {
    pub(crate) client: Node,
    pub(crate) server: Node,
    pub(crate) way: Way,
    /// Kept: dropped, it would listen no more.
    pub(crate) _listener: Listener,
    _hop: Option<(Node, Listener)>,
}

pub(crate) enum Way {
    Plain(Connection, Listener),
    Channel(Box<Secured>),
}

pub(crate) struct Secured {
    pub(crate) channel: Channel,
    pub(crate) listener: ChannelListener,
    pub(crate) alice: Identity,
    pub(crate) bank: Identity,
    pub(crate) route: Route,
}

pub(crate) fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// Handshakes are counted in thousands on one connection: the rate limit is another bench's matter.
pub(crate) fn limits() -> onward::Limits {
    let mut limits = onward::Limits::default();
    limits.channels.listener.new_per_second = 1_000_000;
    limits.channels.listener.new_burst = 1_000_000;
    limits.channels.listener.half_open_per_flow_max = 1024;
    limits.channels.listener.half_open_per_flow_cookie = 1024;
    limits
}

impl Pair {
    /// Connected over TCP, without a channel.
    pub(crate) async fn tcp() -> Self {
        let (client, server) = nodes().await;
        let listener = must(server.listen_tcp("127.0.0.1:0").await);
        must(listener.expose("echo"));
        let connection = must(client.connect_tcp(listener.local_address()).await);
        Self::plain(client, server, connection, listener)
    }

    /// Of nodes that are connected already, without a channel.
    pub(crate) fn plain(client: Node, server: Node, connection: Connection, listener: Listener) -> Self {
        let way = Way::Plain(connection, listener.clone());
        Self { client, server, way, _listener: listener, _hop: None }
    }

    /// With a secure channel, through a hop node if `hop`.
    pub(crate) async fn channel(hop: bool) -> Self {
        Self::channel_between(hop, nodes().await).await
    }

    /// With a secure channel between these nodes.
    pub(crate) async fn channel_between(hop: bool, (client, server): (Node, Node)) -> Self {
        let listener = must(server.listen_tcp("127.0.0.1:0").await);
        must(listener.expose("bank"));
        let (hop, connection, rest) = if hop {
            let node = must(Node::builder("hop").start().await);
            must(node.start_hop("hop"));
            let at = must(node.listen_tcp("127.0.0.1:0").await);
            must(at.expose("hop"));
            must(at.allow_dial(listener.name()));
            let connection = must(client.connect_tcp(at.local_address()).await);
            (Some((node, at)), connection, format!("hop => {} => bank", listener.name()))
        } else {
            (None, must(client.connect_tcp(listener.local_address()).await), "bank".to_owned())
        };
        let route = must(connection.route_to(&rest)).route().clone();
        Self::secured(client, server, route, listener, hop).await
    }

    /// Of nodes that are connected already, with a channel along `route`.
    pub(crate) async fn secured(
        client: Node,
        server: Node,
        route: Route,
        listener: Listener,
        hop: Option<(Node, Listener)>,
    ) -> Self {
        let (alice, bank) = (must(client.create_identity().await), must(server.create_identity().await));
        let trust = Trust::pinned([alice.identifier()]);
        let accepting = must(server.accept_channels("bank", &bank, trust));
        must(accepting.expose("echo"));
        let channel =
            must(client.open_channel(&alice, route.clone(), Peer::Identity(bank.identifier())).await);
        let secured = Secured { channel, listener: accepting, alice, bank, route };
        Self { client, server, way: Way::Channel(Box::new(secured)), _listener: listener, _hop: hop }
    }

    /// The route to a worker of the server, which is exposed to the client.
    pub(crate) fn open(&self, worker: &str) -> NodeRoute {
        match &self.way {
            Way::Plain(connection, listener) => {
                must(listener.expose(worker));
                must(connection.route_to(worker))
            }
            Way::Channel(secured) => {
                must(secured.listener.expose(worker));
                self.client.route_along(must(secured.channel.route_to(worker)))
            }
        }
    }

    /// One more channel beside the first.
    pub(crate) async fn another_channel(&self) -> Channel {
        let Way::Channel(secured) = &self.way else { panic!("a pair without channels") };
        let peer = Peer::Identity(secured.bank.identifier());
        must(self.client.open_channel(&secured.alice, secured.route.clone(), peer).await)
    }
}

pub(crate) async fn nodes() -> (Node, Node) {
    let client = must(Node::builder("client").limits(limits()).start().await);
    let server = must(Node::builder("server").limits(limits()).start().await);
    must(server.start_worker("echo", Echo));
    (client, server)
}
