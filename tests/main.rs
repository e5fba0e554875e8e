//! The integration tests, one binary for all of them: linking librdkafka once is enough.

mod suite {
    mod architecture;
    mod binary;
    mod commands;
    mod deployment;
    mod folded;
    mod gap_healing;
    mod kafka;
    mod main_job;
    mod outages;
    mod own_broker;
    mod real_events;
    mod subscription;
}
