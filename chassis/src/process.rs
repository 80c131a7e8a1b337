//! The two ends of a process: telemetry, runtime and signals before; flush and exit status after.

use std::fmt::Display;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::shutdown;
use crate::telemetry::{self, Telemetry};

/// What the process gives each service that stands in it.
#[derive(Debug, Clone)]
pub struct Process {
    /// The log, the traces, the metrics.
    pub telemetry: Telemetry,
    /// Cancelled when the process should end. Whoever holds it may cancel it.
    pub shutdown: CancellationToken,
}

/// The `main` of a service: installs telemetry, runs `service` on a runtime until it returns,
/// flushes. The exit status is 0 for `Ok`, 1 for an error, which is logged in one line, 2 for a
/// wrong `OTEL_*` variable.
///
/// `service` should return once [`Process::shutdown`] is cancelled; SIGTERM and SIGINT cancel it.
///
/// ```no_run
/// use std::process::ExitCode;
/// use chassis::{Process, config::Settings, shutdown::{Failed, Tasks}};
///
/// #[derive(Debug, Clone, clap::Parser)]
/// #[command(version, mut_arg("listen", |listen| listen.required(false).default_value("127.0.0.1:8082")))]
/// struct Config {
///     #[command(flatten)]
///     settings: Settings,
/// }
///
/// fn main() -> ExitCode {
///     let config: Config = chassis::config::parse();
///     chassis::run("payment-service", &config.settings.clone(), |process| start(config, process))
/// }
///
/// async fn start(config: Config, process: Process) -> Result<(), Failed> {
///     let tasks = Tasks::new("payment-service", process.shutdown);
///     // open the pool, serve HTTP, wait for the database, start relay and consumers …
///     tasks.finish(config.settings.shutdown_timeout).await
/// }
/// ```
pub fn run<F, E>(
    service_name: &str,
    settings: &Settings,
    service: impl FnOnce(Process) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let telemetry = match telemetry::init(service_name, settings.log_format, &settings.log) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("error: {error}");
            return match error {
                // As for every other wrong setting.
                telemetry::Error::Setting { .. } => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            };
        }
    };
    allow_many_files();
    tracing::info!(service = service_name, database = %settings.database_url, kafka = %settings.kafka_brokers, "starting");
    let outcome = on_runtime(telemetry.clone(), service);
    telemetry.flush();
    match outcome {
        Ok(()) => {
            tracing::info!(service = service_name, "ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(service = service_name, error, "ended with an error");
            ExitCode::FAILURE
        }
    }
}

/// As many open files as the system allows: each client takes one, and each partition's broker. The
/// usual soft limit of 1024 is for programs that call `select`
/// (<https://0pointer.net/blog/file-descriptor-limits.html>).
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let whole = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, whole)
    {
        tracing::warn!(%error, limit = limit.current, "no more files can be open at once than were allowed");
    }
}

/// The runtime is not waited for: a blocking thread that hangs must not keep the process.
fn on_runtime<F, E>(telemetry: Telemetry, service: impl FnOnce(Process) -> F) -> Result<(), String>
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| format!("cannot start the async runtime: {error}"))?;
    let outcome = runtime.block_on(async {
        let shutdown =
            shutdown::on_signal().map_err(|error| format!("cannot listen for signals: {error}"))?;
        service(Process {
            telemetry,
            shutdown,
        })
        .await
        .map_err(|error| format!("{error:#}"))
    });
    runtime.shutdown_background();
    outcome
}
