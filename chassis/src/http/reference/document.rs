//! The document, made whole: what every route has in common is added here and nowhere else.

use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, License, OpenApi, Ref, RefOr, Response,
    ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use crate::http::auth::{SCHEME, unless_said};
use crate::http::problem::{FieldError, ProblemBody};

const PROBLEM_JSON: &str = "application/problem+json";
/// The tag of what answers browsers: their problems are pages as well.
const PAGES: &str = "pages";

/// How callers say who they are.
const WHO: &str = "A token of --auth-tokens, or a JWT. Its role must be the one named or a higher one: viewer, \
                   operator, admin. A browser sends it in the cookie recompense_token. A service that asks nobody \
                   who he is needs none.";

/// Adds the title, who may call, and to each operation the problems that its kind of request can meet.
pub(super) fn complete(document: &mut OpenApi, name: &str, about: &str, version: &str) {
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    document.info = InfoBuilder::new()
        .title(name)
        .description(Some(about))
        .version(version)
        .license(Some(license))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    let schemas = &mut components.schemas;
    schemas.insert(ProblemBody::name().into_owned(), ProblemBody::schema());
    schemas.insert(FieldError::name().into_owned(), FieldError::schema());
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    let scheme = SecurityScheme::Http(scheme.description(Some(WHO)).build());
    components
        .security_schemes
        .insert(SCHEME.to_owned(), scheme.into());
    for item in document.paths.paths.values_mut() {
        if let Some(get) = &mut item.get {
            require(get, "GET");
        }
        if let Some(head) = &mut item.head {
            require(head, "HEAD");
        }
        for operation in operations(item) {
            require(operation, "");
            add_problems(operation);
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    parameter.schema = parameter.schema.take().map(never_null);
                }
            }
        }
    }
}

/// A parameter that is not given is absent: there is no null in a URL or a header.
fn never_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    let is_null = |schema: &RefOr<Schema>| {
        let RefOr::T(Schema::Object(object)) = schema else {
            return false;
        };
        object.schema_type == SchemaType::Type(Type::Null)
    };
    match schema {
        RefOr::T(Schema::OneOf(mut one_of)) => {
            one_of.items.retain(|schema| !is_null(schema));
            match one_of.items.len() {
                1 => one_of.items.remove(0),
                _ => RefOr::T(Schema::OneOf(one_of)),
            }
        }
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|kind| *kind != Type::Null);
                if let [kind] = types.as_slice() {
                    object.schema_type = SchemaType::Type(kind.clone());
                }
            }
            if let Some(words) = &mut object.enum_values {
                words.retain(|word| !word.is_null());
            }
            RefOr::T(Schema::Object(object))
        }
        other => other,
    }
}

/// Says who may call, where the route does not say it itself.
fn require(operation: &mut Operation, method: &str) {
    let said = operation.security.take();
    let unsaid = || {
        vec![SecurityRequirement::new(
            SCHEME,
            [unless_said(method).as_str()],
        )]
    };
    operation.security = Some(said.unwrap_or_else(unsaid));
}

/// Whether everybody may call it.
fn is_public(operation: &Operation) -> bool {
    let said = operation.security.as_deref().unwrap_or_default();
    said.is_empty() || said.contains(&SecurityRequirement::default())
}

/// The operations of a path.
pub(super) fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut path.get,
        &mut path.put,
        &mut path.post,
        &mut path.delete,
        &mut path.patch,
        &mut path.options,
        &mut path.head,
    ]
    .into_iter()
    .flatten()
}

fn add_problems(operation: &mut Operation) {
    let parameters = operation.parameters.iter().flatten();
    let in_path = parameters.clone().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Path,
        RefOr::Ref(_) => false,
    });
    let mut missing = Vec::new();
    if parameters.count() > 0 || operation.request_body.is_some() {
        missing.push((
            "400",
            "A part of the request is not readable or out of range",
        ));
    }
    if !is_public(operation) {
        missing.push(("401", "Who asks is not known"));
        missing.push(("403", "Who asks may not do that"));
    }
    if in_path {
        missing.push(("404", "There is no such thing"));
    }
    if operation.request_body.is_some() {
        missing.push(("413", "The body is too large"));
        missing.push(("415", "The body is not declared as JSON"));
        missing.push(("422", "The body is JSON with wrong fields"));
    }
    missing.push(("503", "Not available now; see Retry-After"));
    missing.push(("default", "Any other problem"));
    let is_page = operation
        .tags
        .iter()
        .flatten()
        .any(|tag| tag.as_str() == PAGES);
    let responses = &mut operation.responses.responses;
    for (status, meaning) in missing {
        let entry = responses.entry(status.to_owned());
        entry.or_insert_with(|| RefOr::T(problem(meaning, is_page)));
    }
    // Those that a route names itself carry a problem too.
    for (status, response) in responses.iter_mut() {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
            && response.content.is_empty()
        {
            response.content = problem("", is_page).content;
        }
    }
}

fn problem(meaning: &str, is_page: bool) -> Response {
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new()
        .description(meaning)
        .content(PROBLEM_JSON, content);
    match is_page {
        false => response,
        true => {
            let text = ContentBuilder::new().schema(Some(String::schema())).build();
            response.content("text/html", text)
        }
    }
    .build()
}
