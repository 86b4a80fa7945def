//! A transport of your own: two nodes joined by queues, made with the public traits alone.
//!
//!     cargo run --example custom_transport

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use onward::{
    Address, Charge, Echo, ErrorCode, FlowId, FlowKind, Ingress, Message, Next, Node, Raw, Router, Step,
};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The way out: what a message that leaves by this connection goes through, on its sender's task.
struct Out(FlowId, Sender<Vec<u8>>);

impl Step for Out {
    fn step(&self, router: &Arc<Router>, mut message: Message, _: Option<Charge>) -> Next {
        // A step never waits. One that can wait for room answers `Next::Full` with a `Room`.
        let Ok(place) = self.1.try_reserve() else { return Next::Refused(ErrorCode::Overloaded, message) };
        // Takes this connection off the onward route, and local names off the way back.
        if let Err(code) = router.depart(&mut message, self.0) {
            return Next::Refused(code, message);
        }
        let mut frame = Vec::new();
        message.encode(&mut frame);
        place.send(frame);
        Next::Done(Some(message))
    }
}

/// A connection of a queue each way: the address to send to, and the flow of what comes in.
fn connect(node: &Node, out: Sender<Vec<u8>>, mut read: Receiver<Vec<u8>>) -> Result<(Address, FlowId)> {
    let router = Arc::clone(node.router());
    let (flow, id) = (FlowId::new(router.random().to_be_bytes()), router.random());
    let address = Address::random(id);
    router.add_step(&address, Arc::new(Out(flow, out)))?;
    router.reach_mut().open_flow(flow, FlowKind::Transport, None);
    let mut ingress = Ingress::new(router, flow, address.clone());
    tokio::spawn(async move {
        while let Some(frame) = read.recv().await {
            // If its target stays full, reading pauses and the other side has to wait.
            if let Ok(Some(blocked)) = ingress.accept(&frame) {
                ingress.pause(blocked).await;
            }
        }
    });
    Ok((address, flow))
}

#[tokio::main]
async fn main() -> Result<()> {
    let (here, there) = (Node::builder("here").start().await?, Node::builder("there").start().await?);
    let ((to_there, from_here), (to_here, from_there)) = (channel(64), channel(64));
    let (way, _) = connect(&here, to_there, from_there)?;
    let (_, flow) = connect(&there, to_here, from_here)?;
    there.start_worker("echo", Echo)?;
    let echo = here.route(&format!("{way} => echo"))?;
    // Who may reach whom is the node's to say, whatever the transport is.
    let unexposed = echo.ask_within::<_, Raw>(&Raw("?".into()), Duration::from_millis(200)).await;
    println!("before it is exposed: {}", unexposed.is_ok());
    there.router().reach_mut().expose(flow, &"echo".parse()?)?;
    let Raw(answer) = echo.ask(&Raw("carried by queues".into())).await?;
    println!("afterwards: {}", String::from_utf8_lossy(&answer));
    Ok(())
}
