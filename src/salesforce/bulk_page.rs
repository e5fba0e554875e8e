//! One page of the results of a Bulk query job, from CSV to rows.
//!
//! A result is never in memory as a whole: a page has as many rows as fit into a few megabytes, by the size of those that
//! came before. What Salesforce says of a page is checked against what is in it.

use std::io;

use http::HeaderMap;
use tokio::time::Instant;

use crate::change::{CsvPlan, Row, RowFault};
use crate::salesforce::bulk::{BulkError, BulkJob};
use crate::salesforce::rest::{RestError, RestVerdict};
use crate::salesforce::rest_client::RestClient;

/// The bytes of a page that are aimed at.
const AIM_BYTES: usize = 6 * 1024 * 1024;

/// Rows of the first page, whose size nobody knows.
const FIRST_ROWS: usize = 2_000;

/// Rows of a page at most, however small they are.
const MOST_ROWS: usize = 25_000;

/// So many rows are rendered before others get their turn on the thread.
const ROWS_A_TURN: usize = 256;

/// How many rows Salesforce says that a page has.
const COUNT: &str = "sforce-numberofrecords";

/// Where the next page begins; the text `null` where there is none.
const LOCATOR: &str = "sforce-locator";

/// A row of a page, or the id of one that cannot be rendered, and why.
pub type BulkRow = Result<Row, (String, RowFault)>;

/// A page.
#[derive(Debug)]
pub struct BulkPage {
    /// In the order of the result.
    pub rows: Vec<BulkRow>,
    /// Where the next page begins; `None` behind the last.
    pub next: Option<String>,
}

