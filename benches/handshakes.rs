//! Handshakes in flight: how many channels two nodes open per second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use onward::{Identity, Peer, Trust};

use crate::pair::{Pair, Way, must};

impl Pair {
    /// Handshakes per second with `tasks` in flight; each side verifies the other's chain. With
    /// `known` false every initiator is an identity the server has not seen before.
    pub(crate) async fn handshakes(&self, tasks: usize, run: Duration, known: bool) -> f64 {
        let Way::Channel(secured) = &self.way else { panic!("a pair without channels") };
        let strangers = if known { Vec::new() } else { self.strangers(tasks * 24).await };
        let strangers = Arc::new(std::sync::Mutex::new(strangers));
        let listener = if known { None } else { Some(self.listener_for_all(&strangers)) };
        let route = match &listener {
            Some(name) => must(secured.route.with_last(&must(onward::Address::local(name)))),
            None => secured.route.clone(),
        };
        let started = Instant::now();
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..tasks {
            let (client, alice, route) = (self.client.clone(), secured.alice.clone(), route.clone());
            let (peer, strangers) = (Peer::Identity(secured.bank.identifier()), Arc::clone(&strangers));
            set.spawn(async move {
                let mut done = 0u64;
                while started.elapsed() < run {
                    let stranger = strangers.lock().ok().and_then(|mut all| all.pop());
                    let identity = match (known, stranger) {
                        (true, _) => alice.clone(),
                        (false, Some(stranger)) => stranger,
                        (false, None) => break,
                    };
                    must(client.open_channel(&identity, route.clone(), peer.clone()).await).close();
                    done += 1;
                }
                done
            });
        }
        let done: u64 = set.join_all().await.into_iter().sum();
        done as f64 / started.elapsed().as_secs_f64()
    }

    async fn strangers(&self, count: usize) -> Vec<Identity> {
        let mut strangers = Vec::new();
        for _ in 0..count {
            strangers.push(must(self.client.create_identity().await));
        }
        strangers
    }

    fn listener_for_all(&self, strangers: &std::sync::Mutex<Vec<Identity>>) -> String {
        let Way::Channel(secured) = &self.way else { panic!("a pair without channels") };
        let identifiers: Vec<_> =
            strangers.lock().map(|all| all.iter().map(Identity::identifier).collect()).unwrap_or_default();
        let name = format!("bank{}", self.server.router().random() % 1_000_000_000);
        must(self.server.accept_channels(&name, &secured.bank, Trust::pinned(identifiers)));
        must(self._listener.expose(&name));
        name
    }
}
