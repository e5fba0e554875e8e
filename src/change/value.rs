//! One value: from its Avro bytes to its JSON text.

use std::collections::HashSet;

use crate::change::avro_binary::Reader;
use crate::change::error::DecodeFault;
use crate::change::json;
use crate::change::plan::{Node, RecordIndex, Records, Width};
use crate::change::render;

/// How deep values may be nested. Salesforce's events have three levels.
const MAX_DEPTH: usize = 64;

/// The largest text of one event. Salesforce's limit is 1 MB of Avro, which grows sixfold at most.
const MAX_TEXT: usize = 32 * 1024 * 1024;

/// Whether a compound shows its empty components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Empty {
    Shown,
    LeftOut,
}

/// Reads the values of one payload in order.
#[derive(Debug)]
pub(crate) struct ValueReader<'p> {
    /// What is left of the payload.
    pub(crate) encoded: Reader<'p>,
    records: &'p Records,
    depth: usize,
}

impl<'p> ValueReader<'p> {
    pub(crate) fn new(payload: &'p [u8], records: &'p Records) -> Self {
        Self { encoded: Reader::new(payload), records, depth: 0 }
    }

    /// Follows unions down to the branch that was written.
    pub(crate) fn branch(&mut self, mut node: &'p Node) -> Result<&'p Node, DecodeFault> {
        while let Node::Union(branches) = node {
            let index = self.encoded.long()?;
            let branch = usize::try_from(index).ok().and_then(|index| branches.get(index));
            node = branch.ok_or(DecodeFault::UnionBranch(index))?;
        }
        Ok(node)
    }

    /// As [`ValueReader::value`], but a compound none of whose components has a value is `null`.
    pub(crate) fn compound_or_value(
        &mut self,
        node: &'p Node,
        empty: Empty,
        out: &mut String,
    ) -> Result<bool, DecodeFault> {
        let Node::Record(index) = node else {
            return self.value(node, out);
        };
        let before = out.len();
        let any = self.record(*index, empty, out)?;
        if !any {
            out.truncate(before);
            out.push_str("null");
        }
        Ok(any)
    }

    /// Writes one value as JSON; returns whether it is something else than `null`.
    pub(crate) fn value(&mut self, node: &'p Node, out: &mut String) -> Result<bool, DecodeFault> {
        self.encoded.count_value()?;
        if out.len() > MAX_TEXT {
            return Err(DecodeFault::TooLarge);
        }
        match node {
            Node::Null => {
                out.push_str("null");
                return Ok(false);
            }
            Node::Text => return Ok(render::write_text(self.encoded.text()?, out)),
            Node::MultiSelect => return Ok(render::write_multi_select(self.encoded.text()?, out)),
            Node::Boolean => render::write_boolean(self.encoded.boolean()?, out),
            Node::Integer { width: Width::Int, form } => form.write(self.encoded.int()?, out)?,
            Node::Integer { width: Width::Long, form } => form.write(self.encoded.long()?, out)?,
            Node::Float => render::write_float(self.encoded.float()?, out),
            Node::Double => render::write_double(self.encoded.double()?, out),
            Node::Bytes => render::write_bytes(self.encoded.bytes()?, out),
            Node::Fixed(size) => render::write_bytes(self.encoded.take(*size)?, out),
            Node::Decimal { size, scale } => {
                let unscaled = match size {
                    Some(size) => self.encoded.take(*size)?,
                    None => self.encoded.bytes()?,
                };
                render::write_decimal(unscaled, *scale, out)?;
            }
            Node::Enum(symbols) => {
                let index = self.encoded.int()?;
                let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index));
                render::write_quoted(symbol.ok_or(DecodeFault::EnumSymbol(index))?, out);
            }
            Node::Union(_) => {
                let branch = self.branch(node)?;
                return self.value(branch, out);
            }
            Node::Array(items) => self.deeper(|reader| reader.array(items, out))?,
            Node::Map(values) => self.deeper(|reader| reader.map(values, out))?,
            Node::Record(index) => {
                self.record(*index, Empty::Shown, out)?;
            }
        }
        Ok(true)
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, DecodeFault>) -> Result<T, DecodeFault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(DecodeFault::TooDeep);
        }
        let read = read(self)?;
        self.depth -= 1;
        Ok(read)
    }

    /// Writes a record; returns whether any of its fields has a value.
    fn record(&mut self, index: RecordIndex, empty: Empty, out: &mut String) -> Result<bool, DecodeFault> {
        let record = self.records.get(index);
        self.deeper(|reader| {
            let mut any = false;
            out.push('{');
            for field in &record.fields {
                let before = json::write_key(&field.key, out);
                if reader.value(&field.node, out)? {
                    any = true;
                } else if empty == Empty::LeftOut {
                    out.truncate(before);
                }
            }
            out.push('}');
            Ok(any)
        })
    }

    fn array(&mut self, items: &'p Node, out: &mut String) -> Result<(), DecodeFault> {
        let mut separator = '[';
        loop {
            let count = self.encoded.block()?;
            if count == 0 {
                break;
            }
            for _ in 0..count {
                out.push(separator);
                separator = ',';
                self.value(items, out)?;
            }
        }
        out.push_str(if separator == '[' { "[]" } else { "]" });
        Ok(())
    }

    fn map(&mut self, of: &'p Node, out: &mut String) -> Result<(), DecodeFault> {
        let mut keys = HashSet::new();
        let mut separator = '{';
        loop {
            let count = self.encoded.block()?;
            if count == 0 {
                break;
            }
            for _ in 0..count {
                let key = self.encoded.text()?;
                if !keys.insert(key) {
                    return Err(DecodeFault::DuplicateKey);
                }
                out.push(separator);
                separator = ',';
                render::write_quoted(key, out);
                out.push(':');
                self.value(of, out)?;
            }
        }
        out.push_str(if separator == '{' { "{}" } else { "}" });
        Ok(())
    }
}
