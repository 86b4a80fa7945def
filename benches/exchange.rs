//! What a key of its own costs a message: a request and an answer of 1 KiB through somebody else's hop, in plain text, with
//! the keys of a secure channel, and with a key that is made for this one answer, signed, verified, used and gone.

use std::time::Instant;

use onward::ok2cry::cache::{CacheLimits, Owner};
use onward::ok2cry::{Direction, KeyObject, Pins, Sealed, SealerTrust, TrustMode, context};
use onward::{
    CacheClient, Echo, Exchanges, Failure, Identity, KeyWish, LocalCache, Node, NodeRoute, Peer, Raw, Trust,
};

use crate::measure::{RUN, RUNS, print, runtime};
use crate::pair::must;

/// Exchanges under way at once, each of a customer with a cache of its own: a cache makes 200 keys a second for one owner.
const CUSTOMERS: u32 = 16;

const BYTES: usize = 1024;

const API: &str = "card-api";

async fn exchanges(node: &Node, owner: u32) -> (Identity, Exchanges) {
    let identity = must(node.create_identity().await);
    let cache = CacheClient::new(must(LocalCache::start(CacheLimits::default(), Owner::of_user(owner))));
    let exchanges = must(node.exchanges(&identity, cache).await);
    (identity, exchanges)
}

/// One customer's part of a fresh exchange.
async fn fresh(customer: &Exchanges, bank: &Pins, route: &NodeRoute, ctx: [u8; 32]) {
    let key = must(customer.new_key(KeyWish::answer(API, "read", ctx)).await);
    let shown = Raw(key.object().encode().into());
    let Raw(sealed) = must(route.ask(&shown).await);
    let opened = customer.open(&key, &must(Sealed::decode(&sealed)), SealerTrust::Identity(bank), None).await;
    assert_eq!(must(opened).plaintext.len(), BYTES);
}

pub(crate) fn run(workers: usize) {
    let runtime = runtime(workers);
    let (mut customers, from_bank, [plain, cached, sealed], ctx, nodes) = runtime.block_on(async {
        let [client, company, server] =
            ["client", "company", "server"].map(async |name| must(Node::builder(name).start().await));
        let (client, company, server) = (client.await, company.await, server.await);
        let mut customers = Vec::new();
        for owner in 0..CUSTOMERS {
            customers.push(exchanges(&client, owner).await);
        }
        let (bank, at_bank) = exchanges(&server, 0).await;
        let ctx = context("GET", "/card/7", b"1");
        let trusted = Pins::identifiers(customers.iter().map(|(identity, _)| identity.identifier()));
        let seal = move |Raw(shown): Raw| {
            let (sealing, trusted) = (at_bank.clone(), trusted.clone());
            async move {
                let (about, mode) = ((Direction::AnswerToMe, API, ctx), TrustMode::Identity(&trusted));
                let key = sealing.verify(KeyObject::decode(&shown)?, about, mode, None)?;
                Ok::<_, Failure>(Raw(sealing.seal(key, &[7; BYTES], None, &[]).await?.encode().into()))
            }
        };
        // Several at once, as a service has them.
        for number in 0..workers {
            must(server.serve(&format!("read{number}"), seal.clone()).await);
        }
        server.start_worker("echo", Echo).unwrap_or_else(|error| panic!("{error}"));
        let alice = customers[0].0.identifier();
        let channels = must(server.accept_channels("bank", &bank, Trust::pinned([alice])));
        must(channels.expose("echo"));
        let listener = must(server.listen_tcp("127.0.0.1:0").await);
        for exposed in ["echo", "bank"] {
            must(listener.expose(exposed));
        }
        (0..workers).for_each(|number| must(listener.expose(&format!("read{number}"))));
        must(company.start_hop("hop"));
        let at_company = must(company.listen_tcp("127.0.0.1:0").await);
        must(at_company.expose("hop"));
        must(at_company.allow_dial(listener.name()));
        let way = format!("{} => hop => {}", at_company.name(), listener.name());

        let plain = vec![must(client.route(&format!("{way} => echo")))];
        let there = must(format!("{way} => bank").parse());
        let channel =
            must(client.open_channel(&customers[0].0, there, Peer::Identity(bank.identifier())).await);
        let cached = vec![client.route_along(must(channel.route_to("echo")))];
        let sealed = (0..workers)
            .map(|number| must(client.route(&format!("{way} => read{number}"))))
            .collect::<Vec<_>>();
        let from_bank = Pins::identifiers([bank.identifier()]);
        (
            customers,
            from_bank,
            [plain, cached, sealed],
            ctx,
            (client, company, server, channel, listener, at_company),
        )
    });

    let customers: Vec<Exchanges> = customers.drain(..).map(|(_, exchanges)| exchanges).collect();
    let body = Raw(vec![7; BYTES].into());
    for (figure, routes) in [("plaintext", &plain), ("cached", &cached), ("fresh", &sealed)] {
        let once = || {
            let lines = customers.iter().enumerate().map(|(number, customer)| {
                let (customer, from_bank, body) = (customer.clone(), from_bank.clone(), body.clone());
                let route = routes[number % routes.len()].clone();
                async move {
                    let (mut count, began) = (0_u32, Instant::now());
                    while began.elapsed() < RUN {
                        if figure == "fresh" {
                            fresh(&customer, &from_bank, &route, ctx).await;
                        } else {
                            let Raw(answer) = must(route.ask(&body).await);
                            assert_eq!(answer.len(), BYTES);
                        }
                        count += 1;
                    }
                    f64::from(count)
                }
            });
            runtime.block_on(async {
                let (lines, began): (Vec<_>, _) = (lines.map(tokio::spawn).collect(), Instant::now());
                let mut count = 0.0;
                for line in lines {
                    count += must(line.await);
                }
                count / began.elapsed().as_secs_f64()
            })
        };
        let rates: Vec<f64> = (0..=RUNS).map(|_| once()).skip(1).collect();
        print(&format!("ok2cry.chain.{figure}.{BYTES}"), "exchanges/s", workers, &rates);
    }
    drop(nodes);
}
