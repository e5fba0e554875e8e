//! Polls beside jobs, and where what Salesforce answers does not fit together: the runner against a server that answers by
//! script, and a desk in the place of the run loop.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::change::FieldPolicies;
use crate::config::{Config, FieldChoice};
use crate::identity::TopicName;
use crate::kafka::{Checkpoint, RunIdentity, StreamIdentity};
use crate::pipeline::claims::EntityClaims;
use crate::pipeline::context::StreamContext;
use crate::pipeline::jobs::desk::Desk;
use crate::pipeline::jobs::job::{BulkPass, Job, SnapshotScope, set};
use crate::pipeline::jobs::polled::Window;
use crate::pipeline::jobs::reading::Step;
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::seam::JobBatch;
use crate::pipeline::jobs::touched::{Copy, Known, RecordKey};
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::schemas::SchemaCache;
use crate::pipeline::settings;
use crate::position::{Anchor, Position};
use crate::salesforce::backoff::BackoffLimits;
use crate::salesforce::bulk::BulkJob;
use crate::salesforce::describe::Descriptions;
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest_client::RestClient;
use crate::salesforce::scripted::{Asked, ORG, ScriptedHttp, answer, granted, session, soon};
use crate::status::{Board, Metrics};

const CASES: &str = "/data/CaseChangeEvent";
pub(super) const ENTITY: &str = "CaseComment";
pub(super) const ID: &str = "00a8d000000047SAAQ";

/// A Bulk query job of which Salesforce never says anything but that it is at it.
pub(super) const BULK: &str = "7508d000000001AAAQ";

/// What the org says of the one comment that there is.
#[derive(Debug, Clone)]
pub(super) struct Comment {
    text: String,
    stamp: DateTime<Utc>,
    /// Whether listings have it, and whether reads do.
    listed: bool,
    readable: bool,
    /// Salesforce's clock beside ours, as answers have it.
    pub(super) ahead: TimeDelta,
}

impl Comment {
    fn json(&self) -> Value {
        json!({"attributes": {"type": ENTITY}, "Id": ID, "IsDeleted": false, "CommentBody": self.text,
            "SystemModstamp": self.stamp.format("%Y-%m-%dT%H:%M:%S.000+0000").to_string()})
    }

    fn answer(&self, asked: &Asked) -> Response {
        let records = |shown: bool| if shown { vec![self.json()] } else { Vec::new() };
        let soql = asked.query.get("q").map(String::as_str).unwrap_or_default();
        let body = if asked.path.ends_with("/describe") {
            let fields =
                [("Id", "id"), ("IsDeleted", "boolean"), ("SystemModstamp", "datetime"), ("CommentBody", "string")];
            let fields = fields.map(|(name, kind)| json!({"name": name, "type": kind, "compoundFieldName": null}));
            json!({"name": ENTITY, "fields": fields})
        } else if asked.path.contains("/composite/") {
            json!([self.readable.then(|| self.json())])
        } else if asked.path.contains("/jobs/query") {
            json!({"id": BULK, "state": "InProgress"})
        } else if soql.contains("COUNT()") {
            json!({"totalSize": 1, "done": true, "records": []})
        } else if soql.contains("ORDER BY Id") {
            json!({"totalSize": 1, "done": true, "records": records(self.listed)})
        } else {
            assert!(soql.contains("Id IN ("), "{soql}");
            json!({"totalSize": 1, "done": true, "records": records(self.readable)})
        };
        let mut answer = answer(200, body.to_string());
        let date = (Utc::now() + self.ahead).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        answer.headers_mut().insert("date", date.parse().expect("a header"));
        answer
    }
}

/// A record of the output: its topic's name without the prefix, its operation, and its value.
pub(super) type Written = (String, String, Value);

/// A runner that polls comments, and all that it has written.
pub(super) struct Scene {
    org: Arc<Mutex<Comment>>,
    pub(super) runner: Runner,
    written: Arc<Mutex<Vec<Written>>>,
    topic: Arc<str>,
    _loop: AbortOnDropHandle<()>,
}

fn context(config: &Config) -> StreamContext {
    let stream = config.streams[0].clone();
    let (topic, board): (TopicName, _) = (stream.topic.clone(), Board::new());
    StreamContext {
        identity: StreamIdentity { prefix: "p".to_owned(), org: ORG.parse().expect("an org"), topic: topic.clone() },
        run: RunIdentity::of_this_process(),
        board: board.stream(topic.clone()),
        metrics: Metrics::new(board),
        tracer: None,
        claims: EntityClaims::of([&topic]),
        policies: settings::policies(&config.policies),
        batch: config.batch,
        ledger_topic: "p.gaps".into(),
        dead_letters_topic: "p.dead-letters".into(),
        anchored: Arc::default(),
        last_commit: Mutex::default(),
        stream,
    }
}

