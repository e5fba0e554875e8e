//! The crash test of completion and of the jobs that heal gaps: gap events, overflows, type conversions, records that are
//! hidden and records that are gone, while REST fails and answers late and records go on changing.
//!
//! What jobs write stands in no event, so the judge has two more things to hold it to: the records as the org truly has
//! them, to which everything in Kafka has to fold, and the gap ledger, in which nothing may be left open. Both are asked
//! after each part, since a later listing of the same object would mend what an earlier one had lost.

use std::os::unix::process::ExitStatusExt;

use rand::Rng;
use serde_json::{Value, json};

use crate::checkpoints::AllSeen;
use crate::instance::Instance;
use crate::{FREE, Plan, Scene, assert_aborted_transactions, assert_clean, checkpoint_topic, set_up};

/// What was not read is soon handed to the jobs, and a record that stays hidden keeps its gap open. Overflows and
/// conversions are ordered: a listing of the whole object at some random moment would mend what should be found.
const JOBS: Plan = Plan {
    records: ["when_needed", "always", "never"],
    settings: "[gaps]\ngive_up_after = \"1h\"\nlook_every = \"1s\"\n[completion]\npatience = \"1s\"\n",
    mix: "gap = 600\nundelete = 300\noverflow = 0\nwildcard = 0\nsnapshot = 20\nfuture_change_type = 20\n",
    rest: FREE,
    messages: false,
};

/// The objects that are judged by their records, with the prefixes of their ids.
const OBJECTS: [(&str, &str); 2] = [("Case", "500"), ("MessagingSession", "0Mw")];

/// Records that an overflow changes: the job has many slices.
const ROWS: u64 = 2_000;

/// Records that one event changes.
const TOUCHED: usize = 100;

/// Events that are published while an instance lives.
const SOME: u64 = 150;

impl Scene {
    /// Waits until a few more transactions are committed, by whichever stream.
    pub async fn some_transactions(&mut self) {
        let count = |seen: &AllSeen| seen.values().map(|seen| seen.seq).sum::<u64>();
        let wanted = count(&self.checkpoints.now()) + self.dice_between(2, 12);
        self.checkpoints.wait("some transactions", |seen| count(seen) >= wanted).await;
    }

    pub fn dice_between(&mut self, least: u64, most: u64) -> u64 {
        self.dice.random_range(least..=most)
    }

    /// Waits until every event is committed and no job is left.
    pub async fn all_healed(&self) {
        self.all_committed().await;
        self.checkpoints.wait("the end of all jobs", |seen| seen.values().all(|seen| seen.jobs.is_empty())).await;
    }

    /// Starts an instance and lets it work for a while, with events and late answers of REST, until it is killed.
    async fn killed_under_way(&mut self) {
        let milliseconds = self.dice_between(20, 120);
        let late = json!({ "kind": "delay-http", "path": "/composite/", "milliseconds": milliseconds, "times": 10 });
        self.org.fault(late).await;
        let instance = self.start(None);
        self.org.generate(SOME).await;
        self.some_transactions().await;
        instance.kill().await;
    }

    /// The same, but that every record of an object changes while a slice of it is read: its events overtake what the job has
    /// read, and it is killed when it has committed a slice beside them.
    async fn killed_while_everything_changes(&mut self, object: &str) {
        // Each read takes longer than all of the events.
        let late = json!({ "kind": "delay-http", "path": "/composite/", "milliseconds": 500, "times": 20 });
        self.org.fault(late).await;
        let topic = checkpoint_topic(&format!("/data/{object}ChangeEvent"));
        let jobs = |seen: &AllSeen| seen.get(&topic).map(|seen| seen.jobs.clone()).unwrap_or_default();
        let before = jobs(&self.checkpoints.now());
        let instance = self.start(None);
        self.checkpoints.wait("a slice of the job", |seen| jobs(seen) != before).await;
        for ids in self.org.ids(object).await.chunks(TOUCHED) {
            self.org.publish(json!({ "entity": object, "change_type": "UPDATE", "record_ids": ids })).await;
        }
        let overtaken = jobs(&self.checkpoints.now());
        assert!(!overtaken.is_empty(), "the job was over before anything overtook it");
        self.checkpoints.wait("a slice beside the events", |seen| jobs(seen) != overtaken).await;
        self.some_transactions().await;
        instance.kill().await;
    }

