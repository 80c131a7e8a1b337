//! What may be asked, for the description of the API. The parsers are in
//! [`query`](crate::http::query) and [`body`](crate::http::body); tests hold the two together.

#![expect(dead_code, reason = "these types are read by the derive macros alone")]

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    http::query::{AnomalyKind, GraphFormat, GroupBy},
    instance::{Status, WaitingFor},
    intervention::OperationName,
    operator::bulk::ItemResult,
};

/// Which part of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// How many at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<i64>,
    /// The `next_cursor` of an earlier page of the same list.
    cursor: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Counting {
    /// By what they are counted; by `status` unless said.
    #[param(inline)]
    group_by: Option<GroupBy>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct History {
    /// Only events with higher numbers.
    #[param(minimum = 0, default = 0)]
    after: Option<i64>,
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 200)]
    limit: Option<i64>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Drawing {
    /// How it is drawn; as `mermaid` unless said.
    #[param(inline)]
    format: Option<GraphFormat>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Anomalies {
    /// Of that kind.
    #[param(inline)]
    kind: Option<AnomalyKind>,
    /// Of sagas of that definition.
    definition: Option<String>,
    /// Of that saga.
    saga_id: Option<Uuid>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Claims {
    /// That resource.
    resource: Option<String>,
    /// Those that this saga claims.
    saga_id: Option<Uuid>,
    /// Those that somebody waits for, or nobody.
    waiting: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Items {
    /// With that result.
    #[param(inline)]
    result: Option<ItemResult>,
    /// Only sagas with higher places.
    #[param(minimum = 0, maximum = 2_147_483_647_i64, default = 0)]
    after: Option<i32>,
    /// How many at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<i64>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asking {
    /// Say what would happen, and let nothing happen. Needs no `Idempotency-Key`.
    #[param(default = false)]
    dry_run: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct Key {
    /// Names the request: sent again under the same key it does nothing again. 1 to 255 visible
    /// ASCII characters. Only a dry run may lack it.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$"
    )]
    idempotency_key: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct Seen {
    /// The `ETag` of the saga as it was seen: refused with 412 if it has moved on. `*` takes it as
    /// it is.
    #[param(rename = "If-Match", example = "\"7\"")]
    if_match: Option<String>,
}

/// The filters that never change their mind about a saga.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Lasting {
    /// Of that definition.
    definition: Option<String>,
    /// Of that version of it, or of any definition.
    #[param(minimum = 1, maximum = 2_147_483_647_i64)]
    version: Option<i32>,
    /// With that business key.
    business_key: Option<String>,
    /// Whose business keys begin like that.
    business_key_prefix: Option<String>,
    /// With that tag: `name:value`.
    #[param(pattern = "^[^:]+:", example = "customer:018f3b2e")]
    tag: Option<String>,
    /// That started at that moment or later.
    created_after: Option<DateTime<Utc>>,
    /// That started before that moment.
    created_before: Option<DateTime<Utc>>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct Resumed {
    /// Of a stream: the last id that was received.
    #[param(rename = "Last-Event-ID")]
    last_event_id: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct Id {
    /// Whose.
    id: Uuid,
}

/// What is to happen to a saga.
#[derive(Serialize, ToSchema)]
#[schema(as = SagaOperation, example = json!({
    "operation": "retry", "actor": "ann", "reason": "the bank answers again", "expected_seq": 7
}))]
#[serde(deny_unknown_fields)]
pub(crate) struct OperationBody {
    /// What.
    operation: OperationName,
    /// With `retry` only this step, with `complete_step` and `skip_compensation` the step.
    step: Option<String>,
    /// With `complete_step`: what the participant would have answered.
    reply: Option<Value>,
    /// With `migrate`: the version.
    #[schema(minimum = 1)]
    to: Option<i32>,
    /// Who wants it. Needed only where nobody is asked who he is; else it is the caller, whatever
    /// stands here.
    actor: Option<String>,
    /// Why, in a sentence.
    #[schema(min_length = 1, max_length = 2000)]
    reason: String,
    /// The number of the last event that was seen; none if any will do.
    expected_seq: Option<i64>,
}

