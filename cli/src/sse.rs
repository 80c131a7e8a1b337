//! Server-sent events, as far as the service sends them: <https://html.spec.whatwg.org/#server-sent-events>.

use anyhow::{Context, Result};
use reqwest::Response;

use crate::service::Failure;

/// An event, as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

/// Events of one answer.
pub(crate) struct Events {
    answer: Response,
    reading: Reading,
    ready: std::vec::IntoIter<Told>,
}

impl Events {
    pub(crate) fn of(answer: Response) -> Self {
        Self {
            answer,
            reading: Reading::default(),
            ready: Vec::new().into_iter(),
        }
    }

    /// The next one; `None` when the service has ended the stream.
    ///
    /// # Errors
    ///
    /// [`Failure::Away`] when it broke off, or nothing has come for long.
    pub(crate) async fn next(&mut self) -> Result<Option<Told>> {
        loop {
            if let Some(told) = self.ready.next() {
                return Ok(Some(told));
            }
            let chunk = self.answer.chunk().await;
            let chunk = chunk.map_err(reqwest::Error::without_url);
            let chunk = chunk.context(Failure::Away("the stream broke off".to_owned()))?;
            let Some(chunk) = chunk else { return Ok(None) };
            self.ready = self.reading.push(&chunk).into_iter();
        }
    }
}

/// What has come of an event so far. An event that was not ended by an empty line never was.
#[derive(Debug, Default)]
struct Reading {
    line: Vec<u8>,
    told: Told,
}

impl Reading {
    fn push(&mut self, bytes: &[u8]) -> Vec<Told> {
        let mut ready = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            ready.extend(self.line(line.trim_end_matches('\r')));
        }
        ready
    }

    fn line(&mut self, line: &str) -> Option<Told> {
        if line.is_empty() {
            let mut told = std::mem::take(&mut self.told);
            told.data.pop();
            return (!told.data.is_empty()).then_some(told);
        }
        // A comment has nothing before its colon.
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.told.name = value.to_owned(),
            "id" => self.told.id = value.to_owned(),
            "data" => {
                self.told.data.push_str(value);
                self.told.data.push('\n');
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": here\nretry: 2000\n\nevent: recorded\r\nid: 1\r\ndata: {\"ä\":1}\r\n\r\n\
                          :\n\nid:2\ndata: a\ndata:b\n\nid: 3\ndata: cut";

    #[test]
    fn events_are_read_however_the_bytes_come() {
        let told = |name: &str, id: &str, data: &str| Told {
            name: name.to_owned(),
            id: id.to_owned(),
            data: data.to_owned(),
        };
        let expected = [told("recorded", "1", "{\"ä\":1}"), told("", "2", "a\nb")];
        for size in [1, 2, 3, 7, STREAM.len()] {
            let mut reading = Reading::default();
            let chunks = STREAM.as_bytes().chunks(size);
            let ready: Vec<_> = chunks.flat_map(|chunk| reading.push(chunk)).collect();
            assert_eq!(ready, expected, "in pieces of {size}");
        }
    }
}
