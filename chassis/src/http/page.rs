//! Lists in pages: a cursor is a place in an order of rows, so pages neither skip nor repeat
//! when rows come and go, and the last page costs what the first does.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::problem::Problem;

/// Where the next page begins: the sort key of the last row seen, opaque to clients. It is not
/// signed: whoever decodes one must treat it as any other input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
pub struct Cursor(String);

impl Cursor {
    /// The cursor of a sort key.
    ///
    /// # Errors
    /// 500 when the key cannot be JSON, such as a map with keys that are no strings.
    pub fn encode(key: &impl Serialize) -> Result<Self, Problem> {
        let json = serde_json::to_vec(key).map_err(Problem::internal)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(json)))
    }

    /// The sort key in it.
    ///
    /// # Errors
    /// 400 naming `cursor` when it is none of ours, or one of another list.
    pub fn decode<K: DeserializeOwned>(&self) -> Result<K, Problem> {
        URL_SAFE_NO_PAD
            .decode(&self.0)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| {
                let message = "must be the next_cursor of an earlier page of this list";
                Problem::invalid_parameter("cursor", message)
            })
    }
}

/// How many rows a page has: 1 to 200, by default 50. For use in a query: `#[serde(default)] limit: Limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "u32")]
#[schema(value_type = u32, minimum = 1, maximum = 200, default = 50)]
pub struct Limit(u32);

impl Limit {
    /// The most rows a page may have.
    pub const MAX: u32 = 200;

    /// How many rows to select: one more than the page shows, to learn whether there are more.
    #[must_use]
    pub fn rows(self) -> i64 {
        i64::from(self.0) + 1
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<u32> for Limit {
    type Error = String;

    fn try_from(rows: u32) -> Result<Self, String> {
        if (1..=Self::MAX).contains(&rows) {
            Ok(Self(rows))
        } else {
            Err(format!("must be from 1 to {}", Self::MAX))
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Page<T> {
    /// Its rows, in the list's order.
    pub items: Vec<T>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<Cursor>,
}

impl<T> Page<T> {
    /// Cuts a page out of up to [`Limit::rows`] rows. `key` is a row's place in the order, which
    /// must be unique.
    ///
    /// # Errors
    /// As [`Cursor::encode`].
    pub fn cut<K: Serialize>(
        mut rows: Vec<T>,
        limit: Limit,
        key: impl Fn(&T) -> K,
    ) -> Result<Self, Problem> {
        let more = rows.len() > limit.0 as usize;
        rows.truncate(limit.0 as usize);
        let next_cursor = match rows.last().filter(|_| more) {
            Some(last) => Some(Cursor::encode(&key(last))?),
            None => None,
        };
        Ok(Self {
            items: rows,
            next_cursor,
        })
    }

    /// The same page with each row in its public form.
    #[must_use]
    pub fn map<U>(self, row: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(row).collect(),
            next_cursor: self.next_cursor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_knows_whether_there_is_another() {
        let limit = Limit(2);
        let page = Page::cut(vec![10, 20, 30], limit, |row| *row).unwrap();
        assert_eq!(page.items, [10, 20]);
        assert_eq!(page.next_cursor.unwrap().decode::<i32>().unwrap(), 20);
        let last = Page::cut(vec![30, 40], limit, |row| *row).unwrap();
        assert_eq!((last.items.len(), last.next_cursor), (2, None));
    }

    #[test]
    fn garbage_is_not_a_cursor_and_the_problem_says_so() {
        let foreign = Cursor::encode(&"another list's key").unwrap();
        for cursor in [
            Cursor(String::new()),
            Cursor("%%%".into()),
            Cursor("aGVsbG8".into()),
            foreign,
        ] {
            let problem = cursor.decode::<(i64, i64)>().unwrap_err();
            assert_eq!(problem.status(), 400);
            assert_eq!(problem.errors()[0].field, "cursor");
        }
    }
}
