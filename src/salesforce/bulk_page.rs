//! One page of the results of a Bulk query job, from CSV to rows.
//!
//! A result is never in memory as a whole: a page has as many rows as fit into a few megabytes, by the size of those that
//! came before. It stays CSV until its rows are taken, since as JSON, with the names of the fields in each, they have several
//! times the bytes. What Salesforce says of a page is checked against what is in it before the first row is taken.

use std::io::{Cursor, Read};
use std::sync::Arc;

use http::HeaderMap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::change::{CsvPlan, Row, RowFault};
use crate::salesforce::bulk::{BulkError, BulkJob};
use crate::salesforce::rest::{RestError, RestRequest, RestVerdict};
use crate::salesforce::rest_client::RestClient;

/// The bytes of a row as long as nobody knows better: those of a Case with all its fields.
const A_ROW: usize = 3 * 1024;

/// Rows of the first page at most, whose size nobody knows.
const FIRST_ROWS: usize = 2_000;

/// Rows of a page at most, however small they are.
const MOST_ROWS: usize = 25_000;

/// So many rows are looked at before others get their turn on the thread.
const ROWS_A_TURN: usize = 2_048;

/// How many rows Salesforce says that a page has.
const COUNT: &str = "sforce-numberofrecords";

/// Where the next page begins; the text `null` where there is none.
const LOCATOR: &str = "sforce-locator";

/// A row of a page, or the id of one that cannot be rendered, and why.
pub type BulkRow = Result<Row, (String, RowFault)>;

/// The bytes of CSV that a page may have.
///
/// Three quarters of them are aimed at, since rows are of different sizes. A page that turns out to have more is asked for
/// again with half the rows; a single row may be as long as any answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRoom(pub usize);

impl Default for PageRoom {
    /// What holds where a page has no others beside it.
    fn default() -> Self {
        Self(8 * 1024 * 1024)
    }
}

impl PageRoom {
    /// How many rows to ask for, by what is known of their size.
    fn rows(self, known: Option<usize>) -> usize {
        let aim = self.0 / 4 * 3;
        let most = if known.is_some() { MOST_ROWS } else { FIRST_ROWS };
        (aim / known.unwrap_or(A_ROW).max(1)).clamp(1, most)
    }
}

/// A page whose rows are all there.
#[derive(Debug)]
pub struct BulkPage {
    plan: Arc<CsvPlan>,
    csv: csv::Reader<Cursor<Vec<u8>>>,
    places: Vec<usize>,
    record: csv::StringRecord,
    left: usize,
    next: Option<String>,
}

impl BulkPage {
    /// Rows that have not been taken.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Where the next page begins; `None` behind the last.
    pub fn next_locator(&self) -> Option<&str> {
        self.next.as_deref()
    }

    /// Takes rows off unseen.
    ///
    /// # Errors
    /// As [`next_row`](Self::next_row).
    pub fn skip(&mut self, rows: usize) -> Result<(), BulkError> {
        for _ in 0..rows.min(self.left) {
            self.advance()?;
        }
        Ok(())
    }

