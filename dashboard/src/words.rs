//! Times and states in words.

use chrono::{DateTime, TimeDelta, Utc};

use crate::api::{Counted, Summary, Waiting};

/// A length of time with two digits that matter: `12 ms`, `4.2 s`, `3 min`, `5 h`, `12 d`.
pub(crate) fn length(seconds: f64) -> String {
    match seconds.max(0.0) {
        short if short < 0.9995 => format!("{:.0} ms", short * 1000.0),
        short if short < 9.95 => format!("{short:.1} s"),
        some if some < 120.0 => format!("{some:.0} s"),
        long if long < 7200.0 => format!("{:.0} min", long / 60.0),
        long if long < 172_800.0 => format!("{:.0} h", long / 3600.0),
        days => format!("{:.0} d", days / 86_400.0),
    }
}

pub(crate) fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    length(seconds(to - from))
}

pub(crate) fn seconds(time: TimeDelta) -> f64 {
    time.as_seconds_f64()
}

/// The day only where it is not today.
pub(crate) fn moment(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match at.date_naive() == now.date_naive() {
        true => at.format("%H:%M:%S").to_string(),
        false => at.format("%Y-%m-%d %H:%M:%S").to_string(),
    }
}

/// For machines, and for the script that counts.
pub(crate) fn iso(at: &DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// `1 234 567`, with narrow spaces.
pub(crate) fn grouped(number: &i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut grouped = String::from(if *number < 0 { "−" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// `10 000+` where there are more than were counted.
pub(crate) fn counted(counted: &Counted) -> String {
    let more = if counted.exact { "" } else { "+" };
    grouped(&counted.count) + more
}

/// What a saga is at, in one line. The moment it waits for is told apart, for it is counted down.
pub(crate) fn sentence(summary: &Summary, now: DateTime<Utc>) -> String {
    let since = moment(summary.updated_at, now);
    let reason = |reason: &Option<String>| match reason {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    };
    let ended = summary.ended_at.unwrap_or(summary.updated_at);
    let took = between(summary.created_at, ended);
    if let Some(why) = &summary.unreadable {
        return format!("cannot be read by this replica: {why}");
    }
    match summary.status.as_str() {
        "completed" => format!("completed after {took}"),
        "compensated" => format!("undone after {took}{}", reason(&summary.reason)),
        "abandoned" => format!("given up by a person after {took}"),
        "parked" => format!(
            "waiting for a person since {since}{}",
            reason(&summary.parked_reason)
        ),
        _ if summary.paused => format!("paused since {since}; sends nothing until it is resumed"),
        _ => match &summary.waiting {
            Some(waiting) => waits(waiting, &since),
            None => format!("moving; last seen at {since}"),
        },
    }
}

fn waits(waiting: &Waiting, since: &str) -> String {
    let back = match waiting.phase.as_str() {
        "compensation" => "the undoing of ",
        _ => "",
    };
    let (step, attempt) = (&waiting.step, waiting.attempt);
    match waiting.what.as_str() {
        "reply" => format!("waiting for {back}{step} since {since}, attempt {attempt}"),
        "backoff" | "round" => {
            format!("waiting to try {back}{step} again since {since}, attempt {attempt} to come")
        }
        "probe" => format!("asking what became of {step} since {since}, attempt {attempt}"),
        "lock" => format!("waiting for its turn at {step} since {since}"),
        "late_reply" => format!("waiting for a late answer to {back}{step} since {since}"),
        "relay" => format!("waiting for the relay to send {back}{step} since {since}"),
        _ if step.is_empty() => format!("waiting for a person since {since}"),
        _ => format!("waiting for a person at {step} since {since}"),
    }
}

/// What happens at the moment it waits for.
pub(crate) fn then(what: &str) -> &'static str {
    match what {
        "reply" | "probe" => "its time is up",
        "backoff" | "round" => "next try",
        "lock" => "it gives up waiting",
        _ => "it goes on",
    }
}

/// How a saga, a step or an attempt stands, as a class of the style sheet.
pub(crate) fn tone(status: &str) -> &'static str {
    match status {
        "completed" | "succeeded" | "success" | "done" => "good",
        "compensated" | "compensating" | "null_compensated" | "compensation_skipped" => "back",
        "failed" | "failure" | "abandoned" => "bad",
        "parked" | "unknown" | "late_reply" | "person" | "refused" | "changed" => "alarm",
        "running" => "going",
        _ => "calm",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_short() {
        let told = [
            (-1.0, "0 ms"),
            (0.0123, "12 ms"),
            (0.9996, "1.0 s"),
            (4.24, "4.2 s"),
            (9.96, "10 s"),
            (119.0, "119 s"),
            (180.0, "3 min"),
            (7200.0, "2 h"),
            (172_800.0, "2 d"),
        ];
        for (seconds, words) in told {
            assert_eq!(length(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        let told = [
            (0, "0"),
            (999, "999"),
            (1000, "1\u{202f}000"),
            (-1_234_567, "−1\u{202f}234\u{202f}567"),
        ];
        for (number, words) in told {
            assert_eq!(grouped(&number), words);
        }
    }
}
