//! The crash test of the first synchronisation: what stood in the org before anybody listened comes by snapshots, what changes
//! meanwhile by the streams, and what is said in messaging sessions by calls that are few, all at once, while the process
//! dies at random moments and at the worst ones. Then an overflow of the whole object, healed over Bulk in the same way.
//!
//! `CASEWIRE_CRASH_RECORDS` is how many records stand in the org at first; of changes there are a quarter as many, and of
//! messages a tenth. `CASEWIRE_CRASH_OVERFLOW` is how many records the overflow changes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::checkpoints::{ARRIVAL, AllSeen};
use crate::{Plan, Scene, assert_aborted_transactions, checkpoint_topic, set_up};

/// Of the calls for messages that are allowed in an hour, so many flow into a bucket that is empty at each start.
const FLOWING: f64 = 0.75;

/// Calls for messages that the org allows in an hour, and that casewire may make: fewer than it would like to.
fn calls(records: u64) -> u64 {
    records * 8 / 5
}

/// Everything on: snapshots at the first run, events, healing, messages.
fn everything(records: u64) -> &'static Plan {
    let calls = calls(records);
    let settings = format!(
        "[snapshot]\non_first_run = true\nparallel_bytes = 1048576\n[gaps]\ngive_up_after = \"1h\"\nlook_every = \"1s\"\nbulk_from = 1000\n\
         [messages]\ncalls_per_hour = {calls}\nmax_active = 5000\nsettle = \"10ms\"\n"
    );
    let rest = format!("conversation_calls = {calls}\nactive_conversations = 5000\nrepeated_entries = 10\n");
    Box::leak(Box::new(Plan {
        records: ["when_needed", "always", "never"],
        settings: settings.leak(),
        mix: "overflow = 0\nwildcard = 0\n",
        rest: rest.leak(),
        messages: true,
    }))
}

/// How each life ends, after the first: at a place, or somewhere. Those of the snapshot come while it is under way, and
/// those that wait for calls when it may have ended.
const ENDS: [Option<&str>; 14] = [
    Some("after_read"),
    None,
    Some("after_slice"),
    Some("after_records"),
    None,
    Some("after_checkpoint"),
    None,
    Some("after_begin"),
    None,
    Some("after_commit"),
    None,
    Some("after_fetched"),
    None,
    Some("after_said"),
];

/// All lives, that in which the result of the snapshot is not there yet among them.
const LIVES: u64 = 1 + ENDS.len() as u64;

/// So many lives at least have to end while the snapshot is under way.
const UNDER_WAY: usize = 3;

/// Records of one transaction.
const SLICE: u64 = 40;

fn size(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |size| size.parse().expect("a number"))
}

impl Scene {
    /// The jobs of an object's stream that read all of it, as they are committed.
    fn whole_jobs(&self, object: &str) -> Vec<Value> {
        let topic = checkpoint_topic(&format!("/data/{object}ChangeEvent"));
        let jobs = self.checkpoints.now().remove(&topic).map(|seen| seen.jobs).unwrap_or_default();
        jobs.into_iter().map(|(_, job)| job).filter(|job| job["whole"] == json!(true)).collect()
    }

    /// Waits until a job that reads all cases is as wanted.
    async fn until_a_job(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        let topic = checkpoint_topic("/data/CaseChangeEvent");
        self.checkpoints.wait(what, |seen| seen.get(&topic).is_some_and(|seen| seen.jobs.values().any(&wanted))).await;
    }

    /// Transactions of all streams so far.
    fn transactions(&self) -> u64 {
        self.checkpoints.now().values().map(|seen| seen.seq).sum()
    }

    /// Some changes, and something said.
    async fn go_on(&mut self, records: u64) {
        self.org.generate((records / 4).div_ceil(LIVES)).await;
        let messages = usize::try_from((records / 10).div_ceil(LIVES)).expect("few");
        self.org.talk(&mut self.dice, messages).await;
    }

    /// One life, until it ends at a place, or is killed after some transactions.
    async fn one_life(&mut self, end: Option<&str>, records: u64) {
        match end {
            Some(place) => {
                let jobs = ["after_read", "after_slice", "after_fetched", "after_said"];
                // Behind those by which the streams announce their new writer.
                let hit = if jobs.contains(&place) { self.dice_between(1, 4) } else { self.dice_between(5, 10) };
                let instance = self.start(Some(&format!("{place}:{hit}")));
                self.go_on(records).await;
                self.ended(instance, place).await;
            }
            None => {
                let most = (2 * records / SLICE / LIVES).max(12);
                let wanted = self.transactions() + self.dice_between(4, most);
                let instance = self.start(None);
                self.go_on(records).await;
                let count = |seen: &AllSeen| seen.values().map(|seen| seen.seq).sum::<u64>();
                self.checkpoints.wait("some transactions", |seen| count(seen) >= wanted).await;
                instance.kill().await;
            }
        }
    }

    /// Everything that was published after `replay_id` against Kafka, and what was truly said.
    async fn judge_everything(&self, replay_id: &str) -> Value {
        let said = self.directory.join("messages.jsonl");
        self.org.write_messages(&said).await;
        let more = ["--from-replay", replay_id, "--messages", &said.display().to_string()].map(str::to_owned);
        self.judge_the_truth(more.to_vec()).await
    }
}

