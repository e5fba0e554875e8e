//! What a change event means; no I/O.
