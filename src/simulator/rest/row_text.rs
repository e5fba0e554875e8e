//! Rows as REST wrote them last: whoever catches up reads the same records again and again, and an org that spends its time on
//! writing them anew would be what is measured.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// So much text is kept in the whole process; beyond it rows are written each time.
const MOST_BYTES: usize = 128 * 1024 * 1024;

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The text of one state of a row, once somebody has asked for it. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowText(Arc<OnceLock<Text>>);

#[derive(Debug)]
struct Text {
    /// What was asked for: the API version and the fields.
    shape: Arc<str>,
    text: Box<str>,
}

impl RowText {
    /// Appends the row in a shape; `write` writes one that is not kept.
    pub(crate) fn append<E>(
        &self,
        shape: &Arc<str>,
        out: &mut String,
        write: impl FnOnce() -> Result<String, E>,
    ) -> Result<(), E> {
        if let Some(kept) = self.0.get().filter(|kept| kept.shape == *shape) {
            out.push_str(&kept.text);
            return Ok(());
        }
        let text = write()?;
        out.push_str(&text);
        if KEPT.load(Ordering::Relaxed).saturating_add(text.len()) <= MOST_BYTES {
            self.0.get_or_init(|| {
                KEPT.fetch_add(text.len(), Ordering::Relaxed);
                Text { shape: Arc::clone(shape), text: text.into() }
            });
        }
        Ok(())
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.text.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_written_once_for_its_shape_and_each_time_for_others() {
        let (row, shape, other): (_, Arc<str>, Arc<str>) =
            (RowText::default(), "v66.0 Id".into(), "v66.0 Id,Name".into());
        let appended = |row: &RowText, shape: &Arc<str>, text: Option<&str>| {
            let mut out = String::new();
            row.append(shape, &mut out, || text.map(str::to_owned).ok_or(())).map(|()| out)
        };
        assert_eq!(appended(&row, &shape, Some("one")).as_deref(), Ok("one"));
        assert_eq!(appended(&row.clone(), &shape, None).as_deref(), Ok("one"), "a clone of the same state");
        assert_eq!(appended(&row, &other, Some("two")).as_deref(), Ok("two"));
        assert_eq!(appended(&row, &other, None), Err(()), "nobody kept that");
        assert_eq!(appended(&RowText::default(), &shape, None), Err(()), "another row");
    }
}
