//! The integration tests, one binary for all of them: linking librdkafka once is enough.

mod suite {
    mod architecture;
    mod binary;
    mod bulk;
    mod collector;
    mod commands;
    mod compared_messages;
    mod completion;
    mod deployment;
    mod doctor;
    mod fold;
    mod gap_healing;
    mod hostile;
    mod kafka;
    mod log_fields;
    mod main_job;
    mod messages;
    mod outages;
    mod own_broker;
    mod panics;
    mod partitions;
    mod policy;
    mod polls;
    mod real_events;
    mod reconciliation;
    mod redrive;
    mod retention;
    mod snapshots;
    mod subscription;
    mod telemetry;
    mod three_brokers;
    mod tls;
}
