//! The process around notification-service: settings, telemetry, signals; then the library.

use std::process::ExitCode;
use std::sync::Arc;

use notification_service::Config;
use outbox::broker::Kafka;

fn main() -> ExitCode {
    let config: Config = chassis::config::parse();
    let settings = config.settings.clone();
    chassis::run(notification_service::NAME, &settings, async |process| {
        let settings = &config.settings;
        let broker = Kafka::new(settings.kafka_brokers.to_string())?;
        let broker = broker.member(settings.kafka_member.clone());
        notification_service::run(config, Arc::new(broker), process).await?;
        anyhow::Ok(())
    })
}
