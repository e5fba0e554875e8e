//! Which part of a change the value of a field belongs to.
//!
//! In an update `null` means both "unchanged" and "cleared"; only the header's lists tell. So the fate of a
//! field is settled from the lists before its value is read.

use crate::change::bitmap::FieldBitmap;

/// What a value is, whatever it turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Changed as a whole: it goes to `changed`, null or not.
    Changed,
    /// Changed to null. A value would contradict that.
    Cleared,
    /// Changed, and the value is a text diff.
    Diff,
    /// Changed in a way that the lists tell in two ways that do not agree.
    Doubtful,
    /// A compound of which some components changed.
    Parts,
    /// Not named. A value that is there goes where the kind of event says.
    Unnamed,
}

/// The three lists of a header, checked against the schema.
#[derive(Debug, Default)]
pub(crate) struct FieldLists {
    pub(crate) changed: FieldBitmap,
    pub(crate) nulled: FieldBitmap,
    pub(crate) diff: FieldBitmap,
}

impl FieldLists {
    /// The fate of the field at a position; `components` is how many it has, 0 if it is no compound.
    pub(crate) fn fate(&self, position: usize, components: usize) -> Fate {
        let parts = [&self.changed, &self.nulled, &self.diff].iter().any(|list| list.components(position).is_some());
        let (changed, nulled) = (self.changed.names(position), self.nulled.names(position));
        if self.diff.names(position) {
            Fate::Diff
        } else if parts && nulled {
            Fate::Doubtful
        } else if parts && changed {
            // Salesforce does not name a compound beside its components. If it did, a component that is
            // null and not named could be either unchanged or cleared.
            let all = (0..components).all(|component| self.component_fate(position, component) != Fate::Unnamed);
            if all { Fate::Parts } else { Fate::Doubtful }
        } else if nulled {
            Fate::Cleared
        } else if changed {
            Fate::Changed
        } else if parts {
            Fate::Parts
        } else {
            Fate::Unnamed
        }
    }

    /// The fate of one component of the compound at a position.
    pub(crate) fn component_fate(&self, position: usize, component: usize) -> Fate {
        if self.diff.names_component(position, component) {
            Fate::Diff
        } else if self.nulled.names_component(position, component) {
            Fate::Cleared
        } else if self.changed.names_component(position, component) {
            Fate::Changed
        } else {
            Fate::Unnamed
        }
    }
}
