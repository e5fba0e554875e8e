//! The status board.