/// What is to happen to many sagas.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkOperation, example = json!({
    "operation": "retry", "actor": "ann", "reason": "the bank answers again",
    "selection": {"status": "parked", "definition": "fulfilment"}, "per_second": 20
}))]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkBody {
    /// What.
    operation: OperationName,
    /// As with one saga.
    step: Option<String>,
    /// As with one saga.
    reply: Option<Value>,
    /// As with one saga.
    #[schema(minimum = 1)]
    to: Option<i32>,
    /// Who wants it. Needed only where nobody is asked who he is; else it is the caller, whatever
    /// stands here.
    actor: Option<String>,
    /// Why, in a sentence.
    #[schema(min_length = 1, max_length = 2000)]
    reason: String,
    /// Which sagas.
    selection: BulkSelection,
    /// How many sagas a second at most.
    #[schema(minimum = 1, default = 10)]
    per_second: Option<i32>,
    /// Whether a saga that has moved on since it was listed is intervened in nevertheless.
    #[schema(default = false)]
    allow_changed: Option<bool>,
    /// Refused if it would be another number of sagas.
    expected_count: Option<i64>,
}

/// The filters of the list; `{"all": true}` for every saga.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkSelection {
    /// Every saga. Not together with filters.
    all: Option<bool>,
    /// Of that definition.
    definition: Option<String>,
    /// Of that version of it.
    version: Option<i32>,
    /// That stand there.
    status: Option<Status>,
    /// With that business key.
    business_key: Option<String>,
    /// Whose business keys begin like that.
    business_key_prefix: Option<String>,
    /// With that tag: `name:value`.
    tag: Option<String>,
    /// That wait for that.
    waiting_for: Option<WaitingFor>,
    /// That have not ended and have not moved for so long: `90s`, `10m`, `2h`, `7d`.
    stuck_for: Option<String>,
    /// That started at that moment or later.
    created_after: Option<DateTime<Utc>>,
    /// That started before that moment.
    created_before: Option<DateTime<Utc>>,
}

/// Who stops a bulk operation, and why.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkCancellation, example = json!({"actor": "ann", "reason": "the wrong sagas"}))]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelBody {
    /// Who. Needed only where nobody is asked who he is; else it is the caller, whatever
    /// stands here.
    actor: Option<String>,
    /// Why, in a sentence.
    #[schema(min_length = 1, max_length = 2000)]
    reason: String,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sqlx::postgres::PgPoolOptions;

    use crate::{
        Coordinator,
        http::{
            Streams, locks,
            query::{self, Pairs, TAKEN},
            router,
        },
    };

    /// What the parsers take, by `operationId`.
    fn taken(operation: &str) -> BTreeSet<String> {
        TAKEN.with_borrow_mut(BTreeSet::clear);
        let none = Pairs::of(Vec::new());
        let is_fine = match operation {
            "list_sagas" => query::ListQuery::parse(none).is_ok(),
            "count_sagas" => query::CountQuery::parse(none).is_ok(),
            "follow_sagas" => query::lasting_selection(none).is_ok(),
            "saga_events" | "saga_messages" => query::EventsQuery::parse(none).is_ok(),
            "saga_graph" => query::GraphQuery::parse(none).is_ok(),
            "anomalies" => query::AnomaliesQuery::parse(none).is_ok(),
            "locks" => locks::parse(none).is_ok(),
            "bulk_operation_items" => query::ItemsQuery::parse(none).is_ok(),
            "operate_on_saga" | "create_bulk_operation" => query::dry_run(none).is_ok(),
            _ => none.nothing_left().is_ok(),
        };
        assert!(is_fine, "{operation} needs nothing");
        let mut taken = TAKEN.with_borrow(Clone::clone);
        if operation == "follow_sagas" {
            // Taken to be refused with a reason.
            for changing in ["status", "waiting_for", "stuck_for"] {
                taken.remove(changing);
            }
        }
        taken
    }

    #[tokio::test]
    async fn every_parameter_that_is_taken_is_described_and_the_reverse() {
        let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/nothing");
        let pool = pool.unwrap();
        let coordinator = Coordinator::builder("replies").build();
        let document = router(pool.clone(), coordinator, Streams::new(pool)).into_openapi();
        let document = serde_json::to_value(document).unwrap();
        let mut seen = 0;
        for operation in document["paths"].as_object().unwrap().values() {
            for operation in operation.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let described = parameters.filter(|parameter| parameter["in"] == "query");
                let described = described.map(|p| p["name"].as_str().unwrap().to_owned());
                assert_eq!(described.collect::<BTreeSet<_>>(), taken(id), "{id}");
                seen += 1;
            }
        }
        assert!(seen > 12, "{seen} operations");
    }
}
