//! What systemd is told of a running casewire, by the protocol of `sd_notify(3)`: datagrams to the socket that
//! NOTIFY_SOCKET names.
//!
//! - `READY=1` once every stream is ready, or stands by for another instance, which is all that it is to do then.
//! - `STATUS=` what `/ready` says, in a line that `systemctl status` shows.
//! - `WATCHDOG=1` as long as `/live` would answer 200: while every stream's task has its turns and what it waits for comes.
//!   Nothing here keeps it coming when a stream hangs.
//! - `STOPPING=1` when an orderly end begins.
//!
//! The protocol is a page, and the crates for it send with calls that block while systemd's queue is full; so it is spoken here.

use std::collections::HashSet;
use std::ffi::OsString;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::status::{Board, Snapshot, StreamState};

/// Between two looks at the board; what changes more often is of no interest to systemd.
const LOOK: Duration = Duration::from_secs(1);

/// For one datagram. systemd that takes none for so long has other troubles.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where systemd listens, and how often it wants to hear of us.
#[derive(Debug)]
pub struct ServiceManager {
    socket: OsString,
    /// After how much silence the process is ended.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As the environment has it; none where casewire was not started by a service manager.
    pub fn from_environment() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        // The watchdog of whoever started us is not meant for us.
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|microseconds| meant && *microseconds > 0);
        Some(Self { socket, watchdog: watchdog.map(Duration::from_micros) })
    }

    /// Tells what the board shows, until `ended`.
    pub async fn tell(self, board: Board, ended: CancellationToken) {
        let mut news = News { watchdog: self.watchdog, ..News::default() };
        // The watchdog wants to hear of us within half of its time.
        let look = self.watchdog.map_or(LOOK, |watchdog| LOOK.min(watchdog / 4)).max(Duration::from_millis(10));
        let mut ticks = interval(look);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told_of_failure = false;
        loop {
            let goes_on = ended.run_until_cancelled(ticks.tick()).await.is_some();
            let snapshot = board.snapshot();
            let lines = if goes_on { news.lines(&snapshot, Instant::now()) } else { news.last_lines() };
            if !lines.is_empty() {
                let sent = timeout(PATIENCE, self.send(lines.join("\n").as_bytes())).await;
                let failed = match sent {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some(format!("it takes no datagram within {PATIENCE:?}")),
                };
                if let Some(error) = failed {
                    // What was not heard is said again.
                    news = News { watchdog: self.watchdog, ..News::default() };
                    if !std::mem::replace(&mut told_of_failure, true) {
                        warn!(error, "the service manager cannot be told anything");
                    }
                }
            }
            if !goes_on {
                return;
            }
        }
    }

    async fn send(&self, message: &[u8]) -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        // A name of the abstract namespace, which only Linux has.
        #[cfg(target_os = "linux")]
        if let Some(name) = std::os::unix::ffi::OsStrExt::as_bytes(self.socket.as_os_str()).strip_prefix(b"@") {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let socket = socket.into_std()?;
            socket.connect_addr(&address)?;
            return UnixDatagram::from_std(socket)?.send(message).await.map(drop);
        }
        socket.send_to(message, &self.socket).await.map(drop)
    }
}

/// What has been told so far.
#[derive(Debug, Default)]
struct News {
    watchdog: Option<Duration>,
    ready: bool,
    stopping: bool,
    status: String,
    fed_at: Option<Instant>,
}

impl News {
    /// What is new.
    fn lines(&mut self, snapshot: &Snapshot, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.ready && is_up(snapshot) {
            self.ready = true;
            lines.push("READY=1".to_owned());
        }
        if !self.stopping && snapshot.stopping {
            self.stopping = true;
            lines.push("STOPPING=1".to_owned());
        }
        let status = status(snapshot);
        if status != self.status {
            lines.push(format!("STATUS={status}"));
            self.status = status;
        }
        let due = self.watchdog.is_some_and(|watchdog| self.fed_at.is_none_or(|fed| now - fed >= watchdog / 4));
        if due && snapshot.dead_streams(chrono::Utc::now()).is_empty() {
            self.fed_at = Some(now);
            lines.push("WATCHDOG=1".to_owned());
        }
        lines
    }

    /// What is left to say at the end.
    fn last_lines(&mut self) -> Vec<String> {
        if std::mem::replace(&mut self.stopping, true) { Vec::new() } else { vec!["STOPPING=1".to_owned()] }
    }
}

/// Whether everything is as it should be after a start. A standby is never ready to carry, and that is as it should be.
fn is_up(snapshot: &Snapshot) -> bool {
    let stands_by: HashSet<String> = snapshot
        .streams
        .iter()
        .filter(|stream| matches!(stream.state, StreamState::Standby { .. }))
        .map(|stream| stream.topic.to_string())
        .collect();
    !snapshot.streams.is_empty() && snapshot.not_ready().iter().all(|reason| stands_by.contains(&reason.part))
}

