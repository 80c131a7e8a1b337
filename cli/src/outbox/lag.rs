//! `recompense outbox lag`.

use std::process::ExitCode;

use anyhow::Result;
use outbox::operator;

use crate::{
    outbox::Common,
    print::{self, Table, age},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Counting stops here, so that it takes seconds at most: a larger lag is printed as "≥ N".
    #[arg(long, default_value_t = 1_000_000, value_name = "COUNT",
          value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let lag = operator::lag(&pool, arguments.limit).await?;
    if arguments.common.is_json() {
        print::json(&lag)?;
        return Ok(ExitCode::SUCCESS);
    }
    let least = if lag.at_least { "≥ " } else { "" };
    let mut table = Table::new(["topic", "messages", "oldest"]);
    for topic in &lag.topics {
        table.row([
            topic.topic.clone(),
            format!("{least}{}", topic.messages),
            age(topic.oldest_seconds),
        ]);
    }
    table.row([
        "all".to_owned(),
        format!("{least}{}", lag.messages),
        lag.oldest_seconds.map(age).unwrap_or_default(),
    ]);
    print::table(&table)?;
    Ok(ExitCode::SUCCESS)
}