    /// Starts an instance that ends itself at a place, with some events for it.
    pub async fn ended_at(&mut self, place: &str, hit: u64) {
        let instance = self.start(Some(&format!("{place}:{hit}")));
        self.org.generate(SOME).await;
        self.ended(instance, place).await;
    }

    /// Waits until an instance has come to its end at a place.
    pub async fn ended(&self, instance: Instance, place: &str) {
        let status = instance.ended_within(self.checkpoints.patience).await;
        assert!(status.signal().is_some(), "at {place} it did not come to its end but ended with {status}");
    }

    /// Has all letters redriven, and returns what became of each.
    fn redriven(&self) -> Vec<String> {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_casewire"));
        command.args(["dead-letters", "redrive", "--all", "--whole", "--json", "--config"]).arg(self.last_config());
        let told = command.output().expect("the command runs");
        assert!(told.status.success(), "{told:?}");
        let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        let outcome = |letter: &Value| letter["outcome"].as_str().expect("a word").to_owned();
        told["letters"].as_array().expect("a list").iter().map(outcome).collect()
    }

    /// Lets everything be healed, and asserts that Kafka holds what is true. Returns what the judge has seen.
    async fn assert_the_truth(&mut self, at_least_healed: u64) -> Value {
        let instance = self.start(None);
        self.all_healed().await;
        let verdict = self.judge_the_truth(Vec::new()).await;
        let healed = verdict["seen"]["gaps healed"].as_u64();
        assert!(healed >= Some(at_least_healed), "too little was put to the test: {verdict:#}");
        instance.kill().await;
        verdict
    }

    /// Holds what is in Kafka against the records as the org has them, and the ledger against what may be open.
    pub async fn judge_the_truth(&self, mut truth: Vec<String>) -> Value {
        truth.extend(["--clock-tolerance", "0"].map(str::to_owned));
        for (object, _) in OBJECTS {
            let file = self.directory.join(format!("truth-{object}.jsonl"));
            std::fs::write(&file, self.org.records(object).await).expect("a file of true records");
            truth.extend(["--truth".to_owned(), format!("{object}={}", file.display())]);
        }
        let verdict = self.judge(&truth);
        assert_clean(&verdict);
        let count = |what: &str| verdict["seen"][what].as_u64().unwrap_or_default();
        assert_eq!((count("gaps open"), count("gaps given_up")), (0, 0), "{verdict:#}");
        verdict
    }
}

/// Gap events of records that nobody may see for a while, and others that REST does not answer for.
async fn single_records_are_healed(scene: &mut Scene) {
    let instance = scene.start(None);
    scene.org.generate(4 * SOME).await;
    scene.all_committed().await;
    instance.kill().await;
    let mut hidden = scene.org.ids("Case").await;
    hidden.truncate(5);
    scene.org.fault(json!({ "kind": "hide-records", "record_ids": hidden })).await;
    for id in &hidden {
        let untold = json!({ "entity": "Case", "change_type": "GAP_UPDATE", "record_ids": [id], "fields": {"Subject": "untold"} });
        scene.org.publish(untold).await;
    }
    scene.ended_at("after_opening", 1).await;
    for status in [503, 401, 500] {
        let error_code = if status == 401 { "INVALID_SESSION_ID" } else { "" };
        let down = json!({ "kind": "fail-rest", "path": "/composite/", "status": status, "error_code": error_code, "times": 6 });
        scene.org.fault(down).await;
        scene.killed_under_way().await;
    }
    scene.org.fault(json!({ "kind": "show-records", "record_ids": hidden })).await;
    scene.ended_at("after_closing", 1).await;
    scene.assert_the_truth(5).await;
}

/// An overflow, a type conversion, changes and ends of records that no event tells: the whole object is read anew, by
/// instances that end at every place of a transaction, and records change meanwhile.
async fn a_whole_object_is_healed(scene: &mut Scene, object: &str, prefix: &str) {
    let mut gone = scene.org.ids(object).await;
    gone.truncate(3);
    scene.org.fault(json!({ "kind": "hard-delete", "entity": object, "record_ids": gone })).await;
    scene.org.fault(json!({ "kind": "change-silently", "entity": object })).await;
    scene.org.publish(json!({ "entity": object, "change_type": "UPDATE", "record_ids": [format!("{prefix}*")] })).await;
    scene.org.publish(json!({ "entity": object, "change_type": "GAP_OVERFLOW", "rows": ROWS })).await;

    scene.ended_at("after_opening", 1).await;
    for place in ["after_read", "after_slice", "after_read"] {
        let hit = scene.dice_between(2, 4);
        scene.ended_at(place, hit).await;
    }
    for place in ["after_records", "after_checkpoint"] {
        // Behind those by which the streams announce their new writer.
        let hit = scene.dice_between(5, 10);
        scene.ended_at(place, hit).await;
    }
    for _ in 0..2 {
        scene.killed_while_everything_changes(object).await;
    }
    scene.killed_under_way().await;
    let verdict = scene.assert_the_truth(2).await;
    assert_aborted_transactions(&verdict);
}