/// The state in a line.
fn status(snapshot: &Snapshot) -> String {
    if snapshot.stopping {
        return "stopping: committing what was received".to_owned();
    }
    let reasons = snapshot.not_ready();
    let text = match reasons.first() {
        Some(first) => {
            let more = if reasons.len() > 1 { format!(" (and {} more)", reasons.len() - 1) } else { String::new() };
            format!("not ready: {}: {}{more}", first.part, first.reason)
        }
        None => {
            let left = snapshot.streams.iter().filter_map(|stream| stream.until_data_loss(snapshot.salesforce_now));
            // In hours, so that it is not told anew every second.
            let left =
                left.min().map_or(String::new(), |left| format!(", {} h until data loss", left.as_secs() / 3600));
            format!("{} carried{left}", counted(snapshot.streams.len()))
        }
    };
    // A line break in the words of a server would begin another assignment.
    text.replace(char::is_control, " ")
}

fn counted(streams: usize) -> String {
    if streams == 1 { "1 stream".to_owned() } else { format!("{streams} streams") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Exit, Failure};
    use crate::status::StreamBoard;

    fn ready(board: &Board, stream: &StreamBoard) {
        board.set_kafka(Ok(()));
        stream.update(|status| {
            status.state = StreamState::Running;
            status.checkpoint_committed = true;
            status.call_open_since = Some(chrono::Utc::now());
            status.call_had_message = true;
            status.position_time = Some(chrono::Utc::now());
        });
    }

    #[tokio::test]
    async fn systemd_hears_of_the_start_the_state_the_life_and_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let listens = UnixDatagram::bind(&path).expect("bound");
        let board = Board::new();
        let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
        let watchdog = Some(Duration::from_millis(400));
        let manager = ServiceManager { socket: path.into_os_string(), watchdog };
        let ended = CancellationToken::new();
        let telling = tokio::spawn(manager.tell(board.clone(), ended.clone()));
        let heard = async |wanted: &str| {
            let mut all = String::new();
            while !all.lines().any(|line| line.starts_with(wanted)) {
                let mut datagram = [0; 1000];
                let size = timeout(Duration::from_secs(60), listens.recv(&mut datagram)).await;
                let size = size.unwrap_or_else(|_| panic!("in vain for {wanted}: {all}")).expect("received");
                all.push_str(&String::from_utf8_lossy(&datagram[..size]));
                all.push('\n');
            }
            all
        };
        let failure = Failure::new(Exit::NoPermission, "Salesforce says:\nREADY=1", "mend it");
        stream.stopped(&failure);
        let told = heard("STATUS=not ready: /data/CaseChangeEvent: stopped: Salesforce says: READY=1").await;
        assert!(!told.lines().any(|line| line == "READY=1"), "words of others are no assignments: {told}");
        ready(&board, &stream);
        assert!(heard("READY=1").await.contains("STATUS=1 stream carried, 71 h until data loss"));
        heard("WATCHDOG=1").await;
        heard("WATCHDOG=1").await;
        board.set_stopping();
        heard("STOPPING=1").await;
        ended.cancel();
        telling.await.expect("it ends");
    }

    #[test]
    fn the_watchdog_hears_nothing_of_a_process_in_which_a_stream_hangs() {
        let board = Board::new();
        let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
        ready(&board, &stream);
        let minute = Duration::from_secs(60);
        let mut news = News { watchdog: Some(2 * minute), ..News::default() };
        let fed = |lines: Vec<String>| lines.iter().any(|line| line == "WATCHDOG=1");
        let start = Instant::now();
        let mut snapshot = board.snapshot();
        assert!(fed(news.lines(&snapshot, start)), "at once");
        assert!(!fed(news.lines(&snapshot, start + minute / 4)), "it is not due");
        snapshot.streams[0].still_for_seconds = Some(60);
        assert!(!fed(news.lines(&snapshot, start + minute)), "a task that has no turn");
        snapshot.streams[0].still_for_seconds = Some(1);
        assert!(fed(news.lines(&snapshot, start + minute)), "it goes on");
        let since = chrono::Utc::now() - chrono::TimeDelta::minutes(6);
        snapshot.streams[0].state = StreamState::Stalled { call: "commit".to_owned(), since };
        assert!(!fed(news.lines(&snapshot, start + 2 * minute)), "a call that does not return");
    }

    #[test]
    fn a_standby_is_up_and_a_stream_that_starts_is_not() {
        let board = Board::new();
        assert!(!is_up(&board.snapshot()), "nothing has begun");
        let (first, second) = ("/data/CaseChangeEvent".parse(), "/event/Order__e".parse());
        let (first, second) = (board.stream(first.expect("a topic")), board.stream(second.expect("a topic")));
        ready(&board, &first);
        assert!(!is_up(&board.snapshot()), "the other one starts");
        second.set_state(StreamState::Standby { by: "host b".to_owned(), since: chrono::Utc::now() });
        assert!(is_up(&board.snapshot()));
        assert!(status(&board.snapshot()).contains("host b writes this stream"));
        board.set_kafka(Err("connection refused".to_owned()));
        assert!(!is_up(&board.snapshot()));
    }
}
