//! `make demo`: the whole shop in one process, and four orders told as they happen.
//!
//! A throw-away PostgreSQL server (or the one at `DATABASE_URL`) and a broker inside the process;
//! the relays, the services and the REST API are the real ones.

mod narrator;
mod shop;
mod story;

use std::process::ExitCode;

use anyhow::Result;
use chassis::{
    config::{LogFilter, LogFormat},
    shutdown, telemetry,
};
use clap::Parser;
use tokio_util::sync::CancellationToken;

/// Plays the shop and stays up until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// End after the story; the exit status is 1 if an order ended wrongly.
    #[arg(long)]
    once: bool,

    /// What is logged besides the story.
    #[arg(
        long,
        env = "RUST_LOG",
        default_value = "error",
        value_name = "DIRECTIVES"
    )]
    log: LogFilter,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let telemetry = telemetry::init("demo", LogFormat::Auto, &arguments.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(play(&arguments, telemetry.clone()));
    // A client thread that will not end must not keep the process.
    runtime.shutdown_background();
    telemetry.flush();
    match result {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) => {
            eprintln!("error: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Whether everything ended as the story says.
async fn play(arguments: &Arguments, telemetry: telemetry::Telemetry) -> Result<bool> {
    let interrupted = shutdown::on_signal()?;
    println!("Starting PostgreSQL, a broker inside this process, four services and their relays …");
    let mut shop = shop::Shop::open(CancellationToken::new()).await?;
    let mut right = match interrupted.run_until_cancelled(shop.start(telemetry)).await {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            eprintln!("error: {error:#}");
            false
        }
        None => false,
    };
    if right {
        let telling = story::tell(&shop);
        let told = interrupted.run_until_cancelled(telling).await;
        // Cut off, it is not told; that is no failure of somebody who only looks.
        right = told.transpose()?.unwrap_or(!arguments.once);
        if !arguments.once && !interrupted.is_cancelled() {
            shop.print_addresses();
            tokio::select! {
                () = interrupted.cancelled() => println!("\nStopping."),
                failed = shop.failed() => {
                    eprintln!("error: {failed:#}");
                    right = false;
                }
            }
        }
    }
    shop.stop().await?;
    Ok(right)
}
