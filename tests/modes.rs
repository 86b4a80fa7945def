//! Every handshake mode over real sockets: who is answered, with what, and how often.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::path::Path;
use std::time::Duration;

use onward::{
    Channel, ChannelOptions, Echo, Identity, Listener, Mode, Node, NodeError, Peer, Raw, Route, Suite, Trust,
    read_psk,
};

/// How long nothing must come back; what is refused is never answered.
const SILENCE: Duration = Duration::from_millis(300);

/// A client, and a service with a listener of its own for each mode, named by its number.
struct World {
    service_node: Node,
    service: Identity,
    at: Listener,
    client_node: Node,
    client: Identity,
    options: ChannelOptions,
}

impl World {
    async fn start(home: &Path) -> Self {
        let psk = home.join("psk");
        std::fs::write(&psk, "5a".repeat(32)).unwrap();
        std::process::Command::new("chmod").arg("600").arg(&psk).status().unwrap();
        let client_node = Node::builder("client").state_dir(home.join("client")).start().await.unwrap();
        let client = client_node.load_or_create_identity("client").await.unwrap();
        let service_node = Node::builder("service").state_dir(home.join("service")).start().await.unwrap();
        let service = service_node.load_or_create_identity("service").await.unwrap();
        service_node.start_worker("echo", Echo).unwrap();
        let at = service_node.listen_tcp("127.0.0.1:0").await.unwrap();
        let options = ChannelOptions {
            psks: vec![read_psk(&psk).unwrap()],
            introductions: vec![service.introduction(), client.introduction()],
            ..ChannelOptions::default()
        };
        let world = Self { service_node, service, at, client_node, client, options };
        for mode in Mode::ALL {
            world.accept(&mode.number().to_string(), &[mode]);
        }
        world
    }

    fn accept(&self, name: &str, modes: &[Mode]) {
        let accepts = modes.iter().flat_map(|mode| mode.in_every_suite()).collect();
        let options = ChannelOptions { accepts: Some(accepts), ..self.options.clone() };
        let trust = Trust::pinned([self.client.identifier()]);
        let channels = self.service_node.accept_channels_with(name, &self.service, trust, &options).unwrap();
        channels.expose("echo").unwrap();
        self.at.expose(name).unwrap();
    }

    fn options(&self, mode: Mode, suite: Suite) -> ChannelOptions {
        ChannelOptions { mode, suite, ..self.options.clone() }
    }

    async fn open(&self, listener: &str, options: ChannelOptions) -> Result<Channel, NodeError> {
        let route: Route = format!("{} => {listener}", self.at.name()).parse().unwrap();
        let peer = Peer::Identity(self.service.identifier());
        self.client_node.open_channel_with(&self.client, route, peer, options).await
    }

    /// Whether anything comes of it within a while.
    async fn is_silent(&self, listener: &str, options: ChannelOptions) -> bool {
        tokio::time::timeout(SILENCE, self.open(listener, options)).await.is_err()
    }

    async fn talk(&self, channel: &Channel) {
        assert_eq!(channel.peer(), self.service.identifier());
        let echo = self.client_node.route_along(channel.route_to("echo").unwrap());
        let answer: Raw = echo.ask(&Raw("hi".to_owned().into())).await.unwrap();
        assert_eq!(answer, Raw("hi".to_owned().into()));
    }
}

fn tickets(home: &Path, node: &str) -> Vec<std::path::PathBuf> {
    let folder = std::fs::read_dir(home.join(node).join("tickets"));
    folder.map(|files| files.map(|file| file.unwrap().path()).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_and_suite_carries_messages_over_tcp() {
    let home = tempfile::tempdir().unwrap();
    let world = World::start(home.path()).await;
    world.accept("first", &[Mode::HybridXx, Mode::Resumption]);
    for mode in Mode::ALL {
        for suite in [Suite::ChaChaPoly, Suite::AesGcm] {
            if mode == Mode::Resumption {
                let first = ChannelOptions { resumable: true, ..world.options(Mode::HybridXx, suite) };
                world.open("first", first).await.unwrap().close();
            }
            let channel = world.open(&mode.number().to_string(), world.options(mode, suite)).await.unwrap();
            world.talk(&channel).await;
            channel.close();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_5_a_listener_answers_its_own_modes_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let world = World::start(home.path()).await;
    for mode in [Mode::HybridXx, Mode::ClassicalXxPsk, Mode::ClassicalIk, Mode::Kk] {
        for listener in Mode::ALL.into_iter().filter(|listener| *listener != mode).step_by(3) {
            let options = world.options(mode, Suite::ChaChaPoly);
            assert!(world.is_silent(&listener.number().to_string(), options).await, "{mode:?} {listener:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mode_without_what_it_rests_on_is_refused_here() {
    let home = tempfile::tempdir().unwrap();
    let world = World::start(home.path()).await;
    for mode in [Mode::HybridXxPsk, Mode::HybridIk, Mode::Kk] {
        let bare = ChannelOptions { mode, ..ChannelOptions::default() };
        assert!(matches!(world.open("1", bare).await, Err(NodeError::Misuse(_))), "{mode:?}");
    }
    let bare = ChannelOptions { mode: Mode::Resumption, ..ChannelOptions::default() };
    assert!(matches!(world.open("8", bare).await, Err(NodeError::NoTicket(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n3_12_a_ticket_survives_a_restart_and_one_use_only() {
    let home = tempfile::tempdir().unwrap();
    let mut world = World::start(home.path()).await;
    world.accept("both", &[Mode::HybridXx, Mode::Resumption]);
    let suite = Suite::ChaChaPoly;
    let first = ChannelOptions { resumable: true, ..world.options(Mode::HybridXx, suite) };
    world.open("both", first).await.unwrap().close();
    let kept = tickets(home.path(), "client");
    assert_eq!(kept.len(), 1);
    let copy = std::fs::read(&kept[0]).unwrap();

    world.restart_client(home.path()).await;
    let channel = world.open("both", world.options(Mode::Resumption, suite)).await.unwrap();
    world.talk(&channel).await;
    assert!(tickets(home.path(), "client").is_empty(), "erased before use");
    let again = world.open("both", world.options(Mode::Resumption, suite)).await;
    assert!(matches!(again, Err(NodeError::NoTicket(_))));

    // Whoever brings a used ticket back, as from a backup, finds that the other end has used it too.
    std::fs::write(&kept[0], &copy).unwrap();
    world.restart_client(home.path()).await;
    assert!(world.is_silent("both", world.options(Mode::Resumption, suite)).await);
    assert!(tickets(home.path(), "client").is_empty());
}

impl World {
    async fn restart_client(&mut self, home: &Path) {
        self.client_node.shutdown(Duration::from_secs(2)).await;
        // Its lock on the state directory goes with its last clone.
        let another = Node::builder("gone").start().await.unwrap();
        drop(std::mem::replace(&mut self.client_node, another));
        self.client_node = Node::builder("client").state_dir(home.join("client")).start().await.unwrap();
        self.client = self.client_node.load_or_create_identity("client").await.unwrap();
    }
}
