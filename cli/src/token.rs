//! `recompense token`: tokens for those who call services.

use anyhow::{Result, anyhow};
use chassis::http::auth::{Role, UnknownRole, mint};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use serde::Serialize;

use crate::print::{self, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a token: prints it, this once, and the line for the file of `--auth-tokens`.
    New(NewArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct NewArguments {
    /// Whose it is: what he does is recorded under this name.
    #[arg(value_name = "NAME")]
    name: String,

    /// What he may do at most: viewer, operator or admin.
    #[arg(long, value_parser = role)]
    role: Role,

    /// Until when it counts: `2027-01-31T12:00:00Z`, or for how long, such as `90d`.
    #[arg(long, value_name = "TIME|DURATION", value_parser = expires)]
    expires: Option<DateTime<Utc>>,

    /// How to print it.
    #[arg(long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
}

/// For programs.
#[derive(Serialize)]
struct Made {
    token: String,
    line: String,
}

pub(crate) fn run(command: Command) -> Result<()> {
    let Command::New(arguments) = command;
    let minted = mint(&arguments.name, arguments.role, arguments.expires);
    let minted = minted.map_err(|reason| anyhow!(reason))?;
    let (token, line) = (minted.token, minted.line);
    match arguments.output {
        Output::Json => print::json(&Made { token, line }),
        Output::Table => print::lines(&[
            "the token, which is shown this once:".to_owned(),
            token,
            "its line for the file of --auth-tokens:".to_owned(),
            line,
        ]),
    }
}

fn role(text: &str) -> Result<Role, UnknownRole> {
    text.parse()
}

/// A time to come, or for how long from now.
fn expires(text: &str) -> Result<DateTime<Utc>, String> {
    let time = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Some(time.to_utc()),
        Err(_) => {
            let wrong =
                |_| "must be a time such as 2027-01-31T12:00:00Z, or a duration such as 90d";
            let time = chassis::config::duration(text).map_err(wrong)?;
            let time = TimeDelta::from_std(time).ok();
            time.and_then(|time| Utc::now().checked_add_signed(time))
        }
    };
    match time {
        Some(time) if time > Utc::now() => Ok(time),
        Some(_) => Err("must be in the future".to_owned()),
        None => Err("is too far away".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_in_the_future() {
        let days = (expires("90d").unwrap() - Utc::now()).num_hours();
        assert!((90 * 24 - 1..=90 * 24).contains(&days), "{days}");
        let time = expires("2999-01-01T00:00:00+01:00").unwrap();
        assert_eq!(time.to_rfc3339(), "2998-12-31T23:00:00+00:00");
        for wrong in ["", "soon", "0s", "2020-01-01T00:00:00Z", "999999999999d"] {
            assert!(expires(wrong).is_err(), "{wrong}");
        }
    }
}