impl RestClient {
    /// Fetches the page behind `locator`, the first one without a locator.
    ///
    /// # Errors
    /// When it cannot be had or is not whole; [`BulkError::Gone`] also when it has no column for a field of the plan.
    pub async fn bulk_page(
        &self,
        plan: &CsvPlan,
        job: &BulkJob,
        locator: Option<&str>,
        deadline: Instant,
    ) -> Result<BulkPage, BulkError> {
        // A listing of ids and the whole records of an object are of different sizes.
        let known = format!("bulk {} {}", plan.columns().len(), plan.object());
        let fitting = self.row_bytes(&known).map_or(FIRST_ROWS, |bytes| AIM_BYTES / bytes.max(1));
        let mut most = fitting.clamp(1, MOST_ROWS);
        loop {
            match self.bulk_results(job, locator, most, deadline).await {
                Ok(answer) => {
                    let bytes = answer.body.len();
                    let page = read(plan, &answer.headers, &answer.body).await?;
                    if let Some(each) = bytes.checked_div(page.rows.len()) {
                        self.note_row_bytes(&known, each);
                    }
                    return Ok(page);
                }
                Err(BulkError::Rest(error)) if error.verdict() == RestVerdict::AskForLess && most > 1 => most /= 2,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads a page: what its headers say of it, and its CSV.
///
/// # Errors
/// When it is not what the headers say, or not CSV with a column for each of the plan. No text holds what a row does.
pub async fn read(plan: &CsvPlan, headers: &HeaderMap, csv: &[u8]) -> Result<BulkPage, BulkError> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let said: u64 = header(COUNT)
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| RestError::Unexpected("a page of a Bulk query job that does not tell its records".to_owned()))?;
    let next = header(LOCATOR).filter(|locator| !locator.is_empty() && *locator != "null").map(str::to_owned);
    // Of a result without records some orgs send nothing at all, not even the names of the columns.
    let rows = if csv.is_empty() { Vec::new() } else { rows(plan, csv, said).await? };
    if rows.len() as u64 != said {
        return Err(BulkError::NotWhole(format!("a page has {} records and says that it has {said}", rows.len())));
    }
    if next.is_some() && rows.is_empty() {
        return Err(BulkError::NotWhole("a page without records is not the last".to_owned()));
    }
    Ok(BulkPage { rows, next })
}

/// The rows of a page that is said to have so many.
///
/// # Errors
/// As [`read`]; no more rows than said, and than are ever asked for, are held.
pub async fn rows(plan: &CsvPlan, csv: impl io::Read, said: u64) -> Result<Vec<BulkRow>, BulkError> {
    let most = usize::try_from(said).unwrap_or(usize::MAX).min(MOST_ROWS);
    let mut csv = csv::Reader::from_reader(csv);
    let places = places(plan, csv.headers().map_err(|error| unreadable(&error))?)?;
    let (mut rows, mut record) = (Vec::with_capacity(most), csv::StringRecord::new());
    while csv.read_record(&mut record).map_err(|error| unreadable(&error))? {
        if rows.len() == most {
            let what = format!("a page has more than {most} records and says that it has {said}");
            return Err(BulkError::NotWhole(what));
        }
        if rows.len() % ROWS_A_TURN == ROWS_A_TURN - 1 {
            tokio::task::yield_now().await;
        }
        let cell = |column: usize| places.get(column).and_then(|place| record.get(*place)).unwrap_or_default();
        let row = plan.render(cell).map_err(|fault| (plan.id(cell), fault));
        // Anything else is another cell. Ids are logged and kept, and those must not be.
        if !is_id(row.as_ref().map_or_else(|(id, _)| id, |row| &row.id)) {
            let line = record.position().map(csv::Position::line).unwrap_or_default();
            return Err(BulkError::NotWhole(format!("the row at line {line} has no id")));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn is_id(id: &str) -> bool {
    matches!(id.len(), 15 | 18) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Where each column of the plan stands. From API version 50.0 on that is the order of the query; names are surer.
fn places(plan: &CsvPlan, names: &csv::StringRecord) -> Result<Vec<usize>, BulkError> {
    let place = |column: &String| {
        let found = names.iter().position(|name| name.eq_ignore_ascii_case(column));
        found.ok_or_else(|| BulkError::Gone(format!("it has no column {column}, which describe shows now")))
    };
    plan.columns().iter().map(place).collect()
}

/// The error without what the row holds.
fn unreadable(error: &csv::Error) -> BulkError {
    let line = error.position().map(csv::Position::line).unwrap_or_default();
    BulkError::NotWhole(match error.kind() {
        csv::ErrorKind::UnequalLengths { .. } => format!("the row at line {line} has another number of columns"),
        csv::ErrorKind::Utf8 { .. } => format!("the row at line {line} is not UTF-8"),
        _ => format!("line {line} is no CSV"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{FieldPolicies, ObjectDescription, RowPlan};
    use std::sync::Arc;

    const ROW: &str = "5008d000000047SAAQ,2026-02-17T04:03:15.000Z,1";

    fn plan() -> CsvPlan {
        let described = serde_json::json!({"name": "Case", "fields": [
            {"name": "Id", "type": "id"},
            {"name": "SystemModstamp", "type": "datetime"},
            {"name": "Count__c", "type": "int"},
        ]});
        let described = ObjectDescription::parse(described.to_string().as_bytes()).expect("a description");
        let plan = RowPlan::new(&described, &FieldPolicies::default(), |_| true).expect("a plan");
        CsvPlan::new(Arc::new(plan)).expect("all of it")
    }

    async fn page(said: &str, rows: &[&str]) -> Result<Vec<BulkRow>, BulkError> {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(COUNT), said.parse().expect("a header"))]);
        let csv = format!("Id,SystemModstamp,Count__c\n{}\n", rows.join("\n"));
        read(&plan(), &headers, csv.as_bytes()).await.map(|page| page.rows)
    }

    #[tokio::test]
    async fn a_page_is_as_long_as_it_says_and_no_longer_than_any_that_is_asked_for() {
        assert_eq!(page("2", &[ROW, ROW]).await.map(|rows| rows.len()), Ok(2));
        for said in ["1", "3"] {
            assert!(matches!(page(said, &[ROW, ROW]).await, Err(BulkError::NotWhole(_))), "{said}");
        }
        let endless = vec![ROW; MOST_ROWS + 1];
        let text = page("18446744073709551615", &endless).await.expect_err("too many").to_string();
        assert!(text.contains("more than 25000 records"), "{text}");
    }

    #[tokio::test]
    async fn a_row_of_another_id_than_salesforce_gives_spoils_its_page_and_is_not_quoted() {
        let fault = page("1", &[&ROW.replace(",1", ",one")]).await.expect("a page").remove(0).expect_err("no number");
        assert_eq!(fault.0, "5008d000000047SAAQ");
        for other in ["secret, and more", "", "5008d000000047"] {
            let row = ROW.replace("5008d000000047SAAQ", &format!("\"{other}\""));
            let text = page("1", &[&row]).await.expect_err(other).to_string();
            assert!(text.ends_with("the row at line 2 has no id"), "{text}");
        }
    }
}