/// Events of which Salesforce did not have the schema, or that nobody can decode, are letters; an operator has them
/// redriven while the service is down, and the service dies over it again and again.
async fn letters_are_redriven(scene: &mut Scene) {
    // So often a schema is asked for before its event is given up; no other stream has events that need one.
    let error_code = "sfdc.platform.eventbus.grpc.schema.validation.failed";
    let unknown = json!({ "kind": "fail-get-schema", "status": 3, "error_code": error_code, "times": 5 });
    scene.org.fault(unknown).await;
    scene.org.publish(json!({ "entity": "Case_Escalation__e" })).await;
    let instance = scene.start(None);
    scene.all_committed().await;
    instance.kill().await;
    scene.org.fault(json!({ "kind": "poison", "events": 2 })).await;
    for _ in 0..2 {
        scene.org.publish(json!({ "entity": "Case", "change_type": "UPDATE" })).await;
    }
    let instance = scene.start(None);
    scene.all_committed().await;
    instance.kill().await;

    assert_eq!(scene.redriven(), ["opened", "opened", "opened"]);
    assert_eq!(scene.redriven(), ["already", "already", "already"]);
    for place in ["after_slice", "after_records", "after_closing"] {
        let hit = if place == "after_records" { scene.dice_between(5, 8) } else { 1 };
        scene.ended_at(place, hit).await;
    }
    scene.killed_under_way().await;
    let verdict = scene.assert_the_truth(3).await;
    assert!(verdict["seen"]["records redriven"].as_u64() > Some(0), "{verdict:#}");
}

/// Changes and ends of records that no event tells, and no gap either. The service compares its records with the org's on
/// its schedule, and dies over what it finds again and again.
async fn what_nobody_told_is_found(scene: &mut Scene) {
    let ids = scene.org.ids("Case").await;
    let [changed, deleted, gone] = [&ids[..40], &ids[40..42], &ids[42..45]];
    for id in changed {
        scene.org.fault(json!({ "kind": "change-silently", "entity": "Case", "record_ids": [id] })).await;
    }
    for change in [json!({ "change_type": "CREATE" }), json!({ "change_type": "DELETE", "record_ids": deleted })] {
        let mut fault = json!({ "kind": "change-silently", "entity": "Case" });
        fault.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        scene.org.fault(fault).await;
    }
    scene.org.fault(json!({ "kind": "hard-delete", "entity": "Case", "record_ids": gone })).await;
    // So that all of that is old enough to be judged, once the stream has carried an event of now. None may be of a record
    // that was changed in silence: it would count as current.
    scene.org.fault(json!({ "kind": "shift-clock", "seconds": 3600 })).await;
    scene.more = "[reconcile]\nevery = \"1s\"\nfull_every = \"1s\"\nrepair = true\nsilence_check = false\n";
    for place in ["after_read", "after_slice", "after_closing"] {
        let instance = scene.start(Some(place));
        scene.org.publish(json!({ "entity": "Case", "change_type": "CREATE" })).await;
        scene.ended(instance, place).await;
    }
    let verdict = scene.assert_the_truth(1).await;
    assert!(verdict["seen"]["entries of comparisons"].as_u64() > Some(0), "{verdict:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_gap_is_healed_and_everything_folds_to_the_truth_through_crashes_and_outages() {
    let Some((mut scene, mut directory)) = set_up("the crash test of jobs", &JOBS).await else { return };
    single_records_are_healed(&mut scene).await;
    for (object, prefix) in OBJECTS {
        a_whole_object_is_healed(&mut scene, object, prefix).await;
    }
    letters_are_redriven(&mut scene).await;
    what_nobody_told_is_found(&mut scene).await;
    drop(scene);
    directory.disable_cleanup(false);
}
