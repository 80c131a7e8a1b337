//! Secrets in files, as Docker and Kubernetes hand them out.

use std::process::{Command, Output};

/// Settings of a service and a subcommand below it, as the command line has them.
#[derive(Debug, clap::Parser)]
#[command(name = "tool")]
enum Tool {
    Look(Box<Look>),
    Plain {
        #[arg(long)]
        name: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Look {
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: chassis::config::DatabaseUrl,
    #[arg(long, env = "LOOK_NAME")]
    name: Option<String>,
    numbers: Vec<i64>,
}

/// Not a test of its own: what `child` runs.
#[test]
fn a_child_prints_what_it_was_told() {
    let Ok(arguments) = std::env::var("CHASSIS_TEST_TOOL") else {
        return;
    };
    let arguments = std::iter::once("tool").chain(arguments.split_whitespace());
    let tool: Tool = chassis::config::parse_from(arguments.map(Into::into));
    println!("{tool:?}");
}

fn child(environment: &[(&str, &str)], arguments: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "secret_files::a_child_prints_what_it_was_told",
            "--exact",
            "--nocapture",
            "--quiet",
        ])
        .env_clear()
        .env("CHASSIS_TEST_TOOL", arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn told(environment: &[(&str, &str)], arguments: &str) -> String {
    let output = child(environment, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn refused(environment: &[(&str, &str)], arguments: &str) -> String {
    let output = child(environment, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    text
}

#[test]
fn a_secret_may_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, "postgres://ann:s3cret@db/shop\n").unwrap();
    let file = file.to_str().unwrap();
    let set = [("DATABASE_URL_FILE", file)];
    let ann = "postgres://ann@db:5432/shop";
    for arguments in [
        "look",
        "look 1 2",
        "look --name x 1",
        "look -- 1",
        "look 1 -- -2",
    ] {
        let text = told(&set, arguments);
        assert!(
            text.contains(ann) && !text.contains("s3cret"),
            "{arguments}: {text}"
        );
    }
    // A flag outranks it, whatever the file.
    let flag = "look --database-url=postgres://bob@db/shop";
    for set in [set, [("DATABASE_URL_FILE", "/nowhere")]] {
        assert!(told(&set, flag).contains("postgres://bob@db:5432/shop"));
    }
    // Whoever has no such setting is not concerned.
    for file in [file, "/nowhere"] {
        let set = [("DATABASE_URL_FILE", file), ("DATABASE_URL", "x")];
        assert!(told(&set, "plain --name x").contains("Plain"));
    }
    // An empty variable is none.
    let set = [
        ("DATABASE_URL_FILE", ""),
        ("DATABASE_URL", "postgres://eve@db/shop"),
    ];
    assert!(told(&set, "look").contains("postgres://eve@db:5432/shop"));
}

#[test]
fn a_file_that_cannot_be_meant_is_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let good = write("good", "postgres://ann:s3cret@db/shop");
    let both = [
        ("DATABASE_URL_FILE", good.as_str()),
        ("DATABASE_URL", "postgres://a:s3cret@b/c"),
    ];
    let text = refused(&both, "look");
    assert!(
        text.contains("DATABASE_URL and DATABASE_URL_FILE are both set"),
        "{text}"
    );
    for (file, reason) in [
        (write("empty", "\n"), "it is empty"),
        (write("two", "postgres://a\ns3cret"), "more than one line"),
        ("/nowhere/at/all".to_owned(), "No such file"),
        (folder.path().display().to_string(), "directory"),
    ] {
        let text = refused(&[("DATABASE_URL_FILE", &file)], "look");
        assert!(
            text.contains("DATABASE_URL_FILE") && text.contains(reason),
            "{text}"
        );
    }
    let wrong = write("wrong", "s3cret");
    let text = refused(&[("DATABASE_URL_FILE", &wrong)], "look");
    assert!(text.contains("must begin with postgres://"), "{text}");
    // Not everything may stand in a file: only what is secret.
    let name = write("name", "x");
    let set = [
        ("LOOK_NAME_FILE", name.as_str()),
        ("DATABASE_URL", "postgres://a@b/c"),
    ];
    assert!(told(&set, "look").contains("name: None"));
}
