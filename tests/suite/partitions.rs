//! An output of many partitions.

use casewire::kafka::list_topics;
use casewire::pipeline::settings;
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
    // The id is refused although everything is still retained: what each partition holds has to be known again.
    let refuse = Fault::FailStreams {
        status: 3,
        error_code: "subscription.fetch.replayid.corrupted".to_owned(),
        message: "The Replay ID validation failed.".to_owned(),
    };
    control.inflict(refuse).await.expect("inflicted");
    lines.extend(control.generate(50).await.expect("generated"));
    running.until("the repetition", |status: &StreamStatus| status.events_already_written > 0).await;
    passed(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    let kafka = settings::kafka(&deployment.config(&[CASES], partitions).kafka).expect("settings");
    let topic = format!("{}.Case", deployment.prefix);
    let topics = list_topics(&kafka).await.expect("a list");
    let found = topics.iter().find(|listed| listed.name == topic).map(|listed| listed.partitions);
    assert_eq!(found, Some(48));
    each_once_in_order(&deployment.output("Case").await, &lines, "Case");
}
