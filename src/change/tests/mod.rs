//! Tests of the whole room: schema in, payload in, change out. `apache-avro` writes the payloads.

mod against_reference;
mod one_rendering;
mod sample;
mod semantics;
