//! Pages of the result of a Bulk query job. The listings of `reconcile` are pages of the same kind, with fewer columns.
//!
//! An even first byte has rows made and written as Salesforce writes them: what is rendered is what was put in, whatever pieces
//! the bytes come in and wherever pages end. An odd one makes the rest the body of a page: what is refused is refused without
//! quoting it, and no page is longer than it says.

#![no_main]

use std::io::{self, Read};
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use casewire::change::{CsvPlan, FieldPolicies, ObjectDescription, Row, RowPlan};
use casewire::identity::case_safe_id;
use casewire::salesforce::bulk::BulkError;
use casewire::salesforce::reading::{BulkPage, BulkRow, bulk_page, bulk_rows};
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta};
use http::HeaderMap;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// Stands in bodies and has no business in an error.
const CONTENT: &str = "cOnTenT";

const LONGEST_TEXT: usize = 200;

/// More rows of a page are more of the same.
const MOST_ROWS: usize = 4;

/// Every kind of cell; `describe` names components before their compounds, and so does this.
static PLAN: LazyLock<Arc<CsvPlan>> = LazyLock::new(|| {
    let field = |(name, kind, compound): (&str, &str, Value)| json!({"name": name, "type": kind, "compoundFieldName": compound});
    let fields = [
        ("Id", "id", Value::Null),
        ("IsDeleted", "boolean", Value::Null),
        ("SystemModstamp", "datetime", Value::Null),
        ("Subject", "textarea", Value::Null),
        ("Topics__c", "multipicklist", Value::Null),
        ("Flag__c", "boolean", Value::Null),
        ("Count__c", "int", Value::Null),
        ("Amount__c", "currency", Value::Null),
        ("At__c", "datetime", Value::Null),
        ("Day__c", "date", Value::Null),
        ("Clock__c", "time", Value::Null),
        ("ParentId", "reference", Value::Null),
        ("FirstName", "string", json!("Name")),
        ("LastName", "string", json!("Name")),
        ("Name", "string", Value::Null),
        ("BillingCity", "string", json!("BillingAddress")),
        ("BillingLatitude", "double", json!("BillingAddress")),
        ("BillingAddress", "address", Value::Null),
    ];
    let answer = json!({"name": "Sample", "fields": fields.map(field)}).to_string();
    let described = ObjectDescription::parse(answer.as_bytes()).expect("an answer of describe");
    let plan = RowPlan::new(&described, &FieldPolicies::default(), |_| true).expect("a plan");
    Arc::new(CsvPlan::new(Arc::new(plan)).expect("all of it can stand in CSV"))
});

fuzz_target!(|data: &[u8]| {
    let [kind, data @ ..] = data else { return };
    if kind % 2 == 1 {
        hostile(data);
    } else if let Ok(result) = Made::arbitrary(&mut Unstructured::new(data)) {
        result.comes_out_as_it_is();
    }
});

/// The futures of a page only wait for their turn.
fn finished<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

/// Gives bytes in pieces, of the lengths given in turn.
struct Pieces<'a> {
    left: &'a [u8],
    lengths: &'a [u8],
    next: usize,
}

impl<'a> Pieces<'a> {
    fn of(left: &'a [u8], lengths: &'a [u8]) -> Self {
        Self { left, lengths, next: 0 }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.lengths.get(self.next % self.lengths.len().max(1)).map_or(1, |length| *length);
        // A byte order mark is only looked for in the first piece, and one that is all of it is taken for the end. A page is in
        // memory when it is read, so its first piece is kilobytes.
        let least = if self.next == 0 { 4 } else { 1 };
        self.next += 1;
        let given = usize::from(length).max(least).min(into.len()).min(self.left.len());
        let (piece, left) = self.left.split_at(given);
        into[..given].copy_from_slice(piece);
        self.left = left;
        Ok(given)
    }
}

fn headers(records: usize, locator: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("sforce-numberofrecords", records.into());
    headers.insert("sforce-locator", locator.unwrap_or("null").parse().expect("a header"));
    headers
}

fn page(records: usize, csv: &[u8]) -> Result<BulkPage, BulkError> {
    finished(bulk_page(&PLAN, &headers(records, None), csv.to_vec()))
}

/// All rows of a page.
fn rows(mut page: BulkPage) -> Vec<BulkRow> {
    let mut rows = Vec::new();
    while let Some(row) = page.next_row().expect("what is left of a page was found to be sound") {
        rows.push(row);
    }
    assert_eq!(page.left(), 0);
    rows
}

