//! The process around order-service: settings, telemetry, signals; then the library.

use std::process::ExitCode;
use std::sync::Arc;

use chassis::http::auth::Auth;
use order_service::Config;
use outbox::broker::Kafka;

fn main() -> ExitCode {
    let config: Config = chassis::config::parse();
    let settings = config.settings.clone();
    let auth = chassis::config::or_exit(Auth::new(&config.auth, settings.listen));
    chassis::config::or_exit(config.check(&auth));
    chassis::run(order_service::NAME, &settings, async |process| {
        let settings = &config.settings;
        let broker = Kafka::new(settings.kafka_brokers.to_string())?;
        let broker = broker.member(settings.kafka_member.clone());
        order_service::run(config, auth, Arc::new(broker), process).await?;
        anyhow::Ok(())
    })
}
