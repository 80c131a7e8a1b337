//! What sagas ask.

use payment_service::gateway::{Gateway, Known};

use crate::room::{Order, Room};

#[tokio::test]
async fn captured_money_goes_from_the_customer_to_the_merchant() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));

    assert_eq!(room.answer(&order.authorize()).await.outcome, "succeeded");
    assert_eq!(room.balance(&order.customer()).await, -2500);
    assert_eq!(room.balance(&order.held()).await, 2500);

    assert_eq!(room.answer(&order.capture()).await.outcome, "succeeded");
    assert_eq!(room.balance(&order.customer()).await, -2500);
    assert_eq!(room.balance(&order.held()).await, 0);
    assert_eq!(room.balance("merchant").await, 2500);
}

#[tokio::test]
async fn released_money_is_back_with_the_customer() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    room.answer(&order.authorize()).await;

    assert_eq!(room.answer(&order.release()).await.outcome, "compensated");

    assert_eq!(known(&room, &order).await, Known::Voided);
    assert_eq!(room.balance(&order.customer()).await, 0);
    assert_eq!(room.balance(&order.held()).await, 0);
    let (_, payments) = room
        .get(&format!("/v1/payments?order_id={}", order.order_id))
        .await;
    assert_eq!(payments["items"][0]["status"], "released");
}

#[tokio::test]
async fn a_refused_card_leaves_no_rows_and_a_sentence_for_people() {
    for (payment_method, code) in [
        ("pm_card_declined", "card_declined"),
        ("pm_insufficient_funds", "insufficient_funds"),
        ("pm_gold", "unknown_payment_method"),
    ] {
        let (room, order) = (Room::open().await, Order::paid_with(payment_method));
        let answer = room.answer(&order.authorize()).await;
        assert_eq!(answer.outcome, "failed");
        assert_eq!(answer.payload["code"], code);
        assert!(
            answer.payload["message"]
                .as_str()
                .is_some_and(|m| m.ends_with('.'))
        );
        assert_eq!(room.count("payments.payment").await, 0);
        assert_eq!(room.count("payments.entry").await, 0);
    }
}

#[tokio::test]
async fn a_command_that_comes_twice_holds_the_money_once() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    let first = room.answer(&order.authorize()).await;
    let second = room.answer(&order.authorize()).await;
    assert_eq!(first, second);
    assert_eq!(room.balance(&order.held()).await, 2500);
    assert_eq!(room.count("payments.entry").await, 2);
}

#[tokio::test]
async fn another_saga_of_the_same_order_is_refused_before_the_provider_is_asked() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    room.answer(&order.authorize()).await;
    let other = Order {
        saga_id: uuid::Uuid::now_v7(),
        ..order.clone()
    };
    let answer = room.answer(&other.authorize()).await;
    assert_eq!(answer.payload["code"], "paid_before");
    assert_eq!(known(&room, &other).await, Known::Nothing);
    assert_eq!(room.balance(&order.held()).await, 2500);
}

#[tokio::test]
async fn a_flaky_card_works_at_the_third_try_and_the_first_two_leave_no_more_than_a_question() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_flaky"));
    let noted = room.deliver(&order.authorize()).await;
    assert_eq!(noted.expect("noted"), None);
    for _attempt in 0..2 {
        let reason = room.put_off_because().await;
        assert!(reason.contains("out of order"), "{reason}");
        // The provider may have done it: that is what the barrier's row remembers.
        assert_eq!(room.count("saga.barrier").await, 1);
        assert_eq!(room.count("payments.payment").await, 0);
        assert_eq!(room.count("outbox.log").await, 0);
        room.again().await;
    }
    assert_eq!(room.count("outbox.log").await, 1, "answered by itself");
    assert_eq!(room.answer(&order.authorize()).await.outcome, "succeeded");
    assert_eq!(room.balance(&order.held()).await, 2500);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_found_at_the_provider() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_lost_answer"));
    let noted = room.deliver(&order.authorize()).await;
    assert_eq!(noted.expect("noted"), None);
    assert!(room.put_off_because().await.contains("lost"));
    assert_eq!(known(&room, &order).await, Known::Approved);
    assert_eq!(room.count("payments.payment").await, 0);
    assert_eq!(room.answer(&order.authorize()).await.outcome, "succeeded");
    assert_eq!(room.balance(&order.held()).await, 2500);
    assert_eq!(room.answer(&order.release()).await.outcome, "compensated");
    assert_eq!(known(&room, &order).await, Known::Voided);
}

#[tokio::test]
async fn money_held_at_the_provider_alone_is_found_by_a_release_and_given_back() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_lost_answer"));
    let noted = room.deliver(&order.authorize()).await;
    assert_eq!(noted.expect("noted"), None);
    assert_eq!(room.answer(&order.release()).await.outcome, "compensated");
    assert_eq!(known(&room, &order).await, Known::Voided);
    assert_eq!(room.balance(&order.held()).await, 0);
    assert_eq!(room.answer(&order.authorize()).await.outcome, "succeeded");
    assert_eq!(room.balance(&order.held()).await, 0, "a repeated answer");
}