    /// Takes the next row, in the order of the result; `None` when all are taken.
    ///
    /// # Errors
    /// When it is no CSV, which was found out when the page came.
    pub fn next_row(&mut self) -> Result<Option<BulkRow>, BulkError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.advance()?;
        let cell =
            |column: usize| self.places.get(column).and_then(|place| self.record.get(*place)).unwrap_or_default();
        Ok(Some(self.plan.render(cell).map_err(|fault| (self.plan.id(cell), fault))))
    }

    fn advance(&mut self) -> Result<(), BulkError> {
        self.left = self.left.saturating_sub(1);
        match self.csv.read_record(&mut self.record) {
            Ok(true) => Ok(()),
            Ok(false) => Err(BulkError::NotWhole("it has become shorter".to_owned())),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

impl RestClient {
    /// Fetches the page behind `locator`, the first one without a locator. `heads` is told the head of the answer, in which
    /// stands [where the next page begins](next_page), before the rows have come.
    ///
    /// # Errors
    /// When it cannot be had or is not whole; [`BulkError::Gone`] also when it has no column for a field of the plan.
    pub(crate) async fn bulk_page(
        &self,
        (plan, job): (&Arc<CsvPlan>, &BulkJob),
        locator: Option<&str>,
        room: PageRoom,
        heads: &watch::Sender<Option<HeaderMap>>,
        deadline: Instant,
    ) -> Result<BulkPage, BulkError> {
        // A listing of ids and the whole records of an object are of different sizes.
        let known = format!("bulk {} {}", plan.columns().len(), plan.object());
        let mut most = room.rows(self.row_bytes(&known));
        loop {
            // Whoever has a single row in the way has to have it.
            let room = if most > 1 { room.0 } else { usize::MAX };
            let limited = |request: RestRequest| request.within(room).telling(heads.clone());
            match self.bulk_results(job, locator, most, limited, deadline).await {
                Ok(answer) => {
                    let bytes = answer.body.len();
                    let page = read(plan, &answer.headers, answer.body).await?;
                    if let Some(each) = bytes.checked_div(page.left()) {
                        self.note_row_bytes(&known, each);
                    }
                    return Ok(page);
                }
                Err(BulkError::Rest(error)) if error.verdict() == RestVerdict::AskForLess && most > 1 => {
                    if matches!(error, RestError::TooLong(_)) {
                        // At least; pages that are asked for meanwhile need not find it out for themselves.
                        self.note_row_bytes(&known, room / most);
                    }
                    most /= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Where the page behind one begins, by the head of its answer; `None` behind the last.
pub(crate) fn next_page(head: &HeaderMap) -> Option<String> {
    told(head, LOCATOR).filter(|locator| !locator.is_empty() && *locator != "null").map(str::to_owned)
}

fn told<'a>(head: &'a HeaderMap, name: &str) -> Option<&'a str> {
    head.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// Reads a page: what its head says of it, and its CSV.
///
/// # Errors
/// When it is not what the head says, or not CSV with a column for each of the plan. No text holds what a row does.
pub async fn read(plan: &Arc<CsvPlan>, head: &HeaderMap, csv: Vec<u8>) -> Result<BulkPage, BulkError> {
    let said: u64 = told(head, COUNT)
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| RestError::Unexpected("a page of a Bulk query job that does not tell its records".to_owned()))?;
    let next = next_page(head);
    // Of a result without records some orgs send nothing at all, not even the names of the columns.
    let empty = csv.is_empty();
    let rows = if empty { 0 } else { rows(plan, csv.as_slice(), said).await? };
    if rows as u64 != said {
        return Err(BulkError::NotWhole(format!("a page has {rows} records and says that it has {said}")));
    }
    if next.is_some() && rows == 0 {
        return Err(BulkError::NotWhole("a page without records is not the last".to_owned()));
    }
    let mut csv = csv::Reader::from_reader(Cursor::new(csv));
    let places = if empty { Vec::new() } else { places(plan, csv.headers().map_err(|error| unreadable(&error))?)? };
    Ok(BulkPage { plan: plan.clone(), csv, places, record: csv::StringRecord::new(), left: rows, next })
}

/// How many rows there are in a page that is said to have so many: all of them CSV, and each with an id.
///
/// # Errors
/// As [`read`], and when there are more rows than said or than are ever asked for.
pub async fn rows(plan: &CsvPlan, csv: impl Read, said: u64) -> Result<usize, BulkError> {
    let most = usize::try_from(said).unwrap_or(usize::MAX).min(MOST_ROWS);
    let mut csv = csv::Reader::from_reader(csv);
    let places = places(plan, csv.headers().map_err(|error| unreadable(&error))?)?;
    let (mut rows, mut record) = (0, csv::StringRecord::new());
    while csv.read_record(&mut record).map_err(|error| unreadable(&error))? {
        if rows == most {
            let what = format!("a page has more than {most} records and says that it has {said}");
            return Err(BulkError::NotWhole(what));
        }
        let cell = |column: usize| places.get(column).and_then(|place| record.get(*place)).unwrap_or_default();
        // Anything else is another cell. Ids are logged and kept, and those must not be.
        if !is_id(&plan.id(cell)) {
            let line = record.position().map(csv::Position::line).unwrap_or_default();
            return Err(BulkError::NotWhole(format!("the row at line {line} has no id")));
        }
        rows += 1;
        if rows % ROWS_A_TURN == 0 {
            tokio::task::yield_now().await;
        }
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
        let mut page = read(&Arc::new(plan()), &headers, csv.into_bytes()).await?;
        let mut rows = Vec::new();
        while let Some(row) = page.next_row()? {
            rows.push(row);
        }
        Ok(rows)
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
