//! Jobs that are done together, and those that Salesforce lets wait: the runner against a server that answers by script.

use chrono::{DateTime, TimeDelta, Utc};

use crate::pipeline::jobs::job::{Job, Listing};
use crate::pipeline::jobs::listing::{BulkIds, ShortRecord};
use crate::pipeline::jobs::polling_tests::{BULK, ENTITY, ID, Scene, bulk_pass, ops};
use crate::pipeline::jobs::setback::Setback;
use crate::pipeline::jobs::touched::Copy;
use crate::salesforce::bulk::BulkError;
use crate::salesforce::id_listing::ListedRecord;
use crate::salesforce::scripted::soon;

/// A job that heals a gap of the whole object.
fn whole(gap: &str, since: Option<DateTime<Utc>>) -> Job {
    let listing = Some(Listing { since, after: None });
    Job { whole: true, listing, ..Job::new(Some(ENTITY.to_owned()), gap.to_owned(), None) }
}

#[tokio::test]
async fn a_job_that_takes_a_later_gap_over_lists_the_object_anew_and_nothing_of_the_other_job_is_kept() {
    let ago = |hours| Utc::now().checked_sub_signed(TimeDelta::hours(hours));
    let mut scene = Scene::begin_with([("heal-1", whole("first", ago(5))), ("heal-2", whole("second", ago(3)))]).await;
    // Both were listed before the comment was changed, twenty seconds ago, which is within the second gap.
    let listed = ListedRecord { id: ID.to_owned(), as_of: ago(100).expect("a time"), deleted: false };
    for job in ["heal-1", "heal-2"] {
        let ids = ShortRecord::of(&listed).into_iter().collect();
        scene.runner.listings.insert(job.to_owned(), BulkIds::Listed(ids));
        scene.runner.copies.insert(job.to_owned(), Copy::new());
        scene.runner.rest_only.insert(job.to_owned());
    }
    scene.runner.rest_only.remove("heal-1");
    let job = scene.runner.job("heal-1").expect("a job");
    soon(scene.runner.gather("heal-1", job)).await.expect("gathered");
    let (jobs, _) = scene.runner.desk.jobs();
    assert_eq!(jobs.keys().collect::<Vec<_>>(), ["heal-1"]);
    assert_eq!(jobs["heal-1"].heals.iter().collect::<Vec<_>>(), ["first", "second"]);
    let runner = &scene.runner;
    let kept = (runner.listings.len(), runner.rest_only.len(), runner.copies.contains_key("heal-2"));
    assert_eq!(kept, (0, 0, false), "listings, objects that are read over rest, what the topic held");

    let job = scene.runner.job("heal-1").expect("a job");
    soon(scene.runner.page("heal-1", ENTITY, job)).await.expect("read");
    assert_eq!(ops(&scene.news()), ["refresh"], "the older listing says that it was not changed");
}

#[tokio::test]
async fn a_bulk_query_job_that_is_worked_on_is_shown_and_given_up_after_hours() {
    let now = Utc::now();
    let job = Job { bulk: Some(bulk_pass(now)), ..whole("gap", None) };
    let mut scene = Scene::begin_with([("heal-1", job.clone())]).await;
    let waits = |scene: &Scene| {
        let status = scene.runner.context.board.status().expect("the stream's");
        status.jobs.first().and_then(|job| job.waits_for.clone()).unwrap_or_default()
    };
    let created = |ago: TimeDelta| Job { bulk: Some(bulk_pass(now - ago)), ..job.clone() };
    for ago in [TimeDelta::zero(), TimeDelta::minutes(359), TimeDelta::hours(-2)] {
        let outcome = soon(scene.runner.bulk("heal-1", ENTITY, &created(ago))).await.map(drop);
        assert!(matches!(&outcome, Err(Setback::Working { bulk: Some(bulk) }) if bulk == BULK), "{ago} {outcome:?}");
        assert!(scene.runner.note("heal-1", outcome).is_continue());
        assert!(waits(&scene).contains(BULK), "{}", waits(&scene));
    }
    let outcome = soon(scene.runner.bulk("heal-1", ENTITY, &created(TimeDelta::hours(6)))).await.map(drop);
    assert!(matches!(&outcome, Err(Setback::Bulk(BulkError::Failed(_)))), "{outcome:?}");
    assert!(scene.runner.note("heal-1", outcome).is_continue());
    assert!(waits(&scene).contains("still worked on after 6 h"), "{}", waits(&scene));
    let anew = scene.runner.job("heal-1").expect("a job");
    assert_eq!((anew.bulk, anew.passes, anew.listing), (None, 1, Some(Listing::default())), "made anew");
}
