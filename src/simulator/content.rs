//! What stands in the records: names, subjects and descriptions that read like a
//! support desk's, drawn from the dice.

use crate::simulator::dice::Dice;
use crate::simulator::objects::{Field, Kind, USER};
use crate::simulator::record_id::record_id;
use crate::simulator::value::Value;

const FIRST: [&str; 10] = ["Ada", "Björn", "Chiara", "Dmitri", "Elif", "Fátima", "Grace", "Hiroshi", "Imani", "José"];
const LAST: [&str; 10] =
    ["Lovelace", "Åkesson", "Rossi", "Petrov", "Yılmaz", "O'Neill", "Hopper", "佐藤", "Otieno", "Núñez"];
const COMPANIES: [&str; 6] = [
    "Edge Communications",
    "Burlington Textiles",
    "Pyramid Construction",
    "Grand Hotels",
    "GenePoint",
    "Müller & Söhne",
];
const PROBLEMS: [&str; 10] = [
    "Router keeps rebooting",
    "Generator does not start",
    "Invoice shows the wrong amount",
    "No dial tone since this morning",
    "Delivery arrived \"damaged\"",
    "Cannot sign in to the portal",
    "Signal lost during rain",
    "Replacement part requested",
    "Contract to be transferred",
    "Battery drains within an hour",
];
const STREETS: [&str; 6] =
    ["12 Main Street", "Rue de Rivoli 7", "Königsallee 60", "4-2-8 Shibakoen", "1 Market St", "Gran Vía 28"];
const CITIES: [(&str, &str, &str, &str, &str); 4] = [
    ("San Francisco", "California", "CA", "United States", "US"),
    ("Düsseldorf", "Nordrhein-Westfalen", "NW", "Germany", "DE"),
    ("Paris", "Île-de-France", "IDF", "France", "FR"),
    ("Toronto", "Ontario", "ON", "Canada", "CA"),
];
/// Users of the org; few, so that consecutive changes often have the same author.
const USERS: usize = 12;
/// Records of objects that are only referred to.
const REFERRED: usize = 500;
const DAY: i64 = 86_400_000;

/// One of the org's users.
pub(crate) fn user(dice: &mut Dice) -> String {
    record_id("005", 1 + dice.below(USERS) as u64)
}

/// A value for a field, at the time `now` (milliseconds of the epoch).
pub(crate) fn draw(dice: &mut Dice, field: &Field, now: i64) -> Value {
    match field.kind {
        Kind::Text => Value::Text(text(dice, &field.name)),
        Kind::AutoNumber => Value::Text(format!("{:08}", dice.below(100_000_000))),
        Kind::LongText => Value::Text(description(dice)),
        Kind::RichText => Value::Text(format!("<p>{} <b>&amp;</b> {}</p>", sentence(dice), sentence(dice))),
        Kind::Email => {
            let (first, number) = (dice.pick(&["ada", "grace", "jose", "support"]), dice.below(1000));
            Value::Text(format!("{first}.{number}@example.com"))
        }
        Kind::Url => Value::Text(format!("https://example.com/p/{}", dice.below(100_000))),
        Kind::Phone => Value::Text(phone(dice)),
        Kind::Picklist(values) | Kind::FixedPicklist(values) => Value::Text((*dice.pick(values)).to_owned()),
        Kind::MultiPicklist(values) => {
            let from = dice.below(values.len());
            let chosen = values[from..].iter().take(dice.between(1, 3));
            Value::Text(chosen.copied().collect::<Vec<_>>().join(";"))
        }
        Kind::Checkbox => Value::Flag(dice.percent(50)),
        Kind::Integer => Value::Integer(i32::try_from(dice.below(60)).unwrap_or(0)),
        Kind::Number => Value::Number(dice.below(100_000) as f64 / 8.0),
        Kind::Currency => Value::Number(dice.below(1_000_000) as f64 / 100.0),
        Kind::Percent => Value::Number(dice.below(1_000) as f64 / 10.0),
        Kind::DateTime | Kind::CreatedDate => Value::Long(whole_second(now) - 1000 * dice.below(86_400) as i64),
        Kind::Date => Value::Long((now.div_euclid(DAY) - dice.below(3_000) as i64) * DAY),
        Kind::Time => Value::Long(900_000 * dice.below(96) as i64),
        Kind::Reference(_) if field.kind == USER => Value::Text(user(dice)),
        Kind::Reference(prefix) => Value::Text(record_id(prefix, 1 + dice.below(REFERRED) as u64)),
        Kind::Address => address(dice),
        Kind::Location => Value::Compound(vec![Some(coordinate(dice, 90)), Some(coordinate(dice, 180))]),
    }
}

