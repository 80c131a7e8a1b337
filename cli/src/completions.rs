//! `recompense completions`.

use std::io::{self, Write};

use anyhow::Result;
use clap_complete::{Shell, generate};

/// Prints what a shell wants to know to complete commands. For bash, say:
/// `recompense completions bash > /usr/share/bash-completion/completions/recompense`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// For which shell.
    shell: Shell,
}

/// Prints them for the program that `command` describes.
pub(crate) fn run(arguments: &Arguments, mut command: clap::Command) -> Result<()> {
    let name = command.get_name().to_owned();
    // Into memory first: it panics where it cannot write.
    let mut script = Vec::new();
    generate(arguments.shell, &mut command, name, &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}
