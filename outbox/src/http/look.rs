//! `GET /outbox`, `GET /parked`, `GET /parked/{id}`.

use axum::{Extension, extract::State};
use chassis::http::{Cursor, Json, Limit, Page, Path, Problem, Query, auth::Caller};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::IntoParams;

use crate::{
    audit::{self, Author},
    http::{
        sides::{self, Which, problem},
        view::{Id, Outbox, ParkedList, Shown, Side},
    },
    incoming::parked as inbox,
    operator::{self, parked as outbox_side},
};

/// The lag is counted up to so many messages.
const COUNTED: i64 = 1_000;

/// The outbox at a glance
///
/// Who relays, how much is not acknowledged by the broker and since when, what is parked, and where
/// in the ring the writers are.
#[utoipa::path(get, path = "/outbox", tag = "outbox", operation_id = "outbox",
    responses((status = 200, description = "How it is now", body = Outbox)))]
pub(super) async fn outbox(State(pool): State<PgPool>) -> Result<Json<Outbox>, Problem> {
    let status = operator::status(&pool).await.map_err(problem)?;
    let lag = operator::lag(&pool, COUNTED).await.map_err(problem)?;
    Ok(Json(Outbox { status, lag }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Of that side of the pipe.
    #[param(inline)]
    side: Option<Side>,
    /// For that sort of reason: `poison`, `blocked` or `held` of the outbox; `unreadable`,
    /// `refused`, `exhausted` or `blocked` of an inbox.
    class: Option<String>,
    /// Of that topic.
    topic: Option<String>,
    /// With that record key.
    key: Option<String>,
    /// Of that consumer's inbox.
    consumer: Option<String>,
    /// How many at most.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The `next_cursor` of an earlier page of the same list.
    #[param(inline)]
    cursor: Option<Cursor>,
}

/// What could not be sent or handled, in the order of parking
///
/// The outbox's messages first, then the inbox's.
#[utoipa::path(get, path = "/parked", tag = "outbox", operation_id = "list_parked",
    params(Filter), responses((status = 200, description = "A page", body = ParkedList)))]
pub(super) async fn list(
    State(pool): State<PgPool>,
    Query(filter): Query<Filter>,
) -> Result<Json<ParkedList>, Problem> {
    let after: Option<Id> = filter.cursor.as_ref().map(Cursor::decode).transpose()?;
    let limit = filter.limit;
    let which = filter.which()?;
    let total = which.count(&pool).await.map_err(problem)?;
    let rows = which.list(&pool, after, limit.rows()).await;
    let page = Page::cut(rows.map_err(problem)?, limit, |parked| parked.id)?;
    Ok(Json(ParkedList {
        items: page.items,
        next_cursor: page.next_cursor,
        total,
    }))
}

impl Filter {
    fn which(self) -> Result<Which, Problem> {
        self.check()?;
        let class = self.class.as_deref();
        let of_outbox: Option<outbox_side::Class> = class.and_then(|class| class.parse().ok());
        let of_inbox: Option<inbox::Class> = class.and_then(|class| class.parse().ok());
        if class.is_some() && of_outbox.is_none() && of_inbox.is_none() {
            let message = "must be one of poison, blocked, held, unreadable, refused, exhausted";
            return Err(Problem::invalid_parameter("class", message));
        }
        let outbox = self.side != Some(Side::Inbox)
            && self.consumer.is_none()
            && (class.is_none() || of_outbox.is_some());
        let inbox = self.side != Some(Side::Outbox) && (class.is_none() || of_inbox.is_some());
        Ok(Which {
            outbox: outbox.then(|| outbox_side::Selection {
                class: of_outbox,
                topic: self.topic.clone(),
                key: self.key.clone(),
            }),
            inbox: inbox.then(|| inbox::Filter {
                consumer: self.consumer,
                topic: self.topic,
                key: self.key.map(String::into_bytes),
                class: of_inbox,
            }),
        })
    }

    /// PostgreSQL keeps no NUL in text.
    fn check(&self) -> Result<(), Problem> {
        let texts = [
            ("topic", &self.topic),
            ("key", &self.key),
            ("consumer", &self.consumer),
        ];
        for (name, text) in texts {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                return Err(Problem::invalid_parameter(name, "contains a NUL character"));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Detail {
    /// Show the payload too. It may hold what not everyone should see: that somebody looked is
    /// recorded, where callers are known.
    #[serde(default)]
    #[param(required = false)]
    payload: bool,
}

/// One parked message, with its headers
#[utoipa::path(get, path = "/parked/{id}", tag = "outbox", operation_id = "show_parked",
    params(("id" = String, Path, description = "Which", example = "outbox-12",
            pattern = "^(outbox|inbox)-(0|[1-9][0-9]{0,17})$"), Detail),
    responses((status = 200, description = "The message", body = Shown)))]
pub(super) async fn show(
    State(pool): State<PgPool>,
    Path(id): Path<Id>,
    caller: Option<Extension<Caller>>,
    Query(Detail { payload }): Query<Detail>,
) -> Result<Json<Shown>, Problem> {
    if let Some(Extension(caller)) = caller.filter(|_| payload) {
        let author = Author::new(caller.name).with_role(Some(caller.role.as_str()));
        let subject = format!("parked/{id}");
        audit::record_read(&pool, author, "parked.read", subject).await;
    }
    let shown = sides::show(&pool, id, payload).await.map_err(problem)?;
    let gone = || Problem::not_found("no message with this id is parked");
    shown.map(Json).ok_or_else(gone)
}
