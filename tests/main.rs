//! The integration tests, one binary for all of them: linking librdkafka once is enough.

mod suite {
    mod architecture;
    mod binary;
    mod commands;
    mod deployment;
    mod kafka;
    mod main_job;
    mod real_events;
    mod subscription;
}
