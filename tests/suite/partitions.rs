//! An output of many partitions.

use casewire::simulator::{Fault, SimulatorConfig};
use casewire::status::StreamStatus;

use crate::suite::deployment::{Deployment, brokers};
use crate::suite::main_job::{CASES, passed};
use crate::suite::outages::each_once_in_order;

#[tokio::test(flavor = "multi_thread")]
async fn forty_eight_partitions_keep_the_order_of_each_key_and_are_read_back_whole() {
    let Some(brokers) = brokers("forty_eight_partitions_keep_the_order_of_each_key_and_are_read_back_whole") else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let partitions = "KAFKA__PARTITIONS = 48";
    let mut lines = control.generate(400).await.expect("generated");
    let running = deployment.run(&[CASES], partitions);
    passed(&running, &lines, CASES).await;
    let before = std::time::Instant::now();
    // The id is refused although everything is still retained: what each partition holds has to be known again.
    let refuse = Fault::FailStreams {
        status: 3,
        error_code: "subscription.fetch.replayid.corrupted".to_owned(),
        message: "The Replay ID validation failed.".to_owned(),
    };
    control.inflict(refuse).await.expect("inflicted");
    lines.extend(control.generate(50).await.expect("generated"));
    let on_topic = lines.iter().filter(|line| line.topics.iter().any(|topic| topic == CASES)).count();
    let repeated = |status: &StreamStatus| status.events_already_written > 0;
    let status = running.until("the repetition", repeated).await;
    eprintln!("read back after {:?} {}", before.elapsed(), status.events_already_written);
    passed(&running, &lines, CASES).await;
    let before = std::time::Instant::now();
    running.stop().await.expect("an orderly end");
    eprintln!("stop {:?} {on_topic}", before.elapsed());
    let before = std::time::Instant::now();
    let output = deployment.output("Case").await;
    eprintln!("read {:?}", before.elapsed());
    each_once_in_order(&output, &lines, "Case");
}
