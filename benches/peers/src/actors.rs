//! Actor frameworks within one process: the counterpart of local workers.

/// ractor: one unbounded mailbox per actor, so the sender keeps its own window.
pub mod ractor {
    use std::sync::Arc;

    use ::ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, call};

    use crate::heap;
    use crate::measure::{Flood, Laps, Plan, Series, Tally, asked};

    /// `local.oneway.64` and `local.ask.64`.
    pub async fn local(plan: Plan) -> anyhow::Result<Vec<Series>> {
        let tally = Arc::new(Tally::default());
        let (actor, _) = Actor::spawn(None, Worker(Arc::clone(&tally)), ()).await?;
        let mut rates = Vec::new();
        for _ in plan.all_runs() {
            let mut flood = Flood::start(plan, &tally);
            while flood.next() {
                actor.send_message(Message::Count(vec![0x5a; 64]))?;
                while flood.in_flight() > WINDOW {
                    tokio::task::yield_now().await;
                }
            }
            rates.push(flood.finish().await.rate);
        }
        let mut runs = Vec::new();
        for _ in plan.all_runs() {
            let mut laps = Laps::start(plan);
            while laps.next() {
                call!(actor, Message::Echo, vec![0x5a; 64])?;
            }
            runs.push(laps.finish());
        }
        let mut series = vec![Series::timed("local.oneway.64", "msg/s", rates)];
        series.extend(asked("local.ask.64", &runs));
        Ok(series)
    }

    /// `memory.worker`: what one idle actor holds.
    pub async fn worker_memory() -> anyhow::Result<Vec<Series>> {
        let (unit, before) = heap::held()?;
        let mut actors = Vec::new();
        for _ in 0..super::IDLE_ACTORS {
            actors.push(Actor::spawn(None, Worker(Arc::default()), ()).await?.0);
        }
        let (_, after) = heap::held()?;
        Ok(vec![Series::new("memory.worker", unit, vec![(after - before) / actors.len() as f64])])
    }

    struct Worker(Arc<Tally>);

    enum Message {
        Count(Vec<u8>),
        Echo(Vec<u8>, RpcReplyPort<Vec<u8>>),
    }

    impl Actor for Worker {
        type Msg = Message;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<Message>,
            message: Message,
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            match message {
                Message::Count(payload) => {
                    drop(payload);
                    self.0.count(1);
                }
                Message::Echo(payload, reply) => reply.send(payload)?,
            }
            Ok(())
        }
    }

    /// Messages in flight beyond which the sender lets the actor catch up.
    const WINDOW: u64 = 1024;
}

/// kameo: bounded mailboxes, so the sender waits for room.
pub mod kameo {
    use std::sync::Arc;

    use ::kameo::Actor;
    use ::kameo::actor::Spawn;
    use ::kameo::mailbox::bounded;
    use ::kameo::message::{Context, Message};

    use crate::heap;
    use crate::measure::{Flood, Laps, Plan, Series, Tally, asked};

    /// `local.oneway.64` and `local.ask.64`.
    pub async fn local(plan: Plan) -> anyhow::Result<Vec<Series>> {
        let tally = Arc::new(Tally::default());
        let actor = Worker::spawn_with_mailbox(Worker(Arc::clone(&tally)), bounded(MAILBOX));
        let mut rates = Vec::new();
        for _ in plan.all_runs() {
            let mut flood = Flood::start(plan, &tally);
            while flood.next() {
                actor.tell(Count(vec![0x5a; 64])).await?;
            }
            rates.push(flood.finish().await.rate);
        }
        let mut runs = Vec::new();
        for _ in plan.all_runs() {
            let mut laps = Laps::start(plan);
            while laps.next() {
                actor.ask(Echo(vec![0x5a; 64])).await?;
            }
            runs.push(laps.finish());
        }
        let mut series = vec![Series::timed("local.oneway.64", "msg/s", rates)];
        series.extend(asked("local.ask.64", &runs));
        Ok(series)
    }

    /// `memory.worker`: what one idle actor holds, with kameo's default mailbox.
    pub async fn worker_memory() -> anyhow::Result<Vec<Series>> {
        let (unit, before) = heap::held()?;
        let mut actors = Vec::new();
        for _ in 0..super::IDLE_ACTORS {
            let actor = Worker::spawn(Worker(Arc::default()));
            actor.wait_for_startup().await;
            actors.push(actor);
        }
        let (_, after) = heap::held()?;
        Ok(vec![Series::new("memory.worker", unit, vec![(after - before) / actors.len() as f64])])
    }

    #[derive(Actor)]
    struct Worker(Arc<Tally>);

    struct Count(Vec<u8>);

    impl Message<Count> for Worker {
        type Reply = ();

        async fn handle(&mut self, Count(payload): Count, _: &mut Context<Self, ()>) {
            drop(payload);
            self.0.count(1);
        }
    }

    struct Echo(Vec<u8>);

    impl Message<Echo> for Worker {
        type Reply = Vec<u8>;

        async fn handle(&mut self, Echo(payload): Echo, _: &mut Context<Self, Vec<u8>>) -> Vec<u8> {
            payload
        }
    }

    /// Messages the counting actor's mailbox holds; kameo's default is 64.
    const MAILBOX: usize = 1024;
}

const IDLE_ACTORS: usize = 100_000;
