//! Query jobs of the Bulk API against the simulated org, over real sockets.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use casewire::change::{CsvPlan, FieldPolicies, Row};
use casewire::config::{FieldChoice, PagesConfig};
use casewire::salesforce::backoff::BackoffLimits;
use casewire::salesforce::bulk::{BulkError, BulkJob, BulkState, BulkVerdict};
use casewire::salesforce::bulk_pages::{BulkPages, BulkPlace};
use casewire::salesforce::describe::Descriptions;
use casewire::salesforce::grant::Grant;
use casewire::salesforce::query::Scope;
use casewire::salesforce::record_read::{Found, RecordReader};
use casewire::salesforce::rest_client::RestClient;
use casewire::salesforce::session::{Session, SessionSettings};
use casewire::simulator::{BulkDateTime, EventOrder, Fault, Simulator, SimulatorConfig};
use tokio::time::Instant;

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn client(org: &Simulator, version: &str) -> RestClient {
    let grant = Grant::JwtBearer {
        username: org.username().to_owned(),
        client_id: org.client_id().to_owned(),
        private_key: org.private_key_pem().expect("the simulator made a key").into(),
        certificate: None,
    };
    let settings = SessionSettings::new(org.login_url().parse().expect("url"), grant);
    let settings = SessionSettings { minimum_spacing: Duration::ZERO, api_version: version.to_owned(), ..settings };
    let backoff = BackoffLimits::new(Duration::from_millis(2), Duration::from_millis(10)).expect("valid");
    RestClient::with_backoff(Session::new(settings).expect("settings"), backoff)
}

async fn plan(client: &RestClient, object: &str) -> Arc<CsvPlan> {
    let descriptions = Descriptions::new(client.clone(), FieldChoice::All, FieldPolicies::default());
    Arc::new(CsvPlan::new(descriptions.plan(object, None, later()).await.expect("described")).expect("all of it"))
}

async fn job(client: &RestClient, plan: &CsvPlan) -> Result<BulkJob, BulkError> {
    let soql = format!("SELECT {} FROM {}", plan.columns().join(", "), plan.object());
    client.create_bulk_query(&soql, Scope::All, later()).await
}

/// Pages of about 70 kB, which are some dozens of cases.
fn small(parallel: usize) -> PagesConfig {
    PagesConfig { parallel, bytes: parallel * 96 * 1024 }
}

fn pages(
    client: &RestClient,
    plan: &Arc<CsvPlan>,
    job: &BulkJob,
    locator: Option<&str>,
    config: PagesConfig,
) -> BulkPages {
    let place = BulkPlace { locator: locator.map(str::to_owned), dealt: 0 };
    BulkPages::begin(client.clone(), plan.clone(), job.clone(), place, config)
}

/// What came of the pages behind a place: the rows, how many each page that ended had, and where the page begins that was not
/// whole, with its error.
async fn taken(mut pages: BulkPages) -> (Vec<Row>, Vec<usize>, Option<(Option<String>, BulkError)>) {
    let (mut rows, mut sizes, mut begins) = (Vec::new(), Vec::new(), None);
    let mut before = 0;
    loop {
        let part = match pages.next().await {
            Ok(part) => part,
            Err(error) => return (rows, sizes, Some((begins, error))),
        };
        rows.extend(part.rows.into_iter().map(|row| row.expect("a row")));
        let Some(end) = part.end else { continue };
        sizes.push(rows.len() - before);
        before = rows.len();
        match end.next {
            Some(next) => begins = Some(next),
            None => return (rows, sizes, None),
        }
    }
}

/// All rows, and how many each page had.
async fn rows(client: &RestClient, plan: &Arc<CsvPlan>, job: &BulkJob) -> (Vec<Row>, Vec<usize>) {
    let (rows, sizes, error) = taken(pages(client, plan, job, None, PagesConfig::default())).await;
    assert_eq!(error, None);
    (rows, sizes)
}