fn hostile(body: &[u8]) {
    let most = 8;
    let whole = finished(bulk_rows(&PLAN, body, most));
    let pieces = finished(bulk_rows(&PLAN, Pieces::of(body, &body[..body.len().min(9)]), most));
    assert_eq!(whole, pieces, "by the pieces it came in");
    let count = match whole {
        Ok(count) => count,
        Err(error) => return fit_to_be_logged(&error),
    };
    assert!(count as u64 <= most);
    let Ok(told) = page(count, body) else { panic!("as many rows as it says") };
    assert!(told.next_locator().is_none());
    let rows = rows(told);
    assert_eq!(rows.len(), count);
    for row in &rows {
        let id = match row {
            Ok(row) => {
                let record: Value = serde_json::from_str(row.record.as_str()).expect("a record is JSON");
                assert_eq!(record["Id"].as_str(), Some(row.id.as_str()));
                &row.id
            }
            Err((id, fault)) => {
                assert!(!fault.to_string().contains(CONTENT), "{fault}");
                id
            }
        };
        assert!(matches!(id.len(), 15 | 18) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id:?}");
    }
    for wrong in [rows.len().saturating_sub(1), rows.len() + 1].into_iter().filter(|wrong| *wrong != rows.len()) {
        fit_to_be_logged(&page(wrong, body).expect_err("another number of rows"));
    }
    let onward = finished(bulk_page(&PLAN, &headers(rows.len(), Some("next")), body.to_vec()));
    assert_eq!(
        onward.map(|page| page.next_locator().is_some()).unwrap_or_default(),
        !rows.is_empty(),
        "a page that leads on"
    );
}

fn fit_to_be_logged(error: &BulkError) {
    let text = error.to_string();
    assert!(text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control), "{text:?}");
    // Names of columns are the plan's own.
    assert!(!text.contains(CONTENT), "{text}");
}

/// A result, and how it is written.
#[derive(Debug, Arbitrary)]
struct Made {
    rows: Vec<MadeRow>,
    /// Columns before the first one of the plan.
    rotated: u8,
    upper_case_names: bool,
    always_quoted: bool,
    carriage_returns: bool,
    byte_order_mark: bool,
    last_line_ends: bool,
    lengths: Vec<u8>,
    /// Where the first page ends.
    ends: u8,
}

#[derive(Debug, Arbitrary)]
struct MadeRow {
    id: u32,
    long_id: bool,
    deleted: bool,
    stamp: i64,
    /// How date-times are spelled.
    spelling: u8,
    subject: String,
    topics: Vec<String>,
    flag: Option<bool>,
    count: Option<i64>,
    amount: Option<f64>,
    at: Option<i64>,
    day: Option<i32>,
    clock: Option<u32>,
    parent: Option<u32>,
    names: (String, String, String),
    city: String,
    latitude: Option<f64>,
}

impl Made {
    fn comes_out_as_it_is(mut self) {
        self.rows.truncate(MOST_ROWS);
        for row in &mut self.rows {
            row.amount = row.amount.filter(|number| number.is_finite());
            row.latitude = row.latitude.filter(|number| number.is_finite());
            row.topics = row.topics.iter().map(|topic| topic.replace(';', "")).filter(|one| !one.is_empty()).collect();
        }
        let body = self.written(&self.rows);
        let whole = rows(page(self.rows.len(), &body).expect("a page"));
        assert_eq!(whole.len(), self.rows.len());
        for (row, made) in whole.iter().zip(&self.rows) {
            made.agrees_with(row.as_ref().expect("a row"));
        }
        let pieces = finished(bulk_rows(&PLAN, Pieces::of(&body, &self.lengths), self.rows.len() as u64));
        assert_eq!(pieces, Ok(whole.len()), "by the pieces it came in");
        let (first, second) = self.rows.split_at(usize::from(self.ends) % (self.rows.len() + 1));
        let pages = [first, second].map(|made| rows(page(made.len(), &self.written(made)).expect("a page")));
        assert_eq!(pages.concat(), whole, "by where a page ends");
        self.cannot_be_cut_short(&body, &whole);
    }

    /// A body that ends too early never passes for the whole page.
    fn cannot_be_cut_short(&self, body: &[u8], whole: &[BulkRow]) {
        let end = body.len() * usize::from(self.ends) / 256;
        if let Ok(page) = page(self.rows.len(), &body[..end]) {
            // All that can be missing is the end of the last cell, of which nobody knows how long it is.
            let known = whole.len().saturating_sub(1);
            assert_eq!(rows(page)[..known], whole[..known]);
        }
    }

    fn written(&self, rows: &[MadeRow]) -> Vec<u8> {
        let columns = PLAN.columns();
        let first = usize::from(self.rotated) % columns.len();
        let order: Vec<&String> = columns.iter().cycle().skip(first).take(columns.len()).collect();
        let mut csv = String::from(if self.byte_order_mark { "\u{feff}" } else { "" });
        let end = if self.carriage_returns { "\r\n" } else { "\n" };
        let mut line = |cells: Vec<String>| {
            let cells: Vec<String> = cells.into_iter().map(|cell| self.cell(cell)).collect();
            csv.push_str(&cells.join(","));
            csv.push_str(end);
        };
        let name = |name: &&String| if self.upper_case_names { name.to_uppercase() } else { (*name).clone() };
        line(order.iter().map(name).collect());
        for row in rows {
            line(order.iter().map(|column| row.cell(column)).collect());
        }
        if !self.last_line_ends {
            csv.truncate(csv.len() - end.len());
        }
        csv.into_bytes()
    }

