//! Whose fault a failure of the database is: the one place where SQL states are classified.
//!
//! What is charged to an item (a message, a saga, a row) follows from it: nothing while the other
//! side is away or a session has gone stale; a budget where it is unclear; at once where only the
//! item can be wrong. The table is in docs/failure-modes.md. States and their meanings:
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

/// Whose fault a failed statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The database is away, giving up, full, or chose this transaction as the victim of a
    /// conflict. Repeated for as long as it takes; nothing is charged.
    Outage,
    /// This session cannot do it any more, another can: a plan or a prepared statement that is
    /// gone, a server that has become read-only. The session is closed and the work done again;
    /// nothing is charged.
    Connection,
    /// Ours: a table, column or privilege that is missing, a limit of the configuration. Every item
    /// meets it alike; repeating helps once somebody has mended it.
    Setting,
    /// May be anybody's: a timeout of the statement, a lock that is not free, a state that is not
    /// listed. Repeated, and charged.
    Unclear,
    /// This item's: values that cannot be stored, a constraint, a row that cannot be decoded.
    /// Repeating the same does not help.
    Item,
}

/// States by their first letters, the longest match counts. Anything else is [`Fault::Unclear`].
pub const STATES: [(&str, Fault, &str); 34] = [
    ("08", Fault::Outage, "connection"),
    (
        "0A000",
        Fault::Connection,
        "a cached plan whose result type has changed",
    ),
    ("21", Fault::Item, "cardinality"),
    ("22", Fault::Item, "data that cannot be stored or converted"),
    ("23", Fault::Item, "a constraint"),
    ("25001", Fault::Connection, "a transaction is open already"),
    (
        "25006",
        Fault::Connection,
        "the server is read-only (a failover)",
    ),
    ("25P01", Fault::Connection, "no transaction is open"),
    (
        "25P02",
        Fault::Item,
        "a handler swallowed an error of this transaction",
    ),
    ("25P03", Fault::Unclear, "idle too long in a transaction"),
    ("25P04", Fault::Unclear, "the transaction took too long"),
    (
        "26000",
        Fault::Connection,
        "a prepared statement is gone (a pooler)",
    ),
    ("28", Fault::Outage, "log-in refused"),
    ("2F", Fault::Item, "an SQL routine"),
    ("3D", Fault::Outage, "no such database"),
    ("3F", Fault::Setting, "no such schema"),
    ("40", Fault::Outage, "rolled back: serialization, deadlock"),
    (
        "42",
        Fault::Setting,
        "no such table, column or function; a statement that is wrong",
    ),
    ("42501", Fault::Setting, "missing privilege"),
    (
        "42P05",
        Fault::Connection,
        "a prepared statement is there already (a pooler)",
    ),
    ("44", Fault::Item, "a view's check"),
    ("53", Fault::Outage, "disk, memory or connections used up"),
    ("53400", Fault::Unclear, "a limit of the configuration"),
    (
        "54",
        Fault::Item,
        "too large or too complex: an index entry, a row",
    ),
    ("55P03", Fault::Unclear, "a lock is not free"),
    ("55006", Fault::Unclear, "in use"),
    (
        "57014",
        Fault::Unclear,
        "the statement took too long, or was cancelled",
    ),
    (
        "57P",
        Fault::Outage,
        "shutdown, crash, session ended by an operator",
    ),
    ("58", Fault::Outage, "system"),
    ("58030", Fault::Unclear, "input or output failed"),
    ("P0", Fault::Item, "raised by a function or trigger"),
    ("XX", Fault::Unclear, "internal, or a corrupted page"),
    ("F0", Fault::Setting, "the server's configuration file"),
    ("72", Fault::Unclear, "snapshot too old"),
];

/// Whose fault it is.
#[must_use]
pub fn of(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(error) => error
            .code()
            .map_or(Fault::Unclear, |code| of_state(&code, error.message())),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Fault::Outage,
        sqlx::Error::Protocol(_) => Fault::Connection,
        sqlx::Error::Configuration(_) | sqlx::Error::Migrate(_) => Fault::Setting,
        sqlx::Error::RowNotFound
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::InvalidArgument(_) => Fault::Item,
        _ => Fault::Unclear,
    }
}

fn of_state(state: &str, message: &str) -> Fault {
    // 0A000 is two things: a plan of this session that is stale, and what PostgreSQL cannot do.
    if state == "0A000" && !message.contains("cached plan") {
        return Fault::Item;
    }
    STATES
        .iter()
        .filter(|(prefix, ..)| state.starts_with(prefix))
        .max_by_key(|(prefix, ..)| prefix.len())
        .map_or(Fault::Unclear, |(_, fault, _)| *fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_counts_and_an_unlisted_state_is_unclear() {
        for (state, fault) in [
            ("08006", Fault::Outage),
            ("40P01", Fault::Outage),
            ("57P01", Fault::Outage),
            ("57014", Fault::Unclear),
            ("53100", Fault::Outage),
            ("53400", Fault::Unclear),
            ("58030", Fault::Unclear),
            ("58000", Fault::Outage),
            ("25006", Fault::Connection),
            ("25P03", Fault::Unclear),
            ("26000", Fault::Connection),
            ("42P01", Fault::Setting),
            ("42501", Fault::Setting),
            ("42P05", Fault::Connection),
            ("22P05", Fault::Item),
            ("23505", Fault::Item),
            ("54000", Fault::Item),
            ("P0001", Fault::Item),
            ("99999", Fault::Unclear),
        ] {
            assert_eq!(of_state(state, ""), fault, "{state}");
        }
        let stale = "cached plan must not change result type";
        assert_eq!(of_state("0A000", stale), Fault::Connection);
        assert_eq!(of_state("0A000", "not supported"), Fault::Item);
    }

    #[test]
    fn each_state_is_listed_once() {
        let mut states: Vec<_> = STATES.iter().map(|(state, ..)| state).collect();
        states.sort_unstable();
        let all = states.len();
        states.dedup();
        assert_eq!(states.len(), all);
    }
}
