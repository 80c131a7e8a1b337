//! `POST /parked/{id}/replay` and `POST /parked/{id}/discard`.

use axum::{Extension, extract::State};
use chassis::http::{FieldError, Json, Path, Problem, Query, Violations, auth::Caller, in_task};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::{IntoParams, ToSchema};

use crate::{
    audit::Author,
    http::{
        sides::{followers, problem, show},
        view::{Asked, Id, Outcome, Shown, Side},
    },
    incoming::parked as inbox,
    operator::parked as outbox,
};

/// Who wants it, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ParkedRequest, example = json!({
    "actor": "ann", "reason": "the topic takes larger messages now"
}))]
pub(super) struct Wish {
    /// Who. Needed only of a service that asks nobody who he is; else it is the caller, whatever
    /// stands here.
    #[serde(default)]
    actor: Option<String>,
    /// Why, in a sentence.
    #[schema(min_length = 1, max_length = 2000)]
    reason: String,
}

impl Wish {
    /// As it is noted with the request: the caller, if there is one.
    fn by(self, caller: Option<Extension<Caller>>) -> Result<Author, Problem> {
        let author = match (caller, self.actor) {
            (Some(Extension(caller)), _) => {
                Author::new(caller.name).with_role(Some(caller.role.as_str()))
            }
            (None, Some(actor)) => Author::new(actor),
            (None, None) => {
                let missing = FieldError::new("actor", "is required");
                return Err(Problem::invalid_content(vec![missing]));
            }
        };
        let mut violations = Violations::new();
        let texts = [
            ("actor", &author.actor, 200),
            ("reason", &self.reason, 2000),
        ];
        for (name, text, longest) in texts {
            let fits = !text.trim().is_empty() && text.len() <= longest && !text.contains('\0');
            let message = format!("must be a text of 1 to {longest} bytes without NUL");
            violations.check(fits, name, message);
        }
        violations.into_result()?;
        Ok(author.because(self.reason))
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Asking {
    /// Say what would happen, and let nothing happen.
    #[serde(default)]
    #[param(required = false)]
    dry_run: bool,
}

/// Asks that a parked message be sent or handled again
///
/// The relay or the consumer does so within a second; then its followers come. Asking twice is asking
/// once.
#[utoipa::path(post, path = "/parked/{id}/replay", tag = "outbox", operation_id = "replay_parked",
    params(("id" = String, Path, description = "Which", example = "outbox-12",
            pattern = "^(outbox|inbox)-(0|[1-9][0-9]{0,17})$"), Asking),
    request_body = Wish,
    responses(
        (status = 200, description = "What came of it, or would", body = Asked),
        (status = 409, description = "It waits behind another message of its key")))]
pub(super) async fn replay(
    State(pool): State<PgPool>,
    Path(id): Path<Id>,
    Query(Asking { dry_run }): Query<Asking>,
    caller: Option<Extension<Caller>>,
    Json(wish): Json<Wish>,
) -> Result<Json<Asked>, Problem> {
    let by = wish.by(caller)?;
    in_task(async move {
        let Some(shown) = show(&pool, id, false).await.map_err(problem)? else {
            return Ok(Json(not_parked(id, dry_run)));
        };
        let outcome = match (shown.head, &shown.parked.replay) {
            (Some(head), None) => return Err(behind(head)),
            (_, Some(_)) => Outcome::AlreadyRequested,
            (None, None) if dry_run => Outcome::Requested,
            (None, None) => ask_again(&pool, id, &by).await?,
        };
        asked(&pool, &shown, outcome, dry_run).await
    })
    .await
}

/// Gives a parked message up, for good
///
/// Its followers come next. A message that is gone already is given up all the same.
#[utoipa::path(post, path = "/parked/{id}/discard", tag = "outbox",
    operation_id = "discard_parked", security(("bearer" = ["admin"])),
    params(("id" = String, Path, description = "Which", example = "outbox-12",
            pattern = "^(outbox|inbox)-(0|[1-9][0-9]{0,17})$"), Asking),
    request_body = Wish,
    responses(
        (status = 200, description = "What came of it, or would", body = Asked),
        (status = 409, description = "A message before it is on its way still; ask again")))]
pub(super) async fn discard(
    State(pool): State<PgPool>,
    Path(id): Path<Id>,
    Query(Asking { dry_run }): Query<Asking>,
    caller: Option<Extension<Caller>>,
    Json(wish): Json<Wish>,
) -> Result<Json<Asked>, Problem> {
    let by = wish.by(caller)?;
    in_task(async move {
        let Some(shown) = show(&pool, id, false).await.map_err(problem)? else {
            return Ok(Json(not_parked(id, dry_run)));
        };
        let mut answer = asked(&pool, &shown, Outcome::Discarded, dry_run).await?;
        if !dry_run {
            answer.0.outcome = give_up(&pool, id, &by).await?;
        }
        Ok(answer)
    })
    .await
}

async fn ask_again(pool: &PgPool, id: Id, by: &Author) -> Result<Outcome, Problem> {
    match id.side {
        Side::Outbox => {
            let answers = outbox::request_replay(pool, &[id.number], by).await;
            match answers.map_err(problem)?.pop() {
                Some((_, outbox::Replay::Requested)) => Ok(Outcome::Requested),
                Some((_, outbox::Replay::AlreadyRequested(_))) => Ok(Outcome::AlreadyRequested),
                Some((_, outbox::Replay::BehindHead { head })) => {
                    Err(behind(Id { number: head, ..id }))
                }
                Some((_, outbox::Replay::NotParked)) | None => Ok(Outcome::NotParked),
            }
        }
        Side::Inbox => {
            let answer = inbox::request_replay(pool, id.number, by).await;
            match answer.map_err(problem)? {
                inbox::Replay::Requested => Ok(Outcome::Requested),
                inbox::Replay::NotParked => Ok(Outcome::NotParked),
                inbox::Replay::BehindHead { head } => Err(behind(Id { number: head, ..id })),
            }
        }
    }
}

async fn give_up(pool: &PgPool, id: Id, by: &Author) -> Result<Outcome, Problem> {
    match id.side {
        Side::Outbox => {
            let answers = outbox::discard(pool, &[id.number], by).await;
            match answers.map_err(problem)?.pop() {
                Some((_, outbox::Discard::Discarded { .. })) => Ok(Outcome::Discarded),
                Some((_, outbox::Discard::NotPassed)) => Err(Problem::conflict(
                    "a message before it is on its way still; ask again when that one has arrived",
                )),
                Some((_, outbox::Discard::NotParked)) | None => Ok(Outcome::NotParked),
            }
        }
        Side::Inbox => {
            let answer = inbox::discard(pool, id.number, by).await;
            match answer.map_err(problem)? {
                inbox::Discard::Discarded => Ok(Outcome::Discarded),
                inbox::Discard::NotParked => Ok(Outcome::NotParked),
            }
        }
    }
}

fn behind(head: Id) -> Problem {
    Problem::conflict(format!(
        "it waits behind {head} of its key: replay or discard that one"
    ))
}

fn not_parked(id: Id, dry_run: bool) -> Asked {
    Asked {
        id,
        outcome: Outcome::NotParked,
        dry_run,
        followers: 0,
    }
}

async fn asked(
    pool: &PgPool,
    shown: &Shown,
    outcome: Outcome,
    dry_run: bool,
) -> Result<Json<Asked>, Problem> {
    Ok(Json(Asked {
        id: shown.parked.id,
        outcome,
        dry_run,
        followers: followers(pool, shown).await.map_err(problem)?,
    }))
}