    fn cell(&self, text: String) -> String {
        if self.always_quoted || text.contains(['"', ',', '\n', '\r']) {
            return format!("\"{}\"", text.replace('"', "\"\""));
        }
        text
    }
}

impl MadeRow {
    /// A cell as Salesforce writes it.
    fn cell(&self, column: &str) -> String {
        let some = |text: Option<String>| text.unwrap_or_default();
        match column {
            "Id" => id(self.id, self.long_id),
            "IsDeleted" => self.deleted.to_string(),
            "SystemModstamp" => self.spelled(self.stamp),
            "Subject" => self.subject.clone(),
            "Topics__c" => self.topics.join(";"),
            "Flag__c" => some(self.flag.map(|flag| flag.to_string())),
            "Count__c" => some(self.count.map(|count| {
                let exact = count.unsigned_abs() < 1 << 53 && self.spelling & 4 > 0;
                format!("{count}{}", if exact { ".0" } else { "" })
            })),
            "Amount__c" => {
                some(self.amount.map(
                    |amount| {
                        if self.spelling & 8 > 0 { format!("{amount:e}") } else { amount.to_string() }
                    },
                ))
            }
            "At__c" => some(self.at.map(|at| self.spelled(at))),
            "Day__c" => some(self.day.map(|number| day(number).to_string())),
            "Clock__c" => some(self.clock.map(clock)),
            "ParentId" => some(self.parent.map(|number| id(number, !self.long_id))),
            "FirstName" => self.names.0.clone(),
            "LastName" => self.names.1.clone(),
            "Name" => self.names.2.clone(),
            "BillingCity" => self.city.clone(),
            "BillingLatitude" => some(self.latitude.map(|number| number.to_string())),
            other => panic!("no column {other} was asked for"),
        }
    }

    fn spelled(&self, milliseconds: i64) -> String {
        let time = time(milliseconds);
        match self.spelling % 3 {
            0 => time.format("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string(),
            1 => time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            _ => time.timestamp_millis().to_string(),
        }
    }

    fn agrees_with(&self, row: &Row) {
        let rendered = |at: i64| time(at).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
        assert_eq!(row.id, id(self.id, true));
        assert_eq!((row.as_of, row.deleted), (time(self.stamp), self.deleted));
        let record: Value = serde_json::from_str(row.record.as_str()).expect("a record is JSON");
        let (first, last, whole) = &self.names;
        let name = match first.is_empty() && last.is_empty() {
            true => text(whole),
            false => json!({"FirstName": text(first), "LastName": text(last)}),
        };
        for (field, expected) in [
            ("Id", json!(id(self.id, true))),
            ("IsDeleted", json!(self.deleted)),
            ("SystemModstamp", json!(rendered(self.stamp))),
            ("Subject", text(&self.subject)),
            ("Topics__c", if self.topics.is_empty() { Value::Null } else { json!(self.topics) }),
            ("Flag__c", json!(self.flag)),
            ("Count__c", json!(self.count)),
            ("At__c", json!(self.at.map(rendered))),
            ("Day__c", json!(self.day.map(|number| day(number).to_string()))),
            ("Clock__c", json!(self.clock.map(clock))),
            ("ParentId", json!(self.parent.map(|number| id(number, true)))),
            ("Name", name),
        ] {
            assert_eq!(record[field], expected, "{field}");
        }
        // A number has many spellings and one value.
        assert_eq!(record["Amount__c"].as_f64(), self.amount);
        let address = &record["BillingAddress"];
        assert_eq!(address.is_null(), self.city.is_empty() && self.latitude.is_none());
        assert_eq!((&address["City"], address["Latitude"].as_f64()), (&text(&self.city), self.latitude));
        assert_eq!(record.as_object().map(serde_json::Map::len), Some(14));
    }
}

fn id(number: u32, long: bool) -> String {
    let id = format!("500{number:012}");
    if long { case_safe_id(&id).into_owned() } else { id }
}

/// Any moment of the years that have four digits.
fn time(milliseconds: i64) -> DateTime<chrono::Utc> {
    const FIRST: i64 = -62_167_219_200_000;
    const LAST: i64 = 253_402_300_799_999;
    DateTime::from_timestamp_millis(FIRST + milliseconds.rem_euclid(LAST - FIRST + 1)).expect("in range")
}

fn day(number: i32) -> NaiveDate {
    NaiveDate::default() + TimeDelta::days(i64::from(number % 700_000))
}

fn clock(number: u32) -> String {
    let milliseconds = number % 86_400_000;
    let time = NaiveTime::from_num_seconds_from_midnight_opt(milliseconds / 1_000, milliseconds % 1_000 * 1_000_000);
    time.expect("within a day").format("%H:%M:%S%.3fZ").to_string()
}
