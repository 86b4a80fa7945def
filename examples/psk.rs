//! Two branches of a company share a key. Without it nobody gets an answer, whatever identity they prove.
//!
//!     cargo run --example psk

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use onward::{ChannelOptions, Mode, Node, Peer, Trust, read_psk};

/// Makes a key as `openssl rand -hex 32` does, in a file that only its owner can read.
fn make_key(path: &Path) -> anyhow::Result<()> {
    let mut key = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    key.iter().try_for_each(|byte| write!(file, "{byte:02x}"))?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (ours, another) = (folder.path().join("company.psk"), folder.path().join("another.psk"));
    make_key(&ours)?;
    make_key(&another)?;

    // The depot answers one kind of handshake only: hybrid, with the company's key.
    let depot_node = Node::builder("depot").start().await?;
    let depot = depot_node.create_identity().await?;
    depot_node.serve("stock", |item: String| async move { Ok(format!("{item}: 12 left")) }).await?;
    let accepts = Some(Mode::HybridXxPsk.in_every_suite().into());
    let options = ChannelOptions { accepts, psks: vec![read_psk(&ours)?], ..ChannelOptions::default() };
    let door = depot_node.accept_channels_with("door", &depot, Trust::dangerously_any(), &options)?;
    door.expose("stock")?;
    let listener = depot_node.listen_tcp("127.0.0.1:0").await?;
    listener.expose("door")?;

    let shop_node = Node::builder("shop").start().await?;
    let shop = shop_node.create_identity().await?;
    let to_depot = || -> anyhow::Result<_> { Ok(format!("{} => door", listener.name()).parse()?) };
    let with = |psks| ChannelOptions { mode: Mode::HybridXxPsk, psks, ..ChannelOptions::default() };
    let peer = || Peer::Identity(depot.identifier());

    let options = with(vec![read_psk(&ours)?]);
    let channel = shop_node.open_channel_with(&shop, to_depot()?, peer(), options).await?;
    let answer: String = shop_node.route_along(channel.route_to("stock")?).ask(&"lamp".to_owned()).await?;
    println!("{answer}");

    let options = with(vec![read_psk(&another)?]);
    let stranger = shop_node.open_channel_with(&shop, to_depot()?, peer(), options);
    let silence = tokio::time::timeout(Duration::from_secs(1), stranger).await;
    println!("another key, another answer: {}", silence.is_ok());
    Ok(())
}
