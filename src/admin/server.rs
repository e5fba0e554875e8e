//! `/live`, `/ready`, `/metrics` and `/status`, all read from the status board; and the ways to the page and to what acts.
//!
//! - `/live` fails only for what a restart may mend: a stream whose call to Kafka has been hanging for five minutes, whose task
//!   has had no turn for a minute, or which runs and has committed nothing for twenty.
//! - `/ready` says for each stream why it is not ready. A fault at Salesforce makes the
//!   process unready, never dead: restarting would not help, and would cost the position's age.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::Utc;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::denial::{AdminError, Denial};
use crate::admin::events::News;
use crate::admin::guard::{self, Guard};
use crate::admin::snapshots::{SnapshotDoor, Wanted};
use crate::admin::{comparisons, page, pause};
use crate::status::{Board, METRICS_CONTENT_TYPE, Metrics, NotReady};

/// The most that a request may bring.
const MOST_BYTES: usize = 64 * 1024;

#[derive(Clone)]
struct Shown {
    board: Board,
    metrics: Metrics,
    door: Arc<SnapshotDoor>,
    news: News,
}

/// Opens the port. Port 0 takes a free one; the listener knows which.
///
/// # Errors
/// When the address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|error| AdminError { address, error })
}

/// Serves until `stop`. It is stopped last, so that the end can be watched.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    board: Board,
    metrics: Metrics,
    (guard, door): (Guard, SnapshotDoor),
    stop: CancellationToken,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let door = Arc::new(door);
    let news = News::new(board.clone(), door.clone(), guard.acts(), stop.clone());
    tokio::spawn(news.clone().sample());
    let acts = Router::new()
        .route("/snapshots", post(snapshots))
        .route("/comparisons", post(compare))
        .route("/streams/pause", post(pause_stream))
        .route("/streams/resume", post(resume_stream))
        .route_layer(from_fn_with_state(guard.clone(), guard::acts));
    let router = Router::new()
        .route("/", get(page::page))
        .route("/events", get(events))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .route("/status", get(status))
        .merge(acts)
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(from_fn_with_state((guard, address), guard::answers))
        .with_state(Shown { board, metrics, door, news });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn events(State(shown): State<Shown>) -> Response {
    shown.news.listen()
}

async fn pause_stream(State(shown): State<Shown>, body: Bytes) -> Response {
    pause::answer(&shown.board, &body, true)
}

async fn resume_stream(State(shown): State<Shown>, body: Bytes) -> Response {
    pause::answer(&shown.board, &body, false)
}

async fn live(State(shown): State<Shown>) -> Response {
    answer(&shown.board.snapshot().dead_streams(Utc::now()))
}

async fn ready(State(shown): State<Shown>) -> Response {
    answer(&shown.board.snapshot().not_ready())
}

