//! What an event costs beside its decoding: the arithmetic of the credit and of the room downstream, admission by the
//! position, and a response of a hundred events made into the records of a transaction.

mod case_event;

use std::hint::black_box;

use apache_avro::Schema;
use bytes::Bytes;
use casewire::change::{FieldPolicies, WriterSchema};
use casewire::identity::{OrgId, ReplayId, SchemaId, TopicName};
use casewire::kafka::OutputRecord;
use casewire::pipeline::records::{EventSource, RecordWriter};
use casewire::position::{Admission, Anchor, EventKey, Position};
use casewire::salesforce::buffer::Buffer;
use casewire::salesforce::credit::Credit;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Events of one response; what the protocol allows.
const RESPONSE: u64 = 100;

/// A response that brings half of the credit, and the request that asks for as much again.
fn credit(criterion: &mut Criterion) {
    let mut credit = Credit::opened_with(100, 100);
    let buffer = Buffer::new(8000, 16 << 20);
    criterion.bench_function("credit/response and request", |bencher| {
        bencher.iter(|| {
            credit.received(black_box(50), black_box(50));
            let due = credit.due(black_box(1000));
            credit.asked(due);
            due
        });
    });
    criterion.bench_function("buffer/hold, look and give back", |bencher| {
        bencher.iter(|| {
            let hold = buffer.hold(black_box(50), black_box(25_000));
            drop(black_box(hold));
            buffer.free_events()
        });
    });
}

fn keys(first: u64) -> Vec<EventKey> {
    let key = |number: u64| {
        let replay_id = ReplayId::from(Bytes::copy_from_slice(&(number << 16).to_be_bytes()));
        EventKey::new(replay_id, &format!("366d9355-f1bc-4650-b321-{number:012x}"), b"")
    };
    (first..first + RESPONSE).map(key).collect()
}

/// The position of a stream that has run for a while takes a response of new events.
fn admission(criterion: &mut Criterion) {
    let mut position = Position::starting(Anchor::Earliest { since: chrono::DateTime::UNIX_EPOCH });
    let (before, next) = (keys(1), keys(1 + RESPONSE));
    assert!(before.iter().all(|key| position.admit(key) == Admission::New));
    let mut group = criterion.benchmark_group("position");
    group.throughput(Throughput::Elements(RESPONSE));
    group.bench_function("admit a response", |bencher| {
        let admit = |mut position: Position| {
            assert!(next.iter().all(|key| position.admit(key) == Admission::New));
            position
        };
        bencher.iter_batched(|| position.clone(), admit, BatchSize::SmallInput);
    });
    group.finish();
}

/// What the decode station does with a response, without its waits: admission, decoding, records.
fn assembly(criterion: &mut Criterion) {
    let json = case_event::schema();
    let reference = Schema::parse(&json).expect("a valid schema");
    let schema = WriterSchema::parse(&json.to_string()).expect("a valid schema");
    let id = SchemaId::from("fu0f4hMtqehVVUQ7_l39Zg");
    let org: OrgId = "00D8d00000AbCdEEAV".parse().expect("an id");
    let topic: TopicName = "/data/CaseChangeEvent".parse().expect("a topic");
    let mut writer = RecordWriter::new(org, topic, "salesforce".to_owned(), false);
    let fresh = Position::starting(Anchor::Earliest { since: chrono::DateTime::UNIX_EPOCH });
    let keys = keys(1);
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(RESPONSE));
    for (name, payload) in case_event::samples(&reference) {
        group.bench_function(format!("a hundred events to records, {name}"), |bencher| {
            let assemble = |mut position: Position| -> (Position, Vec<OutputRecord>) {
                let mut records = Vec::new();
                for key in &keys {
                    assert_eq!(position.admit(key), Admission::New);
                    let change = schema.decode(black_box(&payload), &FieldPolicies::default()).expect("decodes");
                    let source =
                        EventSource { key, event_id: key.event_id(), schema_id: &id, schema_name: schema.name() };
                    records.extend(writer.write(source, &change).expect("a usable event").records);
                }
                (position, records)
            };
            bencher.iter_batched(|| fresh.clone(), assemble, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, credit, admission, assembly);
criterion_main!(benches);