pub(crate) fn whole_second(millis: i64) -> i64 {
    millis.div_euclid(1000) * 1000
}

/// A latitude or longitude within plus and minus `limit` degrees.
pub(crate) fn coordinate(dice: &mut Dice, limit: i64) -> Value {
    let range = usize::try_from(limit * 2 * 10_000).unwrap_or(1);
    Value::Number((dice.below(range) as f64 - (limit * 10_000) as f64) / 10_000.0)
}

/// A description of some lines; about one in three is long enough to be diffed.
fn description(dice: &mut Dice) -> String {
    let lines = if dice.percent(35) { dice.between(24, 40) } else { dice.between(1, 6) };
    // Browsers send carriage returns, the API what it was given.
    let break_ = if dice.percent(50) { "\r\n" } else { "\n" };
    (0..lines).map(|_| sentence(dice)).collect::<Vec<_>>().join(break_)
}

/// The text with one or two of its lines written anew; line breaks stay as they are.
pub(crate) fn edit_lines(dice: &mut Dice, text: &str) -> String {
    let break_ = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut lines: Vec<String> = text.split(break_).map(str::to_owned).collect();
    for _ in 0..dice.between(1, 2) {
        let at = dice.below(lines.len());
        lines[at] = format!("{} (edited {})", sentence(dice), dice.below(1000));
    }
    lines.join(break_)
}

fn sentence(dice: &mut Dice) -> String {
    let (problem, first, last) = (dice.pick(&PROBLEMS), dice.pick(&FIRST), dice.pick(&LAST));
    format!("{problem}, says {first} {last}.")
}

fn phone(dice: &mut Dice) -> String {
    format!("+1 (415) 555-{:04}", dice.below(10_000))
}

fn text(dice: &mut Dice, field: &str) -> String {
    match field {
        "Subject" => format!("{} #{}", dice.pick(&PROBLEMS), dice.below(10_000)),
        "SuppliedCompany" | "ChannelGroup" => (*dice.pick(&COMPANIES)).to_owned(),
        "SuppliedPhone" => phone(dice),
        "IsoCountryCode" => (*dice.pick(&["US", "DE", "FR", "JP"])).to_owned(),
        "Locale" | "ChannelLocale" => (*dice.pick(&["en_US", "de_DE", "fr_FR", "ja_JP"])).to_owned(),
        "SessionKey" | "ChannelKey" | "MessagingPlatformKey" | "MessagingExternalUserKey" => dice.uuid(),
        "PreviewDetails" => sentence(dice),
        "Case_Id__c" => record_id("500", 1 + dice.below(REFERRED) as u64),
        "Priority__c" => (*dice.pick(&["High", "Medium", "Low"])).to_owned(),
        _ => format!("{} {}", dice.pick(&FIRST), dice.pick(&LAST)),
    }
}

fn address(dice: &mut Dice) -> Value {
    let (city, state, state_code, country, country_code) = *dice.pick(&CITIES);
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let located = dice.percent(50);
    let (latitude, longitude) = (coordinate(dice, 90), coordinate(dice, 180));
    Value::Compound(vec![
        text(STREETS[dice.below(STREETS.len())]),
        text(city),
        text(state),
        Some(Value::Text(format!("{:05}", dice.below(100_000)))),
        text(country),
        text(state_code),
        text(country_code),
        located.then_some(latitude),
        located.then_some(longitude),
        if located { text("Address") } else { None },
    ])
}