/// Commits what the runner hands over, as the run loop does.
async fn commit_all(
    desk: Arc<Desk>,
    mut checkpoint: Checkpoint,
    mut batches: mpsc::Receiver<JobBatch>,
    written: Arc<Mutex<Vec<Written>>>,
) {
    while let Some(mut batch) = batches.recv().await {
        let mut next = checkpoint.clone();
        let (records, back, noted) = desk.admit(&mut batch, &mut next);
        next.seq += 1;
        checkpoint = next;
        desk.committed(&checkpoint, noted);
        for record in records {
            let op = record.headers.iter().find(|(name, _)| *name == "op").map(|(_, op)| op.to_vec());
            let value = record.value.map(|value| serde_json::from_slice(&value).expect("JSON")).unwrap_or_default();
            let topic = record.topic.trim_start_matches("p.").to_owned();
            let op = String::from_utf8(op.unwrap_or_default()).expect("a name");
            written.lock().expect("no panic").push((topic, op, value));
        }
        batch.receipt(back);
    }
}

impl Scene {
    /// With a job that is to read these records.
    async fn begin(job: Option<Job>) -> Self {
        Self::begin_with(job.map(|job| ("heal-1", job))).await
    }

    /// With these jobs.
    pub(super) async fn begin_with(jobs: impl IntoIterator<Item = (&'static str, Job)>) -> Self {
        let stamp = Utc::now() - TimeDelta::seconds(20);
        let comment = Comment { text: "a".into(), stamp, listed: true, readable: true, ahead: TimeDelta::zero() };
        let org = Arc::new(Mutex::new(comment));
        let script = org.clone();
        let server = ScriptedHttp::start(move |asked| {
            if asked.path.ends_with("/token") {
                return granted("token", &asked.host, ORG);
            }
            script.lock().expect("no panic").answer(&asked)
        })
        .await;
        let text = format!(
            "[salesforce]\nclient_id = 'c'\nclient_secret = 's'\nlogin_url = '{}'\n[kafka]\nbrokers = '127.0.0.1:1'\n\
             [[stream]]\ntopic = '{CASES}'\nstart = 'latest'\n[[poll]]\nentity = '{ENTITY}'\nlook_back = '1min'\n",
            server.url
        );
        let config = Config::from_table(text.parse().expect("TOML"), &BTreeMap::new()).expect("a configuration");
        let context = Arc::new(context(&config));
        let mut checkpoint = Checkpoint::at(Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH }));
        for (id, job) in jobs {
            set(&mut checkpoint, id, &job);
        }
        let desk = Arc::new(Desk::new(context.clone(), config.gaps, &checkpoint));
        let (out, batches) = mpsc::channel(1);
        let written: Arc<Mutex<Vec<Written>>> = Arc::default();
        let committing = tokio::spawn(commit_all(desk.clone(), checkpoint, batches, written.clone()));
        let backoff = BackoffLimits::new(Duration::from_millis(2), Duration::from_millis(8)).expect("valid");
        let client = RestClient::with_backoff(session(&server.url), backoff);
        let descriptions = Descriptions::new(client.clone(), FieldChoice::All, FieldPolicies::default());
        let reader = RecordReader::new(client, descriptions);
        let schemas = SchemaCache::new(settings::salesforce(&config).expect("settings"));
        let (memory, kafka) = (Arc::new(StreamMemory::default()), settings::kafka(&config.kafka).expect("settings"));
        let stop = CancellationToken::new();
        let runner = Runner::new(context, memory, kafka, (reader, schemas), desk, out, stop);
        let mut runner = runner.polling(&config.polls, &BTreeMap::new());
        runner.current = "heal-1".to_owned();
        // As if the topic had been read, with nothing in it.
        runner.polls[0].from = Some(Utc::now() - TimeDelta::minutes(2));
        runner.polls[0].window = Some(Window::new());
        Self { org, runner, written, topic: format!("p.{ENTITY}").into(), _loop: AbortOnDropHandle::new(committing) }
    }

    pub(super) fn org(&self, change: impl FnOnce(&mut Comment)) {
        change(&mut self.org.lock().expect("no panic"));
    }

    /// One page of the listing, which is all of it. Returns what was written.
    async fn poll(&mut self) -> Vec<Written> {
        soon(self.runner.poll_page(0, ENTITY, &self.topic)).await.expect("polled");
        self.news()
    }

    /// The job reads the comment.
    async fn job(&mut self) -> Vec<Written> {
        self.job_named("heal-1").await
    }

    async fn job_named(&mut self, id: &str) -> Vec<Written> {
        soon(self.runner.read(id, ENTITY, &[ID.to_owned()], &Step::Ids)).await.expect("read");
        self.news()
    }

    /// What was written of records and of the ledger since this was asked.
    pub(super) fn news(&self) -> Vec<Written> {
        let written = std::mem::take(&mut *self.written.lock().expect("no panic"));
        written.into_iter().filter(|(topic, ..)| topic == ENTITY || topic == "gaps").collect()
    }

    /// Rounds that are complete.
    fn rounds(&self) -> u64 {
        let status = self.runner.context.board.status().expect("the stream's");
        status.polls.first().map_or(0, |poll| poll.rounds)
    }

    fn from(&self) -> DateTime<Utc> {
        self.runner.polls[0].from.expect("begun")
    }
}

