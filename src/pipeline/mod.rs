//! The stations and the run loop of a stream.
