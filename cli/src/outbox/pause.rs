//! `recompense outbox pause` and `resume`.

use std::process::ExitCode;

use anyhow::Result;
use outbox::operator::{self, Paused, Resumed};

use crate::{
    outbox::{Author, Common},
    print,
};

#[derive(Debug, clap::Args)]
pub(crate) struct PauseArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    why: Why,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    author: Author,
    #[command(flatten)]
    why: Why,
}

#[derive(Debug, clap::Args)]
struct Why {
    /// Why; noted beside the name.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Why {
    /// The name, with the reason.
    fn beside(&self, author: &Author) -> String {
        match &self.reason {
            Some(reason) => format!("{}: {reason}", author.by),
            None => author.by.clone(),
        }
    }
}

pub(crate) async fn pause(arguments: PauseArguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let by = arguments.why.beside(&arguments.author);
    let outcome = operator::pause(&pool, &by).await?;
    if arguments.common.is_json() {
        print::json(&outcome)?;
        return Ok(ExitCode::SUCCESS);
    }
    print::lines(&[match outcome {
        Paused::Paused(pause) => format!("paused since {} by {}", pause.since, pause.by),
        Paused::Already(pause) => {
            format!("was paused already: since {} by {}", pause.since, pause.by)
        }
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn resume(arguments: ResumeArguments) -> Result<ExitCode> {
    let pool = arguments.common.connect().await?;
    let outcome = operator::resume(&pool, &arguments.why.beside(&arguments.author)).await?;
    if arguments.common.is_json() {
        print::json(&outcome)?;
        return Ok(ExitCode::SUCCESS);
    }
    print::lines(&[match outcome {
        Resumed::Resumed(pause) => {
            format!("resumed; was paused since {} by {}", pause.since, pause.by)
        }
        Resumed::NotPaused => "was not paused".to_owned(),
    }])?;
    Ok(ExitCode::SUCCESS)
}
