//! Beside a snapshot: a bare reqwest client that has Salesforce make the same Bulk query job, downloads the same pages one
//! after the other, and drops them.

use std::time::Duration;

use clap::Args;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::{Failure, clocks};

/// As casewire's pages: the bytes that are aimed at, the rows of the first, and the most.
const AIM_BYTES: usize = 6 * 1024 * 1024;
const FIRST_ROWS: usize = 2_000;
const MOST_ROWS: usize = 25_000;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(long, env = "ACCESS_TOKEN", hide_env_values = true)]
    access_token: String,
    #[arg(long)]
    instance_url: String,
    #[arg(long, default_value = "66.0")]
    api_version: String,
    /// The object whose records are downloaded, those in the recycle bin too
    #[arg(long)]
    object: String,
}

/// The client, the path that all calls begin with, and how many there were.
struct Api {
    http: Client,
    base: String,
    token: String,
    calls: u64,
}

impl Api {
    async fn get(&mut self, path: &str) -> Result<Response, Failure> {
        self.calls += 1;
        let asked = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.token);
        Ok(asked.send().await?.error_for_status()?)
    }

    async fn create(&mut self, soql: &str) -> Result<String, Failure> {
        self.calls += 1;
        let body = json!({"operation": "queryAll", "query": soql});
        let asked = self.http.post(format!("{}/jobs/query", self.base)).bearer_auth(&self.token).json(&body);
        let job: Value = asked.send().await?.error_for_status()?.json().await?;
        Ok(job["id"].as_str().ok_or("a job without an id")?.to_owned())
    }
}

#[tokio::main]
pub(crate) async fn run(arguments: Arguments) -> Result<Value, Failure> {
    let base = format!("{}/services/data/v{}", arguments.instance_url, arguments.api_version);
    let mut api = Api { http: Client::new(), base, token: arguments.access_token, calls: 0 };
    let described: Value = api.get(&format!("/sobjects/{}/describe", arguments.object)).await?.json().await?;
    let fields = described["fields"].as_array().ok_or("an object without fields")?;
    let flat = fields.iter().filter(|field| field["type"] != "address" && field["type"] != "location");
    let names: Vec<&str> = flat.filter_map(|field| field["name"].as_str()).collect();
    let began = clocks::now();
    let id = api.create(&format!("SELECT {} FROM {}", names.join(", "), arguments.object)).await?;
    while api.get(&format!("/jobs/query/{id}")).await?.json::<Value>().await?["state"] != "JobComplete" {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (mut rows, mut bytes, mut pages, mut most) = (0, 0, 0_u64, FIRST_ROWS);
    let mut place = String::new();
    loop {
        let page = api.get(&format!("/jobs/query/{id}/results?maxRecords={most}{place}")).await?;
        let header = |name: &str| page.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let in_page: usize =
            header("sforce-numberofrecords").ok_or("a page that does not tell its records")?.parse()?;
        let next = header("sforce-locator").filter(|locator| locator != "null");
        let body = page.bytes().await?.len();
        (rows, bytes, pages) = (rows + in_page, bytes + body, pages + 1);
        let each = body.checked_div(in_page).unwrap_or(body).max(1);
        most = (AIM_BYTES / each).clamp(1, MOST_ROWS);
        match next {
            Some(locator) => place = format!("&locator={locator}"),
            None => break,
        }
    }
    let seconds = clocks::now().saturating_sub(began) as f64 / 1e6;
    api.http
        .delete(format!("{}/jobs/query/{id}", api.base))
        .bearer_auth(&api.token)
        .send()
        .await?
        .error_for_status()?;
    Ok(json!({
        "rows": rows,
        "bytes": bytes,
        "pages": pages,
        "calls": api.calls + 1,
        "seconds": seconds,
        "rate": rows as f64 / seconds.max(f64::EPSILON),
        "processor_seconds": clocks::processor_seconds()?,
    }))
}