/// Records that stood in the org before anybody listened: their events are not retained. Returns the last of these.
async fn old_records(scene: &Scene, records: u64) -> String {
    let sessions = (records / 40).max(50);
    for (object, rows) in [("Case", records - sessions), ("MessagingSession", sessions)] {
        scene.org.publish(json!({ "entity": object, "change_type": "GAP_OVERFLOW", "rows": rows })).await;
    }
    let last = scene.org.last_events()["/data/MessagingSessionChangeEvent"].clone();
    scene.org.fault(json!({ "kind": "expire-retention" })).await;
    last.split('/').next().expect("a replay id").to_owned()
}

/// The first run, and the lives after it. Returns how many ended while the snapshot was under way.
async fn snapshots_streams_and_messages(scene: &mut Scene, records: u64) -> usize {
    // What changes between the creation of the query and its result.
    scene.org.fault(json!({ "kind": "hold-bulk" })).await;
    let instance = scene.start(None);
    // A snapshot begins when its stream has a position, and a keepalive would be minutes away.
    for object in ["Case", "MessagingSession"] {
        scene.org.publish(json!({ "entity": object, "change_type": "UPDATE" })).await;
    }
    scene.until_a_job("the query", |job| job["bulk"].is_object()).await;
    scene.go_on(records).await;
    scene.some_transactions().await;
    instance.kill().await;
    scene.org.fault(json!({ "kind": "release-bulk" })).await;
    let mut under_way = 0;
    for end in ENDS {
        scene.one_life(end, records).await;
        under_way += usize::from(!scene.whole_jobs("Case").is_empty());
    }
    under_way
}

/// Salesforce gives up telling single changes of an object, and all of it is read again over Bulk.
async fn a_large_overflow_is_healed(scene: &mut Scene, rows: u64) {
    scene.org.publish(json!({ "entity": "Case", "change_type": "GAP_OVERFLOW", "rows": rows })).await;
    scene.ended_at("after_opening", 1).await;
    let hit = scene.dice_between(2, 6);
    scene.ended_at("after_read", hit).await;
    let instance = scene.start(None);
    let some = scene.dice_between(SLICE, rows / 2);
    for id in scene.org.ids("Case").await.iter().step_by(100) {
        scene.org.publish(json!({ "entity": "Case", "change_type": "UPDATE", "record_ids": [id] })).await;
    }
    let reads = |job: &Value| job["bulk"].is_object() && job["rows"].as_u64() >= Some(some);
    scene.until_a_job("some rows over Bulk", reads).await;
    instance.kill().await;
    let hit = scene.dice_between(2, 6);
    scene.ended_at("after_slice", hit).await;
    scene.ended_at("after_closing", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_run_of_a_full_org_holds_every_record_and_message_once_through_crashes() {
    let (records, overflow) = (size("CASEWIRE_CRASH_RECORDS", 3_000), size("CASEWIRE_CRASH_OVERFLOW", 3_000));
    let scene = set_up("the crash test of the first run", everything(records)).await;
    let Some((mut scene, mut directory)) = scene else { return };
    scene.checkpoints.patience = ARRIVAL + Duration::from_millis(20 * overflow);
    let last_before = old_records(&scene, records).await;
    let began = Instant::now();
    let under_way = snapshots_streams_and_messages(&mut scene, records).await;
    let lives = u64::from(scene.started);
    assert!(under_way >= UNDER_WAY, "only {under_way} of {lives} lives ended while the snapshot was under way");
    let instance = scene.start(None);
    scene.all_healed().await;
    scene.all_fetched().await;
    instance.kill().await;

    // Each life begins with nothing, so all of them together made no more calls than flowed in all the time.
    let made = scene.org.counted("conversation_calls").await;
    let allowed = 1.0 + calls(records) as f64 * FLOWING * began.elapsed().as_secs_f64() / 3600.0;
    eprintln!("calls for messages: {made} made, {allowed:.0} allowed; {under_way} lives ended in the snapshot");
    assert!(made as f64 <= allowed, "{made} calls for messages were made, and {allowed:.0} allowed");
    assert_eq!(scene.org.counted("conversation_calls_refused").await, 0, "a limit of the org was passed");
    let verdict = scene.judge_everything(&last_before).await;
    assert_aborted_transactions(&verdict);
    let seen = |what: &str| verdict["seen"][what].as_u64().unwrap_or_default();
    assert!(seen("records of snapshots") >= records / 2 && seen("messages") >= records / 20, "{verdict:#}");

    a_large_overflow_is_healed(&mut scene, overflow).await;
    let instance = scene.start(None);
    scene.all_healed().await;
    scene.all_fetched().await;
    instance.kill().await;
    assert_eq!(scene.org.counted("conversation_calls_refused").await, 0, "a limit of the org was passed");
    let verdict = scene.judge_everything(&last_before).await;
    assert!(verdict["seen"]["records of jobs"].as_u64() >= Some(seen("records of jobs") + overflow / 2), "{verdict:#}");
    drop(scene);
    directory.disable_cleanup(false);
}