pub(super) fn ops(written: &[Written]) -> Vec<&str> {
    written.iter().map(|(_, op, _)| op.as_str()).collect()
}

/// A pass over Bulk that has brought nothing yet.
pub(super) fn bulk_pass(created_at: DateTime<Utc>) -> BulkPass {
    let job = BulkJob { id: BULK.to_owned(), version: "66.0".to_owned() };
    BulkPass { job, marker: 0, created_at, found: None, locator: None, dealt: 0, before: 0, ended: false }
}

fn job_of_the_comment() -> Job {
    let mut job = Job::new(Some(ENTITY.to_owned()), "gap".to_owned(), None);
    job.ids.insert(ID.to_owned());
    job
}

#[tokio::test]
async fn what_a_job_has_written_of_a_polled_record_is_not_written_again_by_the_poll() {
    let mut scene = Scene::begin(Some(job_of_the_comment())).await;
    assert_eq!(ops(&scene.poll().await), ["refresh"], "nobody knew of it");
    assert!(scene.poll().await.is_empty());
    scene.org(|comment| comment.text = "b".to_owned());
    assert_eq!(ops(&scene.job().await), ["refresh"]);
    assert!(scene.poll().await.is_empty(), "it stands there already");
    scene.org(|comment| comment.text = "c".to_owned());
    assert_eq!(ops(&scene.poll().await), ["refresh"], "and what comes later is written");
}

#[tokio::test]
async fn a_record_that_a_job_took_for_deleted_is_written_by_the_poll_when_it_comes_back_as_it_was() {
    let mut job = job_of_the_comment();
    // One that has listed the object, and reads what it did not find there.
    job.whole = true;
    let mut scene = Scene::begin(Some(job)).await;
    assert_eq!(ops(&scene.poll().await), ["refresh"]);
    let stamp = scene.org.lock().expect("no panic").stamp.timestamp();
    let key = RecordKey::of(ID.as_bytes()).expect("an id");
    scene.runner.copies.insert("heal-1".to_owned(), Copy::from([(key, Known { as_of: stamp, alive: true })]));
    scene.org(|comment| (comment.listed, comment.readable) = (false, false));
    assert_eq!(ops(&scene.job().await), ["delete"]);
    assert!(scene.poll().await.is_empty(), "nothing is listed");
    scene.org(|comment| (comment.listed, comment.readable) = (true, true));
    let written = scene.poll().await;
    assert_eq!(ops(&written), ["refresh"], "unchanged, and alive");
    assert_eq!(written[0].2["record"]["CommentBody"], json!("a"));
    assert!(scene.poll().await.is_empty());
}

#[tokio::test]
async fn a_clock_that_steps_forward_between_two_answers_lets_no_window_begin_in_the_future() {
    let mut scene = Scene::begin(None).await;
    scene.org(|comment| comment.ahead = TimeDelta::hours(2));
    // The answer sets the clock.
    soon(scene.runner.plan_of(ENTITY)).await.expect("described");
    let told = scene.runner.reader.client().session().salesforce_now();
    assert!(told > Utc::now() + TimeDelta::hours(1), "{told}");
    // Salesforce's clock was never ahead: that answer was wrong, or ours has been set meanwhile.
    scene.org(|comment| comment.ahead = TimeDelta::zero());
    scene.poll().await;
    assert!(scene.from() < Utc::now(), "what is stamped from now on would be left out: {}", scene.from());
    assert!(scene.runner.polls[0].round.is_none(), "the round has ended");
}

