//! One HTTP/1.1 POST over a connection of its own.
//!
//! Batches of spans are seconds apart: a pool of connections would keep what the collector closes.

use axum::body::Bytes;
use axum::http::Request;
use axum::http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::telemetry::settings::Target;

/// The largest answer that is read, in bytes.
const ANSWER: usize = 64 * 1024;

/// Posts a protobuf message and returns the answer's body, if the answer is a success. The error is
/// for a log line.
pub(super) async fn post(target: &Target, body: Vec<u8>) -> Result<Bytes, String> {
    let host = target.host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, target.port))
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut request = Request::post(&target.path)
        .header(HOST, format!("{}:{}", target.host, target.port))
        .header(
            USER_AGENT,
            concat!("recompense/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    request.headers_mut().extend(target.headers.clone());
    // After the caller's: what the body is is not for them to say.
    let protobuf = axum::http::HeaderValue::from_static("application/x-protobuf");
    request.headers_mut().insert(CONTENT_TYPE, protobuf);
    let connection = tokio::spawn(connection);
    let answer = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| format!("no answer: {error}"))?;
        if !answer.status().is_success() {
            return Err(format!("answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), ANSWER).collect().await;
        let body = body.map_err(|error| format!("no whole answer: {error}"))?;
        Ok(body.to_bytes())
    }
    .await;
    connection.abort();
    answer
}