fn answer(reasons: &[NotReady]) -> Response {
    if reasons.is_empty() {
        return Json(json!({ "ok": true })).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ok": false, "reasons": reasons }))).into_response()
}

async fn scrape(State(shown): State<Shown>) -> Response {
    match shown.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn snapshots(State(shown): State<Shown>, body: Bytes) -> Response {
    let wanted = if body.is_empty() { Ok(Wanted::default()) } else { serde_json::from_slice(&body) };
    let wanted = wanted.map_err(|error| Denial::SnapshotBody(error.to_string()));
    shown.door.answer(&shown.board, wanted).await
}

async fn compare(State(shown): State<Shown>, body: Bytes) -> Response {
    comparisons::answer(&shown.board, shown.door.of_messages(), &body).await
}

async fn status(State(shown): State<Shown>) -> Response {
    let snapshot = shown.board.snapshot();
    let loss: serde_json::Map<String, serde_json::Value> = snapshot
        .streams
        .iter()
        .map(|stream| {
            let left = stream.until_data_loss(snapshot.salesforce_now).map(|left| left.as_secs());
            (stream.topic.to_string(), left.into())
        })
        .collect();
    let (not_ready, journal) = (snapshot.not_ready(), shown.board.journal(0));
    let all =
        json!({ "process": snapshot, "seconds_until_data_loss": loss, "not_ready": not_ready, "journal": journal });
    Json(all).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::status::{OpenedSnapshot, RefusedSnapshot, StreamState};

    const CONFIGURATION: &str = "[salesforce]\nusername = 'u'\nclient_id = 'c'\nprivate_key = 'k'\n[kafka]\nbrokers = 'b:1'\n\
        [[stream]]\ntopic = '/data/CaseChangeEvent'\nstart = 'earliest'\n[snapshot]\nentities = ['User']\n";

    fn doors(token: &str) -> (Guard, SnapshotDoor) {
        let variables = (!token.is_empty()).then(|| ("CASEWIRE__ADMIN__TOKEN".to_owned(), token.to_owned()));
        let table = CONFIGURATION.parse().expect("TOML");
        let config = Config::from_table(table, &variables.into_iter().collect()).expect("valid");
        (Guard::of(&config.admin), SnapshotDoor::of(&config))
    }

    #[tokio::test]
    async fn a_snapshot_is_opened_for_whoever_shows_the_token_and_refused_with_a_reason_to_all_others() {
        let board = Board::new();
        let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
        let stop = CancellationToken::new();
        let mut addresses = Vec::new();
        for token in ["", "sesame"] {
            let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
            addresses.push(listener.local_addr().expect("bound"));
            let metrics = Metrics::new(board.clone());
            tokio::spawn(serve(listener, board.clone(), metrics, doors(token), stop.clone()));
        }
        let ask = async |address: usize, token: &str, body: &str| {
            let asked = reqwest::Client::new().post(format!("http://{}/snapshots", addresses[address]));
            let asked = asked.bearer_auth(token).header(header::CONTENT_TYPE, "application/json");
            let answer = asked.body(body.to_owned()).send().await.expect("answered");
            (answer.status().as_u16(), answer.text().await.expect("text"))
        };
        let (code, text) = ask(0, "sesame", "{}").await;
        assert!(code == 403 && text.contains("has no admin.token"), "{code} {text}");
        for wrong in ["", "sesam", "sesame2"] {
            assert_eq!(ask(1, wrong, "{}").await.0, 401, "{wrong}");
        }
        for (body, expected) in [
            ("{\"entity\":\"Case\"}", "unknown field"),
            ("[", "not what is expected"),
            ("{\"since\":\"yesterday\"}", "not what is expected"),
        ] {
            let (code, text) = ask(1, "sesame", body).await;
            assert!(code == 400 && text.contains(expected), "{code} {text}");
        }
        let (code, text) = ask(1, "sesame", "{}").await;
        assert!(code == 503 && text.contains("is starting"), "{code} {text}");

        stream.set_state(StreamState::Running);
        let requests = stream.requests().clone();
        tokio::spawn(async move {
            let mut asked = Vec::new();
            loop {
                let Some(request) = requests.take() else {
                    requests.come().await;
                    continue;
                };
                let job = format!("snapshot-{}", request.entity);
                let known = asked.contains(&request.entity);
                asked.push(request.entity.clone());
                let opened = OpenedSnapshot { job: job.clone(), records: 7 };
                let _ = request.answer.send(if known { Err(RefusedSnapshot::UnderWay(job)) } else { Ok(opened) });
            }
        });
        let (code, text) = ask(1, "sesame", "{\"entities\":[\"Case\"],\"where\":\"IsClosed = false\"}").await;
        assert!(code == 202 && text.contains("\"job\":\"snapshot-Case\""), "{code} {text}");
        let (code, text) = ask(1, "sesame", "").await;
        assert!(code == 409 && text.contains("A snapshot of Case is under way already"), "{code} {text}");
        assert!(text.contains("\"job\":\"snapshot-User\""), "the other one is opened: {text}");
        stop.cancel();
    }

    /// Events of a listener, one after the other.
    struct Listening(reqwest::Response, String);

    impl Listening {
        async fn to(address: SocketAddr) -> Self {
            let answer = reqwest::get(format!("http://{address}/events")).await.expect("answered");
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
            Self(answer, String::new())
        }

        /// Name and data of the next one, samples left out; none at the end.
        async fn next(&mut self) -> Option<(String, serde_json::Value)> {
            loop {
                if let Some((event, rest)) = self.1.split_once("\n\n") {
                    let member =
                        |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                    let (name, data) = (member("event: ").to_owned(), serde_json::from_str(member("data: ")));
                    self.1 = rest.to_owned();
                    if name != "sample" {
                        return Some((name, data.expect("JSON")));
                    }
                    continue;
                }
                let chunk = self.0.chunk().await.expect("it lives")?;
                self.1.push_str(std::str::from_utf8(&chunk).expect("text"));
            }
        }
    }

    #[tokio::test]
    async fn a_listener_gets_everything_and_then_what_changes_and_there_are_so_many_of_them_until_the_end() {
        let board = Board::new();
        let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let server =
            tokio::spawn(serve(listener, board.clone(), Metrics::new(board.clone()), doors("sesame"), stop.clone()));
        let mut first = Listening::to(address).await;
        let (name, all) = first.next().await.expect("an event");
        let shown = &all["document"]["streams"]["/data/CaseChangeEvent"];
        assert!(
            name == "snapshot" && shown["state"] == "starting" && shown["objects"] == json!(["Case", "User"]),
            "{all}"
        );
        assert!(!all.to_string().contains("sesame"), "{all}");

        stream.update(|status| (status.state, status.records_committed) = (StreamState::Running, 41));
        let (name, news) = first.next().await.expect("an event");
        assert!(name == "journal" && news["entries"][0]["what"] == "running", "{name} {news}");
        // Many changes are few events, and the last of them tells how it is.
        for count in 42..=1_041 {
            stream.update(|status| status.records_committed = count);
        }
        let (mut told, mut newest) = (0, serde_json::Value::Null);
        while newest != json!(1_041) {
            let (name, change) = first.next().await.expect("an event");
            assert_eq!(name, "change");
            newest = change["patch"]["streams"]["/data/CaseChangeEvent"]["records_committed"].clone();
            told += 1;
        }
        assert!(told <= 3, "{told} events");

        let mut others = Vec::new();
        let refused = loop {
            let answer = reqwest::get(format!("http://{address}/events")).await.expect("answered");
            match answer.status().as_u16() {
                200 => others.push(answer),
                _ => break answer,
            }
            assert!(others.len() < 100, "they are not bounded");
        };
        assert_eq!(refused.status(), 503);
        assert!(refused.text().await.expect("text").contains("listeners are connected already"));
        drop(others);
        // A place that is left can be had again.
        let mut second = loop {
            let answer = reqwest::get(format!("http://{address}/events")).await.expect("answered");
            if answer.status() == 200 {
                break Listening(answer, String::new());
            }
            tokio::task::yield_now().await;
        };
        assert!(second.next().await.is_some_and(|(name, _)| name == "snapshot"));
        stop.cancel();
        while first.next().await.is_some() {}
        while second.next().await.is_some() {}
        server.await.expect("joined").expect("the listeners do not hold the end up");
    }

    #[tokio::test]
    async fn a_stream_is_paused_by_who_may_and_a_page_of_another_name_gets_nothing() {
        let board = Board::new();
        let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
        stream.set_state(StreamState::Running);
        let paused = stream.requests().paused();
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, board.clone(), Metrics::new(board.clone()), doors("sesame"), stop.clone()));
        let ask = async |path: &str, token: &str, body: serde_json::Value| {
            let asked = reqwest::Client::new().post(format!("http://{address}{path}")).bearer_auth(token).json(&body);
            let answer = asked.send().await.expect("answered");
            (answer.status().as_u16(), answer.text().await.expect("text"))
        };
        let cases = json!({ "topic": "/data/CaseChangeEvent" });
        assert_eq!(ask("/streams/pause", "wrong", cases.clone()).await.0, 401);
        assert_eq!(ask("/streams/pause", "sesame", json!({ "stream": 1 })).await.0, 400);
        let (code, text) = ask("/streams/pause", "sesame", json!({ "topic": "/data/OtherChangeEvent" })).await;
        assert!(code == 404 && text.contains("/data/CaseChangeEvent"), "{code} {text}");
        assert!(!*paused.borrow());
        let (code, text) = ask("/streams/pause", "sesame", cases.clone()).await;
        assert!(code == 200 && text.contains("\"state\":\"paused\"") && *paused.borrow(), "{code} {text}");
        // A station that says that the stream runs does not end the pause.
        stream.set_state(StreamState::Running);
        let shown = board.snapshot();
        assert!(matches!(shown.streams[0].state, StreamState::Paused { .. }), "{shown:?}");
        assert!(shown.not_ready().iter().any(|one| one.reason.contains("paused by an operator")), "{shown:?}");
        let metrics =
            reqwest::get(format!("http://{address}/metrics")).await.expect("answered").text().await.expect("text");
        for line in [
            "casewire_stream_running{topic=\"/data/CaseChangeEvent\"} 0",
            "casewire_stream_paused{topic=\"/data/CaseChangeEvent\"} 1",
        ] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
        assert_eq!(ask("/streams/resume", "sesame", cases.clone()).await.0, 200);
        assert!(!*paused.borrow() && board.snapshot().streams[0].state == StreamState::Running);
        stream.set_state(StreamState::Standby { by: "other".to_owned(), since: Utc::now() });
        assert_eq!(ask("/streams/pause", "sesame", cases).await.0, 409);
        assert!(!*paused.borrow(), "it would stay paused when the other one falls silent");

        let told = async |path: &str, host: &str| {
            let answer =
                reqwest::Client::new().get(format!("http://{address}{path}")).header(header::HOST, host).send().await;
            let answer = answer.expect("answered");
            (answer.status().as_u16(), answer.text().await.expect("text"))
        };
        for path in ["/", "/events", "/status", "/ready", "/metrics"] {
            let (code, text) = told(path, "evil.example:8686").await;
            assert!(code == 421 && text.contains("admin.hosts") && !text.contains("/data/"), "{path}: {code} {text}");
        }
        let (code, page) = told("/", "localhost:8686").await;
        assert!(code == 200 && page.contains("<title>casewire</title>"), "{code}");
        stop.cancel();
    }

    #[tokio::test]
    async fn ready_names_each_stream_that_is_not_and_why() {
        let board = Board::new();
        let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, board.clone(), Metrics::new(board.clone()), doors(""), stop.clone()));
        let get = async |path: &str| {
            let answer = reqwest::get(format!("http://{address}{path}")).await.expect("answered");
            (answer.status().as_u16(), answer.text().await.expect("text"))
        };

        let (code, text) = get("/ready").await;
        assert_eq!(code, 503);
        assert!(text.contains("/data/CaseChangeEvent") && text.contains("kafka"), "{text}");
        assert_eq!(get("/live").await.0, 200, "a stream that starts is alive");

        board.set_kafka(Ok(()));
        stream.update(|status| {
            status.state = StreamState::Running;
            status.checkpoint_committed = true;
            status.call_open_since = Some(Utc::now());
            status.call_had_message = true;
        });
        assert_eq!(get("/ready").await.0, 200);
        assert!(get("/metrics").await.1.contains("casewire_stream_running{topic=\"/data/CaseChangeEvent\"} 1"));
        assert!(get("/status").await.1.contains("\"state\":\"running\""));

        let since = Utc::now() - chrono::TimeDelta::minutes(6);
        stream.set_state(StreamState::Stalled { call: "commit".to_owned(), since });
        assert_eq!(get("/live").await.0, 503);
        stop.cancel();
        server.await.expect("joined").expect("served");
    }
}
