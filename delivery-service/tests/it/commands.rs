//! What sagas ask.

use std::sync::Arc;
use std::time::Duration;

use crate::room::{Order, Room};

#[tokio::test]
async fn a_delivery_takes_a_place_tomorrow_and_the_carrier_gets_the_parcel() {
    let (room, order) = (Room::open().await, Order::to("10115"));

    let scheduled = room.answer(&order.schedule()).await;
    assert_eq!(scheduled.outcome, "succeeded");
    assert_eq!(scheduled.payload["day"], room.day(1).await.as_str());

    let handed_over = room.answer(&order.hand_over(1)).await;
    assert_eq!(handed_over.outcome, "succeeded");
    assert!(
        handed_over.payload["tracking"]
            .as_str()
            .is_some_and(|t| t.starts_with("RC-"))
    );
    let delivery = room.delivery(&order).await;
    assert_eq!(delivery["status"], "handed_over");
    assert_eq!(delivery["tracking"], handed_over.payload["tracking"]);
}

#[tokio::test]
async fn an_unserved_postcode_is_refused_and_leaves_nothing() {
    let (room, order) = (Room::open().await, Order::to("00000"));
    let answer = room.answer(&order.schedule()).await;
    assert_eq!(answer.outcome, "failed");
    assert_eq!(answer.payload["code"], "not_served");
    assert_eq!(
        answer.payload["message"],
        "We do not deliver to this postcode."
    );
    assert_eq!(room.count("deliveries.delivery").await, 0);
    assert_eq!(room.taken().await, 0);
    assert_eq!(
        room.answer(&order.cancel()).await.outcome,
        "null_compensated"
    );
}

#[tokio::test]
async fn a_full_day_sends_the_next_parcel_to_the_day_after() {
    let room = Room::open().await;
    room.capacity(1).await;
    for ahead in [1, 2, 3] {
        let answer = room.answer(&Order::to("10115").schedule()).await;
        assert_eq!(answer.payload["day"], room.day(ahead).await.as_str());
    }
}

#[tokio::test]
async fn two_weeks_without_room_are_a_refusal() {
    let room = Room::open().await;
    room.capacity(1).await;
    for _day in 0..14 {
        assert_eq!(
            room.answer(&Order::to("10115").schedule()).await.outcome,
            "succeeded"
        );
    }
    let answer = room.answer(&Order::to("10115").schedule()).await;
    assert_eq!(answer.payload["code"], "no_capacity");
    assert_eq!(room.count("deliveries.delivery").await, 14);
}

#[tokio::test]
async fn many_at_once_never_take_more_places_than_there_are() {
    let room = Arc::new(Room::open().await);
    room.capacity(1).await;
    let deliveries: Vec<_> = (0..20)
        .map(|_| {
            let room = room.clone();
            tokio::spawn(async move { room.deliver(&Order::to("10115").schedule()).await })
        })
        .collect();
    for delivery in deliveries {
        delivery.await.expect("no panic").expect("no error");
    }
    assert_eq!(room.taken().await, 14);
    assert_eq!(room.count("deliveries.delivery").await, 14);
    assert_eq!(room.count("saga.barrier where outcome = 'failed'").await, 6);
}

#[tokio::test]
async fn a_cancelled_delivery_gives_its_place_back() {
    let (room, order) = (Room::open().await, Order::to("10115"));
    room.answer(&order.schedule()).await;
    assert_eq!(room.taken().await, 1);

    assert_eq!(room.answer(&order.cancel()).await.outcome, "compensated");
    assert_eq!(room.answer(&order.cancel()).await.outcome, "compensated");

    assert_eq!(room.taken().await, 0);
    assert_eq!(room.delivery(&order).await["status"], "cancelled");
    let answer = room.answer(&order.hand_over(1)).await;
    assert_eq!(answer.payload["code"], "cancelled");
}

#[tokio::test]
async fn a_command_that_comes_twice_takes_one_place() {
    let (room, order) = (Room::open().await, Order::to("10115"));
    let first = room.answer(&order.schedule()).await;
    assert_eq!(first, room.answer(&order.schedule()).await);
    assert_eq!(room.taken().await, 1);
}

#[tokio::test]
async fn a_carrier_that_refuses_twice_takes_the_parcel_in_the_third_round() {
    let (room, order) = (Room::open().await, Order::to("99999"));
    assert_eq!(room.answer(&order.schedule()).await.outcome, "succeeded");
    for round in [1, 2] {
        let answer = room.answer(&order.hand_over(round)).await;
        assert_eq!(answer.outcome, "failed");
        // The same round again is the same operation: the carrier is not asked.
        assert_eq!(answer, room.answer(&order.hand_over(round)).await);
        assert_eq!(room.delivery(&order).await["status"], "scheduled");
    }
    assert_eq!(room.answer(&order.hand_over(3)).await.outcome, "succeeded");
    assert_eq!(room.delivery(&order).await["status"], "handed_over");
}

#[tokio::test]
async fn a_parcel_with_the_carrier_cannot_be_cancelled() {
    let (room, order) = (Room::open().await, Order::to("10115"));
    room.answer(&order.schedule()).await;
    room.answer(&order.hand_over(1)).await;
    let error = room.deliver(&order.cancel()).await.expect_err("an error");
    assert!(!error.is_transient(), "{error}");
    assert_eq!(room.delivery(&order).await["status"], "handed_over");
}

#[tokio::test]
async fn handing_over_what_is_not_scheduled_is_refused() {
    let room = Room::open().await;
    let answer = room.answer(&Order::to("10115").hand_over(1)).await;
    assert_eq!(answer.payload["code"], "no_delivery");
}

#[tokio::test]
async fn batches_that_need_the_same_days_in_opposite_order_do_not_deadlock() {
    let room = Arc::new(Room::open().await);
    room.capacity(2).await;
    let orders = [(); 4].map(|()| Order::to("10115"));
    for order in &orders {
        room.answer(&order.schedule()).await;
    }
    // Two on the first day, two on the second.
    let [first, also_first, second, also_second] = orders;
    // Each batch would have one day and wait here before it wants the other one's.
    let mut between = room.pool.begin().await.expect("a transaction");
    sqlx::query("select from deliveries.delivery where order_id in ($1, $2) for update")
        .bind(second.order_id)
        .bind(also_first.order_id)
        .execute(&mut *between)
        .await
        .expect("a lock");
    let batches = [
        [first.cancel(), second.cancel()],
        [also_second.cancel(), also_first.cancel()],
    ];
    let batches = batches.map(|batch| {
        let room = room.clone();
        tokio::spawn(async move { room.deliver_all(&batch).await })
    });
    testbed::until(Duration::from_secs(30), "two batches that wait", || async {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&room.pool)
        .await
        .expect("a count");
        (waiting == 2).then_some(())
    })
    .await;
    between.commit().await.expect("let go");
    for batch in batches {
        batch.await.expect("no panic").expect("no deadlock");
    }
    assert_eq!(room.taken().await, 0);
}
