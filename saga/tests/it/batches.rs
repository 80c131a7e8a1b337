//! Many commands in one transaction: each is answered as it would have been by itself.

use outbox::{BatchHandler, Received};
use saga::{
    Operation,
    wire::{self, Outcome},
};
use sqlx::PgPool;

use crate::support::*;

/// What a consumer does with a batch, without its inbox.
async fn deliver_together(pool: &PgPool, batch: &[Received]) -> Result<(), outbox::Error> {
    let mut tx = pool.begin().await?;
    participant().handle_batch(&mut tx, batch).await?;
    tx.commit().await?;
    Ok(())
}

/// The answers to an operation, in the order in which they were sent.
async fn answers(pool: &PgPool, operation: &Operation) -> Vec<Outcome> {
    let replies = sent(pool, REPLIES).await;
    let replies = replies
        .iter()
        .map(|reply| wire::Reply::parse(reply).unwrap());
    let ours = replies.filter(|reply| reply.operation == *operation);
    ours.map(|reply| reply.outcome).collect()
}

/// Which operations have an effect that was not undone.
async fn effective(pool: &PgPool) -> Vec<uuid::Uuid> {
    let done = sqlx::query_scalar("select op_key from effect where what = 'done' order by seq");
    done.fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn one_refusal_undoes_its_own_writes_and_nobody_elses() {
    let pool = database("batch_refusal").await;
    let operations: Vec<Operation> = (0..5).map(|_| action()).collect();
    let moods = ["", "", "refuse", "", "silent"];
    let batch: Vec<_> = operations
        .iter()
        .zip(moods)
        .map(|(operation, mood)| command(operation, mood))
        .collect();
    deliver_together(&pool, &batch).await.unwrap();
    let kept = [0, 1, 3].map(|place: usize| operations[place].key());
    assert_eq!(effective(&pool).await, kept);
    for (operation, mood) in operations.iter().zip(moods) {
        let expected: &[Outcome] = match mood {
            "refuse" => &[Outcome::Failed],
            "silent" => &[],
            _ => &[Outcome::Succeeded],
        };
        assert_eq!(answers(&pool, operation).await, expected, "{mood}");
    }
    // Silence leaves no row, everybody else has one with an answer.
    assert_eq!(
        count(&pool, "saga.barrier where state = 'answered'").await,
        4
    );
    assert_eq!(count(&pool, "saga.barrier").await, 4);

    // The same batch again: the stored answers, byte for byte, and no second effect.
    let before = sent(&pool, REPLIES).await;
    deliver_together(&pool, &batch).await.unwrap();
    assert_eq!(effective(&pool).await, kept);
    let again = sent(&pool, REPLIES).await.split_off(before.len());
    let content = |replies: &[Received]| -> Vec<_> {
        let mut content: Vec<_> = replies
            .iter()
            .map(|reply| {
                (
                    reply.header(wire::OP_KEY).unwrap().to_owned(),
                    reply.payload.clone(),
                )
            })
            .collect();
        content.sort();
        content
    };
    assert_eq!(content(&again), content(&before));
}

#[tokio::test]
async fn an_error_of_one_leaves_nothing_of_the_batch() {
    let pool = database("batch_error").await;
    let operations = [action(), action(), action()];
    let moods = ["", "fail", ""];
    let batch: Vec<_> = operations
        .iter()
        .zip(moods)
        .map(|(operation, mood)| command(operation, mood))
        .collect();
    deliver_together(&pool, &batch).await.unwrap_err();
    assert_eq!(effects(&pool).await, [""; 0]);
    assert_eq!(count(&pool, "saga.barrier").await, 0);
    assert_eq!(count(&pool, "outbox.log").await, 0);
}

#[tokio::test]
async fn an_operation_that_is_in_a_batch_twice_takes_effect_once() {
    let pool = database("batch_twice").await;
    let (twice, other) = (action(), action());
    let batch = [
        command(&twice, ""),
        command(&other, ""),
        command(&twice, ""),
    ];
    deliver_together(&pool, &batch).await.unwrap();
    assert_eq!(effective(&pool).await, [twice.key(), other.key()]);
    let succeeded = Outcome::Succeeded;
    assert_eq!(answers(&pool, &twice).await, [succeeded, succeeded]);
    assert_eq!(answers(&pool, &other).await, [succeeded]);
}

#[tokio::test]
async fn expired_commands_of_a_batch_are_refused_and_the_others_carried_out() {
    let pool = database("batch_expired").await;
    let (late, timely) = (action(), action());
    let yesterday = chrono::Utc::now() - chrono::TimeDelta::days(1);
    let batch = [command_until(&late, "", yesterday), command(&timely, "")];
    deliver_together(&pool, &batch).await.unwrap();
    assert_eq!(effective(&pool).await, [timely.key()]);
    assert_eq!(answers(&pool, &late).await, [Outcome::Failed]);
    assert_eq!(answers(&pool, &timely).await, [Outcome::Succeeded]);
}

#[tokio::test]
async fn compensations_of_a_batch_undo_what_was_done_and_bury_what_was_not() {
    let pool = database("batch_back").await;
    let [done, refused, never, beside] = [action(), action(), action(), action()];
    let before = [command(&done, ""), command(&refused, "refuse")];
    deliver_together(&pool, &before).await.unwrap();
    let batch = [
        command(&undoing(&done), ""),
        command(&undoing(&refused), ""),
        command(&undoing(&never), ""),
        // Forwards and back in one batch.
        command(&undoing(&beside), ""),
        command(&beside, ""),
        command(&undoing(&done), ""),
    ];
    deliver_together(&pool, &batch).await.unwrap();
    let (compensated, nothing) = (Outcome::Compensated, Outcome::NullCompensated);
    let undone = answers(&pool, &undoing(&done)).await;
    assert_eq!(undone, [compensated, compensated]);
    assert_eq!(answers(&pool, &undoing(&refused)).await, [nothing]);
    assert_eq!(answers(&pool, &undoing(&never)).await, [nothing]);
    // Whichever of the two came first, no effect is left and the answers fit.
    let (forth, back) = (
        answers(&pool, &beside).await,
        answers(&pool, &undoing(&beside)).await,
    );
    let undone_again = forth == [Outcome::Succeeded] && back == [compensated];
    let kept_away = forth == [Outcome::Tombstoned] && back == [nothing];
    assert!(undone_again || kept_away, "{forth:?} {back:?}");
    deliver_together(&pool, &[command(&never, "")])
        .await
        .unwrap();
    assert_eq!(answers(&pool, &never).await, [Outcome::Tombstoned]);
    let rows = effects(&pool).await;
    let of = |what: &str| rows.iter().filter(|row| row.starts_with(what)).count();
    assert_eq!(of("done"), of("undone"), "{rows:?}");
}

#[tokio::test]
async fn a_question_in_a_batch_is_answered_in_its_order() {
    let pool = database("batch_probe").await;
    let (asked, unknown, late) = (action(), action(), action());
    let question = |operation: &Operation| {
        let mut message = command(operation, "");
        let probe = wire::PROBE.to_owned();
        message.headers.insert(probe, "true".to_owned());
        message
    };
    let batch = [
        command(&asked, ""),
        question(&late),
        question(&asked),
        question(&unknown),
        command(&late, ""),
    ];
    deliver_together(&pool, &batch).await.unwrap();
    assert_eq!(effective(&pool).await, [asked.key()]);
    let (succeeded, tombstoned) = (Outcome::Succeeded, Outcome::Tombstoned);
    assert_eq!(answers(&pool, &asked).await, [succeeded, succeeded]);
    assert_eq!(answers(&pool, &unknown).await, [tombstoned]);
    assert_eq!(answers(&pool, &late).await, [tombstoned, tombstoned]);
}

#[tokio::test]
async fn a_panic_is_told_with_its_text_step_and_saga_and_harms_no_other_command() {
    let pool = database("batch_panic").await;
    let (sick, well) = (action(), action());
    let batch = [command(&sick, "panic"), command(&well, "")];
    deliver_together(&pool, &batch).await.unwrap_err();
    // What a consumer does then: halves.
    deliver_together(&pool, &batch[1..]).await.unwrap();
    let error = deliver_together(&pool, &batch[..1]).await.unwrap_err();
    assert!(!error.is_transient());
    let (reason, saga) = (error.to_string(), sick.saga_id.to_string());
    for told in ["the roof is gone", "step hold", &saga] {
        assert!(reason.contains(told), "{told} in {reason}");
    }
    assert_eq!(effective(&pool).await, [well.key()]);
}

#[tokio::test]
async fn what_cannot_be_read_or_is_unknown_is_known_without_the_database() {
    let spoilt: [fn(&mut Received); 5] = [
        |message| drop(message.headers.remove(wire::SAGA_ID)),
        |message| {
            drop(
                message
                    .headers
                    .insert(wire::EXPIRES_AT.into(), "soon".into()),
            )
        },
        |message| message.kind = "trip.unknown.v1".into(),
        |message| message.payload = Some(b"{\"mood\": 1}".to_vec()),
        |message| message.payload = None,
    ];
    let outside = crate::outside::Outside::new(&[]);
    for participant in [participant(), outside.participant()] {
        for operation in [action(), undoing(&action())] {
            participant.check(&command(&operation, "")).unwrap();
            for (index, spoil) in spoilt.iter().enumerate() {
                let mut message = command(&operation, "");
                spoil(&mut message);
                if index == 3 && operation.phase == saga::Phase::Compensation {
                    message.payload = Some(b"[1]".to_vec());
                }
                let refused = participant.check(&message);
                assert!(refused.is_err_and(|error| !error.is_transient()), "{index}");
            }
        }
    }
}
