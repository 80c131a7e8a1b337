//! Style, script and the libraries, in the binary: pages work without a network.

use axum::{
    extract::Path,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use chassis::http::Problem;

/// Named with its version, so that a browser keeps each until there is a newer one.
macro_rules! assets {
    ($($name:literal: $kind:literal),+ $(,)?) => {
        const ASSETS: &[(&str, &str, &str)] = &[$(($name, $kind, include_str!(concat!("../assets/", $name)))),+];
    };
}

assets! {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "sse.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

/// Changes with every asset: part of their addresses.
pub(crate) const VERSION: u64 = {
    // FNV-1a, which can be computed when this is compiled.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut asset = 0;
    while asset < ASSETS.len() {
        let bytes = ASSETS[asset].2.as_bytes();
        let mut place = 0;
        while place < bytes.len() {
            hash = (hash ^ bytes[place] as u64).wrapping_mul(0x0100_0000_01b3);
            place += 1;
        }
        asset += 1;
    }
    hash
};

/// What the pages need
#[utoipa::path(get, path = "/assets/{name}", tag = "pages", operation_id = "page_asset",
    security(()),
    params(("name" = String, Path, description = "Which", example = "dashboard.css")),
    responses((status = 200, description = "Style, script or picture", content_type = "text/css",
        body = String)))]
pub(crate) async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    let found = ASSETS.iter().find(|asset| asset.0 == name);
    let (_, kind, content) = found.ok_or_else(|| Problem::not_found("there is no such asset"))?;
    let headers = [
        (CONTENT_TYPE, *kind),
        (CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((headers, *content).into_response())
}
