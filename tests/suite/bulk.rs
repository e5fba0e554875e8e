//! Query jobs of the Bulk API against the simulated org, over real sockets.

use std::collections::HashSet;
use std::time::Duration;

use casewire::change::{CsvPlan, FieldPolicies, Row};
use casewire::config::FieldChoice;
use casewire::salesforce::backoff::BackoffLimits;
use casewire::salesforce::bulk::{BulkError, BulkJob, BulkState, BulkVerdict};
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

async fn plan(client: &RestClient, object: &str) -> CsvPlan {
    let descriptions = Descriptions::new(client.clone(), FieldChoice::All, FieldPolicies::default());
    CsvPlan::new(descriptions.plan(object, None, later()).await.expect("described")).expect("all of it")
}

async fn job(client: &RestClient, plan: &CsvPlan) -> Result<BulkJob, BulkError> {
    let soql = format!("SELECT {} FROM {}", plan.columns().join(", "), plan.object());
    client.create_bulk_query(&soql, Scope::All, later()).await
}

/// All rows, and how many each page had.
async fn rows(client: &RestClient, plan: &CsvPlan, job: &BulkJob) -> (Vec<Row>, Vec<usize>) {
    let (mut rows, mut sizes, mut locator) = (Vec::new(), Vec::new(), None);
    loop {
        let page = client.bulk_page(plan, job, locator.as_deref(), later()).await.expect("a page");
        sizes.push(page.rows.len());
        rows.extend(page.rows.into_iter().map(|row| row.expect("a row")));
        match page.next {
            Some(next) => locator = Some(next),
            None => return (rows, sizes),
        }
    }
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
            let (rows, pages) = rows(&client, &plan, &job).await;
            if object == "Case" {
                assert!(
                    pages.len() > 1 && rows.iter().any(|row| row.record.as_str().contains(r#"says \"no\", twice\r\n"#))
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
            assert_eq!(
                client.bulk_page(&plan, &job, None, later()).await.expect("a page").rows[0],
                Ok(rows[0].clone())
            );
            client.delete_bulk_query(&job, later()).await.expect("deleted");
            assert!(matches!(client.bulk_state(&job, later()).await, Err(BulkError::Gone(_))));
            client.delete_bulk_query(&job, later()).await.expect("deleted is deleted");
        }
    }
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
    let early = client.bulk_page(&plan, &held, None, later()).await.expect_err("no result yet");
    assert_eq!(early.verdict(), BulkVerdict::Anew);
    client.delete_bulk_query(&held, later()).await.expect("aborted, then deleted");
    control.inflict(Fault::ReleaseBulk).await.expect("inflicted");

    let done = job(&client, &plan).await.expect("created");
    let lost = client.bulk_page(&plan, &done, Some("bm93aGVyZQ"), later()).await.expect_err("no such place");
    assert_eq!(lost.verdict(), BulkVerdict::Anew);
    // A job is fetched under its own version, whatever is configured meanwhile.
    let newer = self::client(&org, "65.0");
    assert!(newer.bulk_page(&plan, &done, None, later()).await.is_ok());
    let other = BulkJob { version: "65.0".to_owned(), ..done.clone() };
    assert_eq!(client.bulk_page(&plan, &other, None, later()).await.expect_err("409").verdict(), BulkVerdict::Anew);

    job(&client, &plan).await.expect("the fourth");
    let used_up = job(&client, &plan).await.expect_err("no fifth");
    assert!(matches!(used_up, BulkError::UsedUp(_)), "{used_up}");
}
