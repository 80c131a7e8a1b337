//! The door for bytes: a record becomes a [`Received`], or it is said why not. Pure.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    broker::Record,
    message::{Headers, Received},
};

/// A record that is not one of our messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// Names the record: the same every time it is read.
    pub(crate) id: Uuid,
    pub(crate) reason: String,
}

/// The kind that a record says it is; `None` where it says nothing that can be read.
pub(crate) fn kind(record: &Record) -> Option<&str> {
    let named = record.headers.iter().rfind(|(name, _)| name == "ce_type");
    std::str::from_utf8(named?.1.as_deref()?).ok()
}

/// Reads the attributes of CloudEvents' binary mode. The payload moves from the record into the
/// message; an unreadable record keeps it.
///
/// Only the attributes are asked for. Others put headers of their own on records (agents, mirrors):
/// one that is no text is none of ours, and is left out.
pub(crate) fn parse(record: &mut Record) -> Result<Received, Unreadable> {
    let mut headers = Headers::new();
    let (mut version, mut id, mut kind, mut source, mut time) = (None, None, None, None, None);
    for (name, value) in &record.headers {
        let Some(value) = value else { continue };
        // PostgreSQL's text cannot hold NUL: a handler that stores it would fail for ever.
        let text = std::str::from_utf8(value)
            .ok()
            .filter(|text| !text.contains('\0'));
        let attribute = match name.as_str() {
            "ce_specversion" => &mut version,
            "ce_id" => &mut id,
            "ce_type" => &mut kind,
            "ce_source" => &mut source,
            "ce_time" => {
                time = text.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
                continue;
            }
            "ce_subject" => continue,
            _ => {
                headers.extend(text.map(|text| (name.clone(), text.to_owned())));
                continue;
            }
        };
        let Some(text) = text else {
            return Err(unreadable(
                record,
                format!("header {name} is not a text in UTF-8"),
            ));
        };
        *attribute = Some(text);
    }
    let given = |name: &str, value: Option<&str>| {
        value
            .map(str::to_owned)
            .ok_or_else(|| unreadable(record, format!("header {name} is missing")))
    };
    let version = given("ce_specversion", version)?;
    let id = given("ce_id", id)?;
    let kind = given("ce_type", kind)?;
    let source = given("ce_source", source)?;
    if version != "1.0" {
        return Err(unreadable(
            record,
            "header ce_specversion is not 1.0".to_owned(),
        ));
    }
    let id = Uuid::parse_str(&id)
        .map_err(|_| unreadable(record, "header ce_id is not a UUID".to_owned()))?;
    let key = match &record.key {
        None => String::new(),
        Some(key) => String::from_utf8(key.clone())
            .ok()
            .filter(|key| !key.contains('\0'))
            .ok_or_else(|| unreadable(record, "the key is not a text in UTF-8".to_owned()))?,
    };
    Ok(Received {
        id,
        topic: record.topic.clone(),
        partition: record.partition,
        offset: record.offset,
        key,
        kind,
        source,
        time: time.map(|time| time.with_timezone(&Utc)),
        payload: record.payload.take(),
        headers,
    })
}

fn unreadable(record: &Record, reason: String) -> Unreadable {
    // The time tells a record from its successor at the same place in a topic made anew.
    let place = format!(
        "{}/{}/{}/{}",
        record.topic, record.partition, record.offset, record.timestamp_ms
    );
    Unreadable {
        id: Uuid::new_v5(&Uuid::NAMESPACE_URL, place.as_bytes()),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: &[(&str, &[u8])]) -> Record {
        Record {
            topic: "t".into(),
            partition: 0,
            offset: 7,
            timestamp_ms: 1,
            key: Some(b"k".to_vec()),
            payload: Some(b"{}".to_vec()),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Some(value.to_vec())))
                .collect(),
        }
    }

    const GOOD: [(&str, &[u8]); 6] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"0190163d-8694-739b-aea5-966c26f8ad90"),
        ("ce_type", b"order.placed.v1"),
        ("ce_source", b"/orders"),
        ("ce_time", b"2026-01-02T03:04:05.678901Z"),
        ("traceparent", b"00-1-2-01"),
    ];

    #[test]
    fn a_record_of_ours_is_read() {
        let received = parse(&mut record(&GOOD)).unwrap();
        assert_eq!(received.kind, "order.placed.v1");
        assert_eq!(received.key, "k");
        assert_eq!(received.header("traceparent"), Some("00-1-2-01"));
        assert_eq!(received.header("ce_id"), None);
        assert_eq!(received.time.unwrap().timestamp_subsec_micros(), 678_901);
    }

    #[test]
    fn each_missing_attribute_is_named() {
        for (missing, _) in &GOOD[..4] {
            let rest: Vec<_> = GOOD.iter().filter(|(n, _)| n != missing).copied().collect();
            let error = parse(&mut record(&rest)).unwrap_err();
            assert!(error.reason.contains(missing), "{}", error.reason);
        }
    }

    #[test]
    fn what_postgres_or_utf8_cannot_hold_is_unreadable() {
        let with = |name, value: &'static [u8]| {
            let mut headers: Vec<_> = GOOD.iter().filter(|(n, _)| *n != name).copied().collect();
            headers.push((name, value));
            parse(&mut record(&headers))
        };
        assert!(with("ce_id", b"not-a-uuid").is_err());
        for ours in ["ce_id", "ce_type", "ce_source", "ce_specversion"] {
            assert!(with(ours, b"\xff\xfe").is_err(), "{ours}");
            assert!(with(ours, b"a\0b").is_err(), "{ours}");
        }
        assert!(with("ce_specversion", b"0.3").is_err());
        let mut keyed = record(&GOOD);
        keyed.key = Some(vec![0xff]);
        assert!(parse(&mut keyed).is_err());
    }

    #[test]
    fn headers_of_strangers_that_are_no_text_are_left_out() {
        for name in ["x", "traceparent", "ce_time", "ce_subject", "ce_other"] {
            for value in [&b"\xff\xfe"[..], b"a\0b", &7_u64.to_be_bytes()] {
                let mut headers = GOOD.to_vec();
                headers.push((name, value));
                let received = parse(&mut record(&headers)).unwrap();
                assert_eq!(received.headers.get("x"), None);
                assert_eq!(received.header("traceparent"), Some("00-1-2-01"));
            }
        }
    }

    #[test]
    fn an_unreadable_record_has_the_same_id_each_time_and_its_neighbour_another() {
        let first = parse(&mut record(&[])).unwrap_err();
        assert_eq!(first, parse(&mut record(&[])).unwrap_err());
        let mut neighbour = record(&[]);
        neighbour.offset += 1;
        assert_ne!(first.id, parse(&mut neighbour).unwrap_err().id);
    }
}
