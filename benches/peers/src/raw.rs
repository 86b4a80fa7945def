//! TCP on loopback without any protocol but a length before each message: what the machine allows.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};

use crate::measure::{Flood, Laps, Plan, Series, Tally, asked};

/// `tcp.oneway.*` and `tcp.ask.64`.
pub async fn tcp(plan: Plan) -> anyhow::Result<Vec<Series>> {
    let mut series = Vec::new();
    for size in [64, 1024, 32_768] {
        let rates = oneway(size, plan).await?;
        series.push(Series::timed(format!("tcp.oneway.{size}"), "msg/s", rates));
    }
    series.extend(ask(plan).await?);
    Ok(series)
}

/// Two ends of a connection that sends small packets at once.
pub async fn connected() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (near, (far, _)) = (near?, far?);
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Messages with their length in front, buffered on both sides.
async fn oneway(size: usize, plan: Plan) -> anyhow::Result<Vec<f64>> {
    let (near, far) = connected().await?;
    let tally = Arc::new(Tally::default());
    let counting = Arc::clone(&tally);
    let receiver = tokio::spawn(async move {
        let mut far = BufReader::with_capacity(BUFFER, far);
        let mut message = vec![0; size];
        while let Ok(length) = far.read_u32().await {
            message.resize(length as usize, 0);
            if far.read_exact(&mut message).await.is_err() {
                break;
            }
            counting.count(1);
        }
    });
    let mut near = BufWriter::with_capacity(BUFFER, near);
    let message = vec![0x5a; size];
    let mut rates = Vec::new();
    for _ in plan.all_runs() {
        let mut flood = Flood::start(plan, &tally);
        while flood.next() {
            near.write_u32(size as u32).await?;
            near.write_all(&message).await?;
        }
        near.flush().await?;
        rates.push(flood.finish().await.rate);
    }
    drop(near);
    receiver.await?;
    Ok(rates)
}

/// 64 bytes there and back.
async fn ask(plan: Plan) -> anyhow::Result<Vec<Series>> {
    let (mut near, mut far) = connected().await?;
    let responder = tokio::spawn(async move {
        let mut message = [0; 64];
        while far.read_exact(&mut message).await.is_ok() {
            if far.write_all(&message).await.is_err() {
                break;
            }
        }
    });
    let mut message = [0x5a; 64];
    let mut runs = Vec::new();
    for _ in plan.all_runs() {
        let mut laps = Laps::start(plan);
        while laps.next() {
            near.write_all(&message).await?;
            near.read_exact(&mut message).await?;
        }
        runs.push(laps.finish());
    }
    drop(near);
    responder.await?;
    Ok(asked("tcp.ask.64", &runs))
}

const BUFFER: usize = 64 * 1024;
