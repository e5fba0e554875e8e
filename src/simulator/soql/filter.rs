//! Which rows a query finds, and in which order.

use std::cmp::Ordering;
use std::sync::Arc;

use super::parser::Operator;
use super::resolve::{Comparand, Condition, Query};
use crate::simulator::columns::{Cells, Column};
use crate::simulator::objects::{Kind, Object};
use crate::simulator::record_store::{RecordKey, Row};
use crate::simulator::value::Value;

impl Query {
    /// The rows among those given that the query finds. Without an order of its own they stay as they come, by id.
    pub(crate) fn run(&self, object: &Arc<Object>, rows: Vec<(RecordKey, Row)>) -> Vec<(RecordKey, Row)> {
        let matches = |(key, row): &(RecordKey, Row)| {
            let cells = Cells::new(object, key, row);
            self.condition.as_ref().is_none_or(|condition| self.holds(condition, &cells))
        };
        let mut found: Vec<(RecordKey, Row)> = rows.into_iter().filter(matches).collect();
        if !self.order.is_empty() {
            found = self.sorted(object, found);
        }
        found.truncate(self.limit.unwrap_or(usize::MAX));
        found
    }

    fn holds(&self, condition: &Condition, cells: &Cells<'_>) -> bool {
        match condition {
            Condition::All(inner) => inner.iter().all(|one| self.holds(one, cells)),
            Condition::Any(inner) => inner.iter().any(|one| self.holds(one, cells)),
            Condition::Compare { column, operator, comparands } => {
                let value = comparable(&self.columns[*column], cells);
                compare(&value, *operator, comparands)
            }
        }
    }

    fn sorted(&self, object: &Arc<Object>, rows: Vec<(RecordKey, Row)>) -> Vec<(RecordKey, Row)> {
        let keyed = |(key, row): (RecordKey, Row)| {
            let cells = Cells::new(object, &key, &row);
            let keys: Vec<_> = self.order.iter().map(|order| comparable(&self.columns[order.column], &cells)).collect();
            drop(cells);
            (keys, (key, row))
        };
        let mut keyed: Vec<_> = rows.into_iter().map(keyed).collect();
        keyed.sort_by(|(one, _), (other, _)| {
            let pairs = self.order.iter().zip(one.iter().zip(other));
            let mut orderings =
                pairs.map(|(order, (one, other))| match (one == &Comparand::Null, other == &Comparand::Null) {
                    (true, true) => Ordering::Equal,
                    (true, false) if order.nulls_last => Ordering::Greater,
                    (true, false) => Ordering::Less,
                    (false, true) if order.nulls_last => Ordering::Less,
                    (false, true) => Ordering::Greater,
                    _ if order.descending => other.partial_cmp(one).unwrap_or(Ordering::Equal),
                    _ => one.partial_cmp(other).unwrap_or(Ordering::Equal),
                });
            orderings.find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
        });
        keyed.into_iter().map(|(_, row)| row).collect()
    }
}

fn comparable(column: &Column, cells: &Cells<'_>) -> Comparand {
    match cells.get(column).as_deref() {
        None | Some(Value::Compound(_)) => Comparand::Null,
        Some(Value::Text(id)) if matches!(column.kind, Kind::Reference(_)) => {
            RecordKey::parse(id).map_or_else(|| Comparand::Text(id.to_lowercase()), Comparand::Key)
        }
        Some(Value::Text(text)) => Comparand::Text(text.to_lowercase()),
        Some(Value::Integer(number)) => Comparand::Number(f64::from(*number)),
        Some(Value::Number(number)) => Comparand::Number(*number),
        Some(Value::Long(number)) => Comparand::Long(*number),
        Some(Value::Flag(flag)) => Comparand::Flag(*flag),
    }
}

/// Null equals null and nothing else; nothing is less or greater than null.
fn compare(value: &Comparand, operator: Operator, comparands: &[Comparand]) -> bool {
    let equal = comparands.iter().any(|comparand| comparand == value);
    let ordered = |wanted: fn(Ordering) -> bool| {
        let comparand = comparands.first().filter(|comparand| **comparand != Comparand::Null);
        *value != Comparand::Null && comparand.and_then(|comparand| value.partial_cmp(comparand)).is_some_and(wanted)
    };
    match operator {
        Operator::Equal | Operator::In => equal,
        Operator::NotEqual | Operator::NotIn => !equal,
        Operator::Less => ordered(Ordering::is_lt),
        Operator::LessOrEqual => ordered(Ordering::is_le),
        Operator::Greater => ordered(Ordering::is_gt),
        Operator::GreaterOrEqual => ordered(Ordering::is_ge),
    }
}
