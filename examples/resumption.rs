//! A sensor opens a channel once with its identity, and later resumes it: two short messages, each ticket good once.
//!
//!     cargo run --example resumption

use onward::{ChannelOptions, Mode, Node, NodeError, Peer, Route, Trust};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (sensor_node, cloud_node) =
        (Node::builder("sensor").start().await?, Node::builder("cloud").start().await?);
    let (sensor, cloud) = (sensor_node.create_identity().await?, cloud_node.create_identity().await?);

    // The cloud keeps tickets because it accepts resumption beside the default handshake.
    cloud_node.serve("store", |degrees: i64| async move { Ok(format!("stored {degrees}")) }).await?;
    let accepts = [Mode::HybridXx, Mode::Resumption].map(Mode::in_every_suite).concat();
    let options =
        ChannelOptions { accepts: Some(accepts.into_iter().collect()), ..ChannelOptions::default() };
    let trust = Trust::pinned([sensor.identifier()]);
    cloud_node.accept_channels_with("door", &cloud, trust, &options)?.expose("store")?;
    let listener = cloud_node.listen_tcp("127.0.0.1:0").await?;
    listener.expose("door")?;

    // The first channel proves who is who, and leaves a ticket behind.
    let route: Route = format!("{} => door", listener.name()).parse()?;
    let open = |mode, resumable| {
        let options = ChannelOptions { mode, resumable, ..ChannelOptions::default() };
        sensor_node.open_channel_with(&sensor, route.clone(), Peer::Identity(cloud.identifier()), options)
    };
    let channel = open(Mode::HybridXx, true).await?;
    let store = sensor_node.route_along(channel.route_to("store")?);
    println!("{}", store.ask::<_, String>(&21i64).await?);
    channel.close();

    // The second rests on the ticket alone. Both ends forget it before they use it.
    let channel = open(Mode::Resumption, false).await?;
    println!("resumed with the same peer: {}", channel.peer() == cloud.identifier());
    let store = sensor_node.route_along(channel.route_to("store")?);
    println!("{}", store.ask::<_, String>(&22i64).await?);

    let again = open(Mode::Resumption, false).await;
    println!("no second use: {}", matches!(again, Err(NodeError::NoTicket(_))));
    Ok(())
}
