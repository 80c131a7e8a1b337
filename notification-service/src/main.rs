//! The process around notification-service: settings, telemetry, signals; then the library.

use std::process::ExitCode;
use std::sync::Arc;

use chassis::http::auth::Auth;
use notification_service::Config;
use outbox::broker::Kafka;

fn main() -> ExitCode {
    let config: Config = chassis::config::parse();
    let settings = config.settings.clone();
    let auth = chassis::config::or_exit(Auth::new(&config.auth, settings.listen));
    chassis::run(notification_service::NAME, &settings, async |process| {
        let settings = &config.settings;
        let broker = Kafka::new(settings.kafka_brokers.to_string())?;
        let broker = broker.member(settings.kafka_member.clone());
        notification_service::run(config, auth, Arc::new(broker), process).await?;
        anyhow::Ok(())
    })
}
