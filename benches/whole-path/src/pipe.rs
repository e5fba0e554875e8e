//! A line with a delay and no limit of throughput: what goes in at one end comes out at the other after a fixed time,
//! whatever else is on its way.
//!
//! Threads and not tasks, because the runtime's timer rounds up to whole milliseconds and 25 ms would become 26.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::Failure;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// host:port of what is behind it
    #[arg(long)]
    to: SocketAddr,
    /// Milliseconds, each way
    #[arg(long)]
    delay: u64,
}

/// Prints where it listens, and serves until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<Value, Failure> {
    let delay = Duration::from_millis(arguments.delay);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", json!({"listens": listener.local_addr()?.to_string()}));
    for client in listener.incoming() {
        let client = client?;
        let server = TcpStream::connect(arguments.to)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        pass_on(client.try_clone()?, server.try_clone()?, delay);
        pass_on(server, client, delay);
    }
    Ok(Value::Null)
}

/// One direction: a thread that reads and notes when each piece is due, and one that writes each when it is.
fn pass_on(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (pieces, due) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let piece = buffer.get(..length).unwrap_or_default().to_vec();
            if pieces.send((Instant::now() + delay, piece)).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        while let Ok((at, piece)) = due.recv() {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        // The other side learns of the end as it would without us.
        let _ = to.shutdown(Shutdown::Write);
    });
}