/// The error of the page at a place.
async fn refused(client: &RestClient, plan: &Arc<CsvPlan>, job: &BulkJob, locator: Option<&str>) -> BulkError {
    pages(client, plan, job, locator, PagesConfig::default()).next().await.expect_err("no page")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_comes_once_page_by_page_with_the_bytes_of_rest() {
    for date_time in [BulkDateTime::Zulu, BulkDateTime::Offset] {
        let mut config = SimulatorConfig::on_free_ports();
        config.rest.bulk_date_time = date_time;
        let org = Simulator::start(config).await.expect("a simulator");
        let control = org.control();
        let odd = "says \"no\", twice\r\nand again,\n\n\"\"";
        for order in [
            EventOrder { rows: 4_200, ..EventOrder::new("Case", "GAP_OVERFLOW") },
            EventOrder::new("Case", "CREATE").with("Subject", odd).with("Description", odd),
            EventOrder { rows: 30, ..EventOrder::new("Installation__c", "GAP_OVERFLOW") },
            EventOrder::new("Installation__c", "CREATE"),
        ] {
            control.publish(order).await.expect("published");
        }
        let client = client(&org, "66.0");
        let reader = RecordReader::new(
            client.clone(),
            Descriptions::new(client.clone(), FieldChoice::All, FieldPolicies::default()),
        );
        for object in ["Case", "Installation__c"] {
            let truth = control.records(object).expect("records");
            let plan = plan(&client, object).await;
            let job = job(&client, &plan).await.expect("created");
            assert_eq!(client.bulk_state(&job, later()).await, Ok(BulkState::Complete(truth.len() as u64)));
            let (rows, sizes) = rows(&client, &plan, &job).await;
            if object == "Case" {
                assert!(
                    sizes.len() > 1 && rows.iter().any(|row| row.record.as_str().contains(r#"says \"no\", twice\r\n"#))
                );
            }
            let ids: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
            assert_eq!((rows.len(), ids.len()), (truth.len(), truth.len()), "each once");
            let deleted: HashSet<&str> = truth.iter().filter(|one| one.deleted).map(|one| one.id.as_str()).collect();
            assert!(rows.iter().all(|row| row.deleted == deleted.contains(row.id.as_str())));
            let asked: Vec<&str> = rows.iter().rev().take(1_500).map(|row| row.id.as_str()).collect();
            let by_rest = reader.read(object, None, &asked, later()).await.expect("read");
            for row in rows.iter().filter(|row| by_rest.contains_key(&row.id) && !row.deleted) {
                assert_eq!(by_rest[&row.id], Found::Row(row.clone()));
            }
            // The same page again: what was fetched can be fetched once more.
            let mut again = pages(&client, &plan, &job, None, small(1));
            assert_eq!(again.next().await.expect("a page").rows[0], Ok(rows[0].clone()));
            client.delete_bulk_query(&job, later()).await.expect("deleted");
            assert!(matches!(client.bulk_state(&job, later()).await, Err(BulkError::Gone(_))));
            client.delete_bulk_query(&job, later()).await.expect("deleted is deleted");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_nobody_waits_for_any_more_leaves_no_job_behind() {
    let org = Simulator::start(SimulatorConfig::on_free_ports()).await.expect("a simulator");
    let control = org.control();
    control.publish(EventOrder { rows: 50, ..EventOrder::new("Case", "GAP_OVERFLOW") }).await.expect("published");
    let client = client(&org, "66.0");
    let descriptions = Descriptions::new(client.clone(), FieldChoice::All, FieldPolicies::default());
    let reader = RecordReader::new(client.clone(), descriptions);
    let jobs = |wanted: u64| control.wait_for(Duration::from_secs(60), move |stats| stats.bulk_jobs == wanted);

    control.inflict(Fault::HoldBulk).await.expect("inflicted");
    let listing = tokio::spawn({
        let reader = reader.clone();
        async move { reader.list_in_bulk("Case").await }
    });
    jobs(1).await.expect("the job is made");
    listing.abort();
    assert!(listing.await.expect_err("aborted").is_cancelled());
    client.all_given_back(Duration::from_secs(60)).await;
    assert_eq!(control.stats().bulk_jobs, 0, "{:?}", control.stats().api_calls);
    assert_eq!(control.stats().api_calls["bulk-abort"], 1, "it was worked on");
    control.inflict(Fault::ReleaseBulk).await.expect("inflicted");

    let mut listing = reader.list_in_bulk("Case").await.expect("a listing");
    assert_eq!(control.stats().bulk_jobs, 1);
    assert!(listing.next_page().await.expect("a page").last);
    drop(listing);
    client.all_given_back(Duration::from_secs(60)).await;
    assert_eq!(control.stats().bulk_jobs, 0, "{:?}", control.stats().api_calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_fail_are_aborted_refused_or_gone_say_what_follows() {
    let mut config = SimulatorConfig::on_free_ports();
    config.rest.bulk_jobs = 4;
    let org = Simulator::start(config).await.expect("a simulator");
    let control = org.control();
    control.publish(EventOrder { rows: 50, ..EventOrder::new("Case", "GAP_OVERFLOW") }).await.expect("published");
    let client = client(&org, "66.0");
    let plan = plan(&client, "Case").await;
    let compound = client.create_bulk_query("SELECT Site_Address__c FROM Installation__c", Scope::All, later()).await;
    assert_eq!(compound.expect_err("an address").verdict(), BulkVerdict::AskRest);
    let wrong = client.create_bulk_query("SELECT Nothing__c FROM Case", Scope::All, later()).await;
    assert_eq!(wrong.expect_err("no such field").verdict(), BulkVerdict::AsRest);

    let message = "InternalServerError: retried more than 15 times".to_owned();
    control.inflict(Fault::FailBulk { message, times: 1 }).await.expect("inflicted");
    let failed = job(&client, &plan).await.expect("created");
    let error = client.bulk_state(&failed, later()).await.expect_err("failed");
    assert!(error.verdict() == BulkVerdict::Anew && error.to_string().contains("15 times"), "{error}");

    control.inflict(Fault::HoldBulk).await.expect("inflicted");
    let held = job(&client, &plan).await.expect("created");
    assert_eq!(client.bulk_state(&held, later()).await, Ok(BulkState::Working));
    assert_eq!(refused(&client, &plan, &held, None).await.verdict(), BulkVerdict::Anew, "no result yet");
    client.delete_bulk_query(&held, later()).await.expect("aborted, then deleted");
    control.inflict(Fault::ReleaseBulk).await.expect("inflicted");

    let done = job(&client, &plan).await.expect("created");
    let lost = refused(&client, &plan, &done, Some("bm93aGVyZQ")).await;
    assert_eq!(lost.verdict(), BulkVerdict::Anew, "no such place");
    // A job is fetched under its own version, whatever is configured meanwhile.
    let newer = self::client(&org, "65.0");
    assert!(!rows(&newer, &plan, &done).await.0.is_empty());
    let other = BulkJob { version: "65.0".to_owned(), ..done.clone() };
    assert_eq!(refused(&client, &plan, &other, None).await.verdict(), BulkVerdict::Anew, "409");

    job(&client, &plan).await.expect("the fourth");
    let used_up = job(&client, &plan).await.expect_err("no fifth");
    assert!(matches!(used_up, BulkError::UsedUp(_)), "{used_up}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_under_way_side_by_side_and_their_rows_come_in_order_whatever_becomes_of_one() {
    let org = Simulator::start(SimulatorConfig::on_free_ports()).await.expect("a simulator");
    let control = org.control();
    control.publish(EventOrder { rows: 900, ..EventOrder::new("Case", "GAP_OVERFLOW") }).await.expect("published");
    // Longer than anybody could know by the rows before them.
    for _ in 0..12 {
        let long = EventOrder::new("Case", "CREATE").with("Description", "x".repeat(20_000));
        control.publish(long).await.expect("published");
    }
    let client = client(&org, "66.0");
    let plan = plan(&client, "Case").await;
    let job = job(&client, &plan).await.expect("created");
    let (expected, _) = rows(&client, &plan, &job).await;
    let expected: Vec<&str> = expected.iter().map(|row| row.id.as_str()).collect();
    assert!(expected.len() > 900, "{}", expected.len());
    let results = || control.stats().api_calls["bulk-results"];

    // No row comes, only the heads of the answers: three pages are under way, and no fourth. That one will fail.
    let client = self::client(&org, "66.0");
    control.inflict(Fault::HoldResults).await.expect("inflicted");
    let before = results();
    let under_way = pages(&client, &plan, &job, None, small(3));
    let within = Duration::from_secs(60);
    control.wait_for(within, |stats| stats.bulk_downloads == 3).await.expect("three at a time");
    let gone = Fault::FailRest {
        path: "/results".to_owned(),
        status: 404,
        error_code: "NOT_FOUND".to_owned(),
        message: "The requested resource does not exist".to_owned(),
        retry_after: None,
        times: 1,
    };
    control.inflict(gone).await.expect("inflicted");
    assert_eq!(results() - before, 3);
    control.inflict(Fault::ReleaseResults).await.expect("inflicted");
    let (mut found, sizes, error) = taken(under_way).await;
    let (begins, error) = error.expect("the fourth");
    assert!(matches!(error, BulkError::Gone(_)), "{error}");
    assert!(sizes.len() == 3 && sizes.iter().all(|rows| *rows > 10), "{sizes:?}");
    let (rest, sizes, error) = taken(pages(&client, &plan, &job, begins.as_deref(), small(3))).await;
    found.extend(rest);
    assert!(error.is_none() && sizes.len() > 5, "{error:?} {sizes:?}");
    assert!(found.iter().map(|row| row.id.as_str()).eq(expected.iter().copied()), "each once, in order");
    assert_eq!(control.stats().bulk_downloads_most, 3);
    // 96 kB hold four of the long rows and not five.
    assert!(sizes.iter().rev().skip(1).take(2).all(|rows| *rows <= 4), "{sizes:?}");

    // The page that is dealt with in part was longer than those that are asked for now.
    let place = BulkPlace { locator: None, dealt: 300 };
    let (rest, ..) = taken(BulkPages::begin(client.clone(), plan.clone(), job.clone(), place, small(2))).await;
    assert!(rest.iter().map(|row| row.id.as_str()).eq(expected[300..].iter().copied()));
    let place = BulkPlace { locator: None, dealt: expected.len() as u64 };
    let (rest, _, error) = taken(BulkPages::begin(client, plan, job, place, small(2))).await;
    assert!(rest.is_empty() && matches!(error, Some((_, BulkError::NotWhole(_)))), "it has become shorter");
}