#[tokio::test]
async fn a_release_that_finds_nothing_at_the_provider_keeps_it_from_ever_holding_money() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_flaky"));
    let noted = room.deliver(&order.authorize()).await;
    assert_eq!(noted.expect("noted"), None);
    let answer = room.answer(&order.release()).await;
    assert_eq!(answer.outcome, "null_compensated");
    assert_eq!(known(&room, &order).await, Known::Voided);
    assert_eq!(room.answer(&order.authorize()).await.outcome, "tombstoned");
}

#[tokio::test]
async fn an_authorization_whose_answer_could_not_be_stored_is_not_made_again() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    room.die_after_asking(&order.authorize()).await;
    assert_eq!(known(&room, &order).await, Known::Approved);
    assert_eq!(room.count("payments.payment").await, 0);
    assert_eq!(room.answer(&order.probe()).await.outcome, "succeeded");
    assert_eq!(room.balance(&order.held()).await, 2500);
}

#[tokio::test]
async fn two_sagas_of_one_order_hold_money_once_at_the_provider_too() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    let other = Order {
        saga_id: uuid::Uuid::now_v7(),
        ..order.clone()
    };
    // Neither sees the other's payment before it asks the provider.
    room.die_after_asking(&other.authorize()).await;
    room.answer(&order.authorize()).await;
    let answer = room.answer(&other.authorize()).await;
    assert_eq!(answer.payload["code"], "paid_before");
    assert_eq!(known(&room, &other).await, Known::Voided);
    assert_eq!(known(&room, &order).await, Known::Approved);
    assert_eq!(room.balance(&order.held()).await, 2500);
}

async fn known(room: &Room, order: &Order) -> Known {
    let known = room.provider.lookup(order.authorization_key()).await;
    known.expect("the fake answers")
}

#[tokio::test]
async fn a_silent_gateway_leaves_nothing_and_its_compensation_finds_nothing() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_timeout"));
    for _attempt in 0..2 {
        assert_eq!(
            room.deliver(&order.authorize()).await.expect("no error"),
            None
        );
    }
    for table in [
        "saga.barrier",
        "payments.payment",
        "payments.entry",
        "outbox.log",
    ] {
        assert_eq!(room.count(table).await, 0, "{table}");
    }
    assert_eq!(
        room.answer(&order.release()).await.outcome,
        "null_compensated"
    );
    assert_eq!(room.answer(&order.authorize()).await.outcome, "tombstoned");
    assert_eq!(room.count("payments.payment").await, 0);
}

#[tokio::test]
async fn released_money_cannot_be_captured() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    room.answer(&order.authorize()).await;
    room.answer(&order.release()).await;
    let answer = room.answer(&order.capture()).await;
    assert_eq!(
        (answer.outcome.as_str(), &answer.payload["code"]),
        ("failed", &"released".into())
    );
    assert_eq!(room.balance("merchant").await, 0);
}

#[tokio::test]
async fn captured_money_is_never_released() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    room.answer(&order.authorize()).await;
    room.answer(&order.capture()).await;
    let noted = room.deliver(&order.release()).await;
    assert_eq!(noted.expect("noted"), None);
    let reason = room.put_off_because().await;
    assert!(reason.contains("is captured"), "{reason}");
    assert_eq!(known(&room, &order).await, Known::Approved, "not voided");
    assert_eq!(room.balance("merchant").await, 2500);
}

#[tokio::test]
async fn capturing_money_that_is_not_held_is_refused() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    let answer = room.answer(&order.capture()).await;
    assert_eq!(answer.payload["code"], "no_payment");
}

#[tokio::test]
async fn a_command_that_cannot_be_read_is_an_error_for_good() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    let mut command = order.authorize();
    command.payload = Some(br#"{"order_id":"4711"}"#.to_vec());
    let error = room.deliver(&command).await.expect_err("an error");
    assert!(!error.is_transient());
    assert!(!error.to_string().contains("4711"), "no payload in {error}");
}

#[tokio::test]
async fn the_database_refuses_a_ledger_transaction_that_does_not_sum_to_zero() {
    let (room, order) = (Room::open().await, Order::paid_with("pm_card_visa"));
    room.answer(&order.authorize()).await;
    for (statement, constraint) in [
        (
            "insert into payments.entry (transaction_id, line, payment_id, account, amount, currency)
             select gen_random_uuid(), 1, id, 'merchant', 1, 'EUR' from payments.payment",
            "entry_balanced",
        ),
        ("update payments.entry set amount = amount * 2", "entry_append_only"),
        ("delete from payments.entry", "entry_append_only"),
    ] {
        let error = sqlx::query(statement).execute(&room.pool).await;
        let error = error.expect_err("refused");
        let error = error.as_database_error().expect("by the database");
        assert_eq!(error.constraint(), Some(constraint));
    }
    assert_eq!(room.balance(&order.held()).await, 2500);
}
