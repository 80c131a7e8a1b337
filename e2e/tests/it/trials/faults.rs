//! What strikes the shop. Each fault waits until there is something to hurt, and proves that it struck.

use std::time::Duration;

use sqlx::PgConnection;
use testbed::{Process, Shop, shop::Department, signal, trials::Random, until};

use super::room::Room;
use crate::shop::{Client, HEALED, SOON, database};

/// Longer than a consumer may be silent before its partitions go to another.
const FROZEN: Duration = Duration::from_secs(9);

/// One thing that goes wrong, and is put right again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    KillOrderService,
    KillSecondOrderService,
    KillPaymentService,
    KillDeliveryService,
    KillOrdersRelay,
    KillPaymentsRelay,
    KillDeliveriesRelay,
    FreezeOrderService,
    FreezePaymentService,
    EndSessions,
    KillPostgres,
    StopPostgres,
    FreezeKafka,
    KillKafka,
}

impl Fault {
    pub(crate) const ALL: [Self; 14] = [
        Self::KillOrderService,
        Self::KillSecondOrderService,
        Self::KillPaymentService,
        Self::KillDeliveryService,
        Self::KillOrdersRelay,
        Self::KillPaymentsRelay,
        Self::KillDeliveriesRelay,
        Self::FreezeOrderService,
        Self::FreezePaymentService,
        Self::EndSessions,
        Self::KillPostgres,
        Self::StopPostgres,
        Self::FreezeKafka,
        Self::KillKafka,
    ];

    /// So many faults, each sort before any comes again. The first is one that clients meet.
    pub(crate) fn some(random: &mut Random, many: usize) -> Vec<Self> {
        let mut faults = vec![Self::KillOrderService];
        while faults.len() < many {
            let mut sorts = Self::ALL.to_vec();
            while !sorts.is_empty() {
                let drawn = random.within(0..sorts.len() as u64);
                faults.push(sorts.swap_remove(usize::try_from(drawn).expect("a few")));
            }
        }
        faults.truncate(many);
        faults
    }

    /// Strikes, and is put right. How long after that a saga moved.
    pub(crate) async fn strike(self, room: &mut Room, random: &mut Random) -> Duration {
        println!("{self:?}");
        room.is_busy().await;
        let away = Duration::from_millis(random.within(0..3_000));
        match self {
            Self::KillSecondOrderService => kill(&mut room.second, away).await,
            Self::KillOrderService => kill(&mut room.shop.orders.service, away).await,
            Self::KillPaymentService => kill(&mut room.shop.payments.service, away).await,
            Self::KillDeliveryService => kill(&mut room.shop.deliveries.service, away).await,
            Self::KillOrdersRelay => kill(&mut room.shop.orders.relay, away).await,
            Self::KillPaymentsRelay => kill(&mut room.shop.payments.relay, away).await,
            Self::KillDeliveriesRelay => kill(&mut room.shop.deliveries.relay, away).await,
            Self::FreezeOrderService => freeze(&room.shop.orders, away).await,
            Self::FreezePaymentService => freeze(&room.shop.payments, away).await,
            Self::EndSessions => end_sessions(&room.shop, random).await,
            Self::KillPostgres => {
                room.postgres.kill().expect("the server is killed");
                restart(room, away).await;
            }
            Self::StopPostgres => {
                room.postgres.stop().await.expect("the server stops");
                restart(room, away).await;
            }
            Self::FreezeKafka => {
                room.kafka.suspend().expect("the broker is held");
                let client = Client::of(&room.shop);
                let ready = format!("{}/readyz", room.shop.orders.relay_url);
                until(HEALED, "a relay to miss the broker", async || {
                    (!client.get(&ready).await.status().is_success()).then_some(())
                })
                .await;
                tokio::time::sleep(away).await;
                room.kafka.resume().expect("the broker goes on");
            }
            Self::KillKafka => {
                let pid = room.kafka.pid();
                room.kafka.kill().expect("the broker is killed");
                tokio::time::sleep(away).await;
                room.kafka.restart().await.expect("the broker starts again");
                assert_ne!(room.kafka.pid(), pid);
            }
        }
        room.moves_again().await
    }
}

// How long something is away is part of the fault: these are no waits for a condition.

async fn kill(process: &mut Process, away: Duration) {
    let pid = process.pid().expect("it runs");
    process.kill().expect("it is killed");
    assert!(!process.is_running());
    tokio::time::sleep(away).await;
    process.start().expect("it starts again");
    assert_ne!(process.pid(), Some(pid));
}

async fn freeze(department: &Department, away: Duration) {
    let pid = department.service.pid().expect("it runs");
    signal(pid, "STOP").expect("it is stopped");
    let alive = format!("{}/healthz", department.service_url);
    let asked = testbed::http(Duration::from_secs(1))
        .get(alive)
        .send()
        .await;
    assert!(asked.is_err(), "it answers although it is stopped");
    tokio::time::sleep(FROZEN + away).await;
    signal(pid, "CONT").expect("it goes on");
}

async fn end_sessions(shop: &Shop, random: &mut Random) {
    let mut ended = 0;
    for _ in 0..random.within(5..20) {
        for department in [&shop.orders, &shop.payments, &shop.deliveries] {
            ended += end_sessions_of(&mut database(department).await).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(ended > 10, "{ended} sessions were ended");
}

async fn end_sessions_of(database: &mut PgConnection) -> i64 {
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    let ended = sqlx::query_scalar(end).fetch_one(database).await;
    ended.expect("sessions end")
}

async fn restart(room: &mut Room, away: Duration) {
    assert_eq!(
        room.under_way().await,
        None,
        "the server answers although it is away"
    );
    tokio::time::sleep(away).await;
    room.postgres
        .restart()
        .await
        .expect("the server starts again");
    until(SOON, "the server to answer", async || {
        room.under_way().await
    })
    .await;
}
