//! The document for eyes. It reads the document and not the code, so the two cannot differ.

use askama::Template;
use serde_json::Value;

use crate::http::auth::SCHEME;

/// The page of an API.
#[derive(Template)]
#[template(path = "docs.html")]
pub(super) struct Page {
    title: String,
    about: String,
    version: String,
    groups: Vec<Group>,
    schemas: Vec<Schema>,
}

/// Operations that belong together.
struct Group {
    tag: String,
    operations: Vec<Operation>,
}

struct Operation {
    method: String,
    path: String,
    id: String,
    summary: String,
    description: String,
    /// The least role that may call it; empty if everybody may.
    role: String,
    parameters: Vec<Parameter>,
    body: Option<Content>,
    responses: Vec<Answer>,
}

struct Parameter {
    name: String,
    place: String,
    shape: Shape,
    required: bool,
    description: String,
    example: String,
}

struct Answer {
    status: String,
    description: String,
    content: Option<Content>,
}

struct Content {
    kind: String,
    shape: Shape,
    example: String,
}

/// A type in a word, and the schema that explains it.
struct Shape {
    word: String,
    schema: Option<String>,
}

struct Schema {
    name: String,
    description: String,
    json: String,
}

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "options", "head"];

impl Page {
    pub(super) fn of(document: &Value) -> Self {
        let info = &document["info"];
        let mut groups: Vec<Group> = Vec::new();
        for (path, item) in members(&document["paths"]) {
            for method in METHODS {
                if let Some(operation) = item.get(method) {
                    place(
                        &mut groups,
                        Operation::of(method, path, operation),
                        operation,
                    );
                }
            }
        }
        let schemas = members(&document["components"]["schemas"]);
        Self {
            title: text(&info["title"]),
            about: text(&info["description"]),
            version: text(&info["version"]),
            groups,
            schemas: schemas
                .map(|(name, schema)| Schema {
                    name: name.clone(),
                    description: text(&schema["description"]),
                    json: pretty(schema),
                })
                .collect(),
        }
    }
}

fn place(groups: &mut Vec<Group>, operation: Operation, described: &Value) {
    let tag = text(&described["tags"][0]);
    match groups.iter_mut().find(|group| group.tag == tag) {
        Some(group) => group.operations.push(operation),
        None => groups.push(Group {
            tag,
            operations: vec![operation],
        }),
    }
}

impl Operation {
    fn of(method: &str, path: &str, described: &Value) -> Self {
        let parameters = described["parameters"].as_array().into_iter().flatten();
        let responses = members(&described["responses"]);
        Self {
            method: method.to_uppercase(),
            path: path.to_owned(),
            id: text(&described["operationId"]),
            summary: text(&described["summary"]),
            description: text(&described["description"]),
            role: text(&described["security"][0][SCHEME][0]),
            parameters: parameters.map(Parameter::of).collect(),
            body: content(&described["requestBody"]),
            responses: responses
                .map(|(status, answer)| Answer {
                    status: status.clone(),
                    description: text(&answer["description"]),
                    content: content(answer),
                })
                .collect(),
        }
    }
}

impl Parameter {
    fn of(described: &Value) -> Self {
        let schema = &described["schema"];
        let example = [
            &described["example"],
            &schema["example"],
            &schema["default"],
        ];
        let example = example.into_iter().find(|example| !example.is_null());
        Self {
            name: text(&described["name"]),
            place: text(&described["in"]),
            shape: shape(schema),
            required: described["required"] == true,
            description: text(&described["description"]),
            example: example.map(plain).unwrap_or_default(),
        }
    }
}

/// The first content of a body or an answer: none has two here.
fn content(of: &Value) -> Option<Content> {
    let (kind, content) = members(&of["content"]).next()?;
    let example = &content["example"];
    Some(Content {
        kind: kind.clone(),
        shape: shape(&content["schema"]),
        example: match example.is_null() {
            true => String::new(),
            false => pretty(example),
        },
    })
}

fn shape(schema: &Value) -> Shape {
    let reference = |schema: &Value| {
        let path = schema["$ref"].as_str()?;
        Some(path.rsplit('/').next().unwrap_or_default().to_owned())
    };
    let named = reference(schema).or_else(|| reference(&schema["items"]));
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    let named = named.or_else(|| alternatives.filter_map(reference).next());
    let word = match (&named, &schema["enum"]) {
        (Some(name), _) if schema["type"] == "array" => format!("{name}[]"),
        (Some(name), _) => name.clone(),
        (None, Value::Array(words)) => words.iter().map(plain).collect::<Vec<_>>().join(" | "),
        (None, _) => kind(&schema["type"]),
    };
    let word = match schema["format"].as_str() {
        Some(format) => format!("{word} ({format})"),
        None => word,
    };
    Shape {
        word,
        schema: named,
    }
}

fn kind(kind: &Value) -> String {
    match kind {
        Value::Array(kinds) => {
            let kinds = kinds.iter().filter(|kind| *kind != "null").map(plain);
            kinds.collect::<Vec<_>>().join(" | ")
        }
        Value::String(kind) => kind.clone(),
        _ => "any".to_owned(),
    }
}

fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Without the quotes of a string.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