#[tokio::test]
async fn a_record_that_is_listed_and_that_no_read_shows_is_an_entry_of_the_ledger_and_not_passed_over() {
    let mut scene = Scene::begin(None).await;
    scene.org(|comment| comment.readable = false);
    let before = scene.from();
    assert!(scene.poll().await.is_empty(), "it may have been purged since: the round is made again");
    assert_eq!(scene.from(), before, "and nothing is behind it yet");
    let written = scene.poll().await;
    let [(topic, _, entry)] = written.as_slice() else { panic!("{written:?}") };
    assert_eq!(
        (topic.as_str(), &entry["cause"], &entry["state"]),
        ("gaps", &json!("hidden"), &json!("open")),
        "{entry}"
    );
    assert_eq!((&entry["entity"], &entry["records"]), (&json!(ENTITY), &json!([ID])), "{entry}");
    let (jobs, _) = scene.runner.desk.jobs();
    let job = jobs.values().next().expect("a job that reads it");
    assert!(job.ids.contains(ID) && job.entity.as_deref() == Some(ENTITY), "{job:?}");
    assert!(scene.from() > before, "the position is behind it, in the same transaction");
    let before = scene.rounds();
    assert!(scene.poll().await.is_empty(), "told once");
    assert_eq!(scene.rounds(), before + 1, "what is told holds nothing up");

    // It is shown and hidden again with the stamp that it had. Nobody knows whether it says the same, so it is told again.
    let hidden_again = async |scene: &mut Scene| {
        scene.org(|comment| comment.readable = false);
        assert!(scene.poll().await.is_empty(), "the round is made again");
        let written = scene.poll().await;
        let [(_, _, again)] = written.as_slice() else { panic!("{written:?}") };
        assert_eq!((&again["id"], &again["state"]), (&entry["id"], &json!("open")), "{again}");
        assert!(scene.poll().await.is_empty(), "told once");
    };
    scene.org(|comment| comment.readable = true);
    assert_eq!(ops(&scene.poll().await), ["refresh"], "it is shown, and nobody knew of it");
    hidden_again(&mut scene).await;
    let (jobs, _) = scene.runner.desk.jobs();
    assert_eq!(jobs.len(), 1, "that has still to read it: {jobs:?}");
    // That job reads it before it is hidden once more, so it says nothing of what comes after.
    let first = jobs.keys().next().expect("a job").clone();
    scene.org(|comment| comment.readable = true);
    assert_eq!(ops(&scene.job_named(&first).await), ["refresh"]);
    hidden_again(&mut scene).await;
    let (jobs, _) = scene.runner.desk.jobs();
    let to_read: Vec<bool> = jobs.values().map(|job| job.ids.contains(ID)).collect();
    assert_eq!(to_read, [false, true], "another one reads it: {jobs:?}");
}

#[tokio::test]
async fn a_poll_begins_beside_a_snapshot_of_which_nothing_is_read_and_waits_for_one_that_is_under_way() {
    let snapshot = Job::snapshot_of(ENTITY.to_owned(), SnapshotScope::default());
    for (job, begins) in [
        (None, true),
        (Some(snapshot.clone()), true),
        // What was changed while it was read may be older than the first window.
        (Some(Job { listed: 1, ..snapshot.clone() }), false),
        (Some(Job { bulk: Some(bulk_pass(Utc::now())), ..snapshot.clone() }), false),
        (
            Some(Job {
                snapshot: Some(SnapshotScope {
                    condition: Some("A = 1".into()),
                    ..snapshot.snapshot.clone().unwrap_or_default()
                }),
                ..snapshot.clone()
            }),
            false,
        ),
    ] {
        let what = format!("{job:?}");
        let mut scene = Scene::begin_with(job.map(|job| ("snapshot-1", job))).await;
        // Ours is two hours ahead.
        scene.org(|comment| comment.ahead = TimeDelta::hours(-2));
        scene.runner.polls[0].from = None;
        soon(scene.runner.begin_poll(0, ENTITY)).await.expect("asked");
        let status = scene.runner.context.board.status().expect("the stream's");
        let waits = status.polls.first().and_then(|poll| poll.waits_for.as_deref());
        assert_eq!(scene.runner.desk.jobs().0.len(), 1, "one snapshot: {what}");
        if begins {
            let latest = Utc::now() - TimeDelta::hours(2) - TimeDelta::seconds(50);
            assert!(scene.from() < latest && waits.is_none(), "{} {waits:?} {what}", scene.from());
        } else {
            assert!(
                scene.runner.polls[0].from.is_none() && waits.is_some_and(|waits| waits.contains("snapshot-1")),
                "{what}"
            );
        }
    }
}
