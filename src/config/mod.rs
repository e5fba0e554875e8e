//! File and environment to one validated configuration.
