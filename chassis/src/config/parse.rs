//! From a command line to a checked value, or one line that says why not.

use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::io::Write as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use crate::config::files::with_files;

/// Why there are no settings: a wrong one, or a person who asked for `--help` or `--version`.
/// Its text is one line, except for help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What to print, without a line end.
    pub text: String,
    /// What to exit with: 2 for a wrong or missing setting (text to stderr), 0 for help and
    /// version (text to stdout).
    pub status: u8,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// Settings from this process's arguments and environment. Prints and exits when there are none:
/// status 2 with one line on stderr for a wrong or missing setting, 0 for `--help`, `--version`.
#[must_use]
pub fn parse<C: clap::Parser>() -> C {
    parse_from(std::env::args_os())
}

/// As [`parse`], from given arguments; the first is the program's name.
#[must_use]
pub fn parse_from<C: clap::Parser>(arguments: impl IntoIterator<Item = OsString>) -> C {
    or_exit(try_parse_from(arguments))
}

/// What it says, or its end: prints and exits as the refusal says. For checks of settings that
/// parsed, such as whether they fit together.
pub fn or_exit<T>(settings: Result<T, Refusal>) -> T {
    settings.unwrap_or_else(|refusal: Refusal| {
        if refusal.status == 0 {
            // Who has closed the pipe has seen enough.
            let _ = writeln!(std::io::stdout(), "{refusal}");
        } else {
            eprintln!("{refusal}");
        }
        std::process::exit(refusal.status.into())
    })
}

/// As [`parse`], without printing or exiting.
///
/// # Errors
/// A [`Refusal`], whose text names the setting.
pub fn try_parse_from<C: clap::Parser>(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<C, Refusal> {
    let arguments = arguments.into_iter().collect();
    let arguments = with_files(&C::command(), arguments, |name| std::env::var_os(name));
    let arguments = arguments.map_err(|reason| Refusal {
        text: format!("error: {reason}"),
        status: 2,
    })?;
    C::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refusal {
            text: error.to_string().trim_end().to_owned(),
            status: 0,
        },
        _ => Refusal {
            text: format!("error: {}", sentence(&error, &C::command())),
            status: 2,
        },
    })
}

/// Clap explains over several lines and repeats the value, which may be a password. One line.
fn sentence(error: &clap::Error, command: &Command) -> String {
    let settings: Vec<String> = shown_names(error)
        .iter()
        .map(|shown| full_name(command, shown))
        .collect();
    let settings = settings.join(", ");
    match error.kind() {
        ErrorKind::MissingRequiredArgument => format!("missing setting: {settings}"),
        ErrorKind::ValueValidation => match error.source() {
            Some(reason) => format!("wrong setting {settings}: {reason}"),
            None => format!("wrong setting {settings}"),
        },
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
                format!(
                    "wrong setting {settings}: must be one of {}",
                    valid.join(", ")
                )
            }
            _ => format!("wrong setting {settings}: a value is needed"),
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "a subcommand is missing; see --help".to_owned()
        }
        // What was typed may be a URL with a password in the wrong place.
        ErrorKind::InvalidSubcommand => "there is no such subcommand; see --help".to_owned(),
        ErrorKind::UnknownArgument if !settings.starts_with('-') => {
            "unexpected argument; see --help".to_owned()
        }
        _ => first_line(&error.to_string()),
    }
}

/// The settings an error is about, as clap shows them: `--listen <ADDRESS:PORT>`.
fn shown_names(error: &clap::Error) -> Vec<String> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(several)) => several.clone(),
        _ => Vec::new(),
    }
}

/// `--listen <ADDRESS:PORT>` → `--listen (environment LISTEN)`.
fn full_name(command: &Command, shown: &str) -> String {
    let flag = shown.split_whitespace().next().unwrap_or(shown);
    match find(command, flag).and_then(Arg::get_env) {
        Some(variable) => format!("{flag} (environment {})", variable.to_string_lossy()),
        None => flag.to_owned(),
    }
}

fn find<'c>(command: &'c Command, flag: &str) -> Option<&'c Arg> {
    let long = flag.strip_prefix("--")?;
    command
        .get_arguments()
        .find(|argument| argument.get_long() == Some(long))
        .or_else(|| command.get_subcommands().find_map(|sub| find(sub, flag)))
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
