//! Settings from files: `DATABASE_URL_FILE` for `DATABASE_URL`. So a secret need not stand in the
//! environment, which child processes inherit and crash reports quote.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Arg, Command};

/// Beside what is secret: the brokers, which deployments keep with it.
const NOT_SECRET: [&str; 1] = ["KAFKA_BROKERS"];
/// The longest value.
const LONGEST: usize = 64 * 1024;

/// The arguments, with those settings behind them that a file holds. Only for settings that hide
/// their value, and those of [`NOT_SECRET`]; a flag that is given outranks the file.
pub(super) fn with_files(
    command: &Command,
    arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, String> {
    let is_set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut wanted = Vec::new();
    collect(command, &mut wanted);
    wanted.retain(|(_, name)| is_set(&file_of(name)).is_some());
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(arguments);
    }
    let Some((leaf, given)) = leaf(command, &arguments) else {
        // What is wrong with them is told by whoever parses them.
        return Ok(arguments);
    };
    let mut arguments = arguments;
    // Behind `--` nothing is a flag.
    let end = arguments.iter().position(|argument| argument == "--");
    let mut end = end.unwrap_or(arguments.len());
    for (flag, name) in wanted {
        let file = file_of(&name);
        if !leaf.contains(&flag) || given.contains(&flag) {
            continue;
        }
        if is_set(&name).is_some() {
            return Err(format!("{name} and {file} are both set: take one away"));
        }
        let path = is_set(&file).unwrap_or_default();
        let value = read(&path).map_err(|reason| {
            format!(
                "wrong setting {file}: {}: {reason}",
                Path::new(&path).display()
            )
        })?;
        let argument = format!("--{flag}={value}");
        arguments.insert(end, argument.into());
        end += 1;
    }
    Ok(arguments)
}

fn file_of(name: &str) -> String {
    format!("{name}_FILE")
}

/// Flag and variable of every setting that may stand in a file.
fn collect(command: &Command, found: &mut Vec<(String, String)>) {
    for argument in command.get_arguments() {
        let named = argument.get_long().zip(argument.get_env());
        if let Some((flag, name)) = named.and_then(|(flag, name)| Some((flag, name.to_str()?)))
            && (argument.is_hide_env_values_set() || NOT_SECRET.contains(&name))
        {
            found.push((flag.to_owned(), name.to_owned()));
        }
    }
    for sub in command.get_subcommands() {
        collect(sub, found);
    }
}

/// The flags of the subcommand that is called, and those that are given. None where the arguments
/// cannot be parsed even if nothing were missing.
fn leaf(command: &Command, arguments: &[OsString]) -> Option<(Vec<String>, Vec<String>)> {
    let lenient = leniently(command.clone());
    let matches = lenient.clone().try_get_matches_from(arguments).ok()?;
    let (mut command, mut matches) = (&lenient, &matches);
    while let Some((name, below)) = matches.subcommand() {
        command = command.find_subcommand(name)?;
        matches = below;
    }
    let flags = |arguments: &mut dyn Iterator<Item = &Arg>| {
        let flags = arguments.filter_map(|argument| argument.get_long().map(str::to_owned));
        flags.collect()
    };
    let given = |argument: &&Arg| {
        let source = matches.value_source(argument.get_id().as_str());
        source == Some(clap::parser::ValueSource::CommandLine)
    };
    let all = flags(&mut command.get_arguments());
    let given = flags(&mut command.get_arguments().filter(given));
    Some((all, given))
}

/// With nothing required.
fn leniently(command: Command) -> Command {
    let command = command.mut_args(|argument| argument.required(false));
    command.mut_subcommands(leniently)
}

/// Without the line's end. The error says why and not what.
fn read(path: &OsStr) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    if bytes.len() > LONGEST {
        return Err(format!("it has more than {LONGEST} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.trim_end_matches(['\r', '\n']);
    match text {
        "" => Err("it is empty".to_owned()),
        text if text.contains(['\n', '\0']) => Err("it has more than one line".to_owned()),
        text => Ok(text.to_owned()),
    }
}
