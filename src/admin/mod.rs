//! HTTP for operators and probes.
