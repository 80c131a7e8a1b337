//! Least privilege: each role does its whole work, and nothing else.

use std::sync::Arc;

use outbox::{Consumer, Error, Handler, Message, Received, Relay, broker::Topic, operator::rebase};
use sqlx::{
    AssertSqlSafe, PgPool, PgTransaction,
    migrate::Migrate,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{Counted, Running, SOON, World};

/// Roles belong to the whole server: every test has its own.
struct Roles {
    world: World,
    prefix: String,
}

impl Roles {
    async fn make(name: &str) -> Self {
        let world = World::embedded(name).await;
        let prefix = prefix();
        // Twice, as after a migration.
        for _ in 0..2 {
            outbox::make_roles(&world.pool, &prefix).await.unwrap();
        }
        Self { world, prefix }
    }

    /// To connect as a user who is a member of this role and nothing more.
    async fn login(&self, role: &str) -> PgConnectOptions {
        let user = format!("{}_{role}_user", self.prefix);
        let sql = format!(
            "create role {user} login password 'secret' in role {}_{role}",
            self.prefix
        );
        execute(&self.world.pool, sql).await;
        let options = self.world.database.options().unwrap();
        options.username(&user).password("secret")
    }

    async fn pool(&self, role: &str) -> PgPool {
        pool(self.login(role).await)
    }

    /// Each of these statements is refused for lack of privilege, and for nothing else.
    async fn assert_refused(&self, pool: &PgPool, statements: &[&str]) {
        // Something to find, so that a statement that is let through has something to do.
        let parked = "insert into outbox.parked (seq, message_id, topic, key, kind, created_at, class, reason)
                      values (-1, gen_random_uuid(), 't', 'k', 'kind', now(), 'held', '')
                      on conflict do nothing";
        execute(&self.world.pool, parked.to_owned()).await;
        for statement in statements {
            let mut tx = pool.begin().await.unwrap();
            let sql = AssertSqlSafe((*statement).to_owned());
            let Err(error) = sqlx::raw_sql(sql).execute(&mut *tx).await else {
                panic!("was let through: {statement}");
            };
            let code = error.as_database_error().and_then(|error| error.code());
            assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
            tx.rollback().await.unwrap();
        }
    }

    /// What a program does first: it looks whether the schema is up to date.
    async fn assert_sees_the_version(&self, pool: &PgPool) {
        let mut connection = pool.acquire().await.unwrap();
        let applied = connection
            .list_applied_migrations(&outbox::MIGRATOR.table_name)
            .await
            .unwrap();
        assert_eq!(applied.len(), outbox::MIGRATOR.iter().count());
    }
}

fn prefix() -> String {
    // Names of roles end at 63 bytes.
    format!("t{}", Uuid::now_v7().simple())
}

fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(5)
        .connect_lazy_with(options)
}

async fn execute(pool: &PgPool, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(pool)
        .await
        .unwrap();
}

/// Nobody but the owner changes the schema or gives rights away.
const OWNERS_ALONE: [&str; 10] = [
    "drop table outbox.log",
    "alter table outbox.log_0 add column more text",
    "create table outbox.more (n int)",
    "drop function outbox.uuid_v7()",
    "alter table outbox.relay owner to current_user",
    "select outbox.make_roles('some')",
    "update outbox.audit set actor = 'somebody else'",
    "delete from outbox.audit",
    "truncate outbox.audit",
    "insert into outbox._sqlx_migrations select * from outbox._sqlx_migrations",
];

#[tokio::test]
async fn a_producer_enqueues_and_declares_and_reads_no_message() {
    let roles = Roles::make("producer").await;
    let pool = roles.pool("producer").await;
    roles.assert_sees_the_version(&pool).await;
    let topics = [Topic::new(roles.world.topic.clone(), 4)];
    for _ in 0..2 {
        outbox::declare(&pool, &*roles.world.broker, &topics)
            .await
            .unwrap();
    }
    outbox::outgoing::lease(&pool).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    outbox::lock_key(&mut tx, "k").await.unwrap();
    outbox::enqueue(&mut tx, &roles.world.message("k", 1))
        .await
        .unwrap();
    let more = [roles.world.message("k", 2), roles.world.message("k", 3)];
    outbox::enqueue_all(&mut tx, &more).await.unwrap();
    for function in [
        "enqueue('t', 'k', 'k', '')",
        "enqueue_json('t', 'k', 'k', '{}')",
    ] {
        let sql = AssertSqlSafe(format!("select outbox.{function}"));
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    let large = Message::raw("t", "k", "kind", vec![0; 2 << 20]);
    let refused = outbox::enqueue(&mut tx, &large).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    tx.commit().await.unwrap();
    let rows = roles.world.count("select count(*) from outbox.log").await;
    assert_eq!(rows, 5);

    roles.assert_refused(&pool, &OWNERS_ALONE).await;
    roles
        .assert_refused(
            &pool,
            &[
                "select * from outbox.log",
                "select payload from outbox.log_0",
                "truncate outbox.log",
                "truncate outbox.log_0",
                "insert into outbox.log_0 select * from outbox.log_0",
                "select nextval('outbox.log_seq'), setval('outbox.log_seq', 1)",
                "update outbox.relay set last_seq = 0",
                "delete from outbox.topic",
                "select * from outbox.parked",
                "delete from outbox.parked",
                "insert into outbox.blocked_key values ('t', 'k')",
                "select * from outbox.inbox",
                "insert into outbox.inbox values (1, gen_random_uuid())",
                "insert into outbox.consumer (name) values ('c')",
                "select * from outbox.inbox_parked",
                "select * from outbox.inbox_blocked",
                "select outbox.analyze_log(0)",
                "select outbox.forget_audit('1 day')",
            ],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_relays_parks_and_empties_and_enqueues_nothing() {
    let roles = Roles::make("relay").await;
    let world = &roles.world;
    let options = roles.login("relay").await;
    let pool = pool(options.clone());
    roles.assert_sees_the_version(&pool).await;

    // A message to a topic that is missing is parked; the rest are sent.
    let missing = format!("missing.{}", Uuid::now_v7().simple());
    let lost = Message::new(&missing, "k", &Counted { n: 0 }).unwrap();
    world.send(&[lost, world.message("k", 1)]).await;
    let relay = Running::start(Relay::new(
        options,
        Arc::clone(&world.broker),
        Default::default(),
    ));
    let mut oracle = world.oracle();
    oracle.wait_for(1).await;
    let parked = async || world.count("select count(*) from outbox.parked").await;
    testbed::until(SOON, "the message is held", async || {
        (parked().await == 1).then_some(())
    })
    .await;
    let topic = Topic::new(missing, 1);
    world.broker.ensure_topics(&[topic]).await.unwrap();
    testbed::until(SOON, "the held message is sent", async || {
        (parked().await == 0).then_some(())
    })
    .await;
    // The writers jump on, until the first partition is ahead of them.
    for turn in 1..=3 {
        let jump = format!("select setval('outbox.log_seq', {turn} * (1 << 20) + 1, false)");
        execute(&world.pool, jump).await;
        world.send(&[world.message("k", 1 + turn)]).await;
    }
    oracle.wait_for(4).await;
    testbed::until(SOON, "the partition ahead is emptied", async || {
        let rows = world.count("select count(*) from outbox.log_0").await;
        (rows == 0).then_some(())
    })
    .await;
    relay.stop().await;
    let mut session = pool.acquire().await.unwrap();
    outbox::outgoing::refresh_limits(&mut session, &*world.broker)
        .await
        .unwrap();
    execute(
        &world.pool,
        "insert into outbox.topic values ('t', 1)".to_owned(),
    )
    .await;
    outbox::outgoing::refresh_limits(&mut session, &*world.broker)
        .await
        .unwrap();
    let limit = "select max_bytes::bigint from outbox.topic where name = 't'";
    assert_ne!(world.count(limit).await, 1, "refreshed");
    drop(session);

    roles.assert_refused(&pool, &OWNERS_ALONE).await;
    roles
        .assert_refused(
            &pool,
            &[
                "select outbox.enqueue('t', 'k', 'kind', '')",
                "insert into outbox.log (message_id, topic, key, kind)
                 values (gen_random_uuid(), 't', 'k', 'kind')",
                "select nextval('outbox.log_seq')",
                "select setval('outbox.log_seq', 1)",
                "truncate outbox.log",
                "truncate outbox.parked",
                "insert into outbox.relay (system_identifier) values (1)",
                "delete from outbox.relay",
                "insert into outbox.topic values ('another')",
                "delete from outbox.topic",
                "select * from outbox.inbox",
                "insert into outbox.inbox values (1, gen_random_uuid())",
                "insert into outbox.consumer (name) values ('c')",
                "select * from outbox.inbox_parked",
                "delete from outbox.inbox_blocked",
                "select * from outbox.audit",
                "select outbox.forget_audit('1 day')",
                "select * from effect",
            ],
        )
        .await;
}

/// An effect for each number but the first, which is refused.
#[derive(Clone)]
struct Effects;

impl Handler for Effects {
    async fn handle(&self, tx: &mut PgTransaction<'_>, message: &Received) -> Result<(), Error> {
        let Counted { n } = message.decode()?;
        if n == 0 {
            return Err(Error::permanent("scripted"));
        }
        sqlx::query("insert into effect values ($1)")
            .bind(n)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_handles_and_parks_and_does_not_see_the_log() {
    let roles = Roles::make("consumer").await;
    let world = &roles.world;
    let pool = roles.pool("consumer").await;
    roles.assert_sees_the_version(&pool).await;
    // The handler's own table is the service's affair.
    let grant = format!("grant insert on effect to {}_consumer", roles.prefix);
    execute(&world.pool, grant).await;
    let topics = [Topic::new(world.topic.clone(), 4)];
    outbox::declare(&pool, &*world.broker, &topics)
        .await
        .unwrap();
    outbox::outgoing::lease(&pool).await.unwrap();

    let relay = world.relay(Default::default());
    for n in 0..3 {
        world.send(&[world.message(&format!("k{n}"), n)]).await;
    }
    let consumer = Consumer::new(
        "reader",
        &[&world.topic],
        pool.clone(),
        Arc::clone(&world.broker),
        Effects,
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let task = tokio::spawn(async move { consumer.run(token).await });
    testbed::until(SOON, "two effects and one parked", async || {
        let effects = world.count("select count(*) from effect").await;
        let parked = "select count(*) from outbox.inbox_parked where class = 'refused'";
        let parked = world.count(parked).await;
        ((effects, parked) == (2, 1)).then_some(())
    })
    .await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
    relay.stop().await;

    roles.assert_refused(&pool, &OWNERS_ALONE).await;
    roles
        .assert_refused(
            &pool,
            &[
                "select * from outbox.log",
                "select outbox.enqueue('t', 'k', 'kind', '')",
                "insert into outbox.log (message_id, topic, key, kind)
                 values (gen_random_uuid(), 't', 'k', 'kind')",
                "select nextval('outbox.log_seq')",
                "select * from outbox.parked",
                "update outbox.relay set last_seq = 0",
                "delete from outbox.topic",
                "delete from outbox.inbox",
                "delete from outbox.consumer",
                "truncate outbox.inbox",
                "drop table outbox.inbox_other",
                "truncate outbox.inbox_parked",
                "select * from outbox.blocked_key",
                "select outbox.analyze_log(0)",
            ],
        )
        .await;
}

#[tokio::test]
async fn a_reader_reads_everything_but_what_messages_say() {
    let roles = Roles::make("reader").await;
    let pool = roles.pool("reader").await;
    roles.assert_sees_the_version(&pool).await;
    for statement in [
        "select xid, seq, message_id, topic, key, kind, traceparent, created_at from outbox.log",
        "select seq, topic, key, class, reason, attempts, replay_at from outbox.parked",
        "select id, consumer, topic, key, class, reason from outbox.inbox_parked",
        "select * from outbox.relay, outbox.topic, outbox.blocked_key",
        "select * from outbox.inbox, outbox.inbox_blocked",
        "select last_value from outbox.log_seq",
        "select pg_relation_size('outbox.log_0')",
        "select count(*) from outbox.log",
    ] {
        let rows = sqlx::raw_sql(statement).fetch_all(&pool).await;
        rows.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    roles.assert_refused(&pool, &OWNERS_ALONE).await;
    roles
        .assert_refused(
            &pool,
            &[
                "select payload from outbox.log",
                "select headers from outbox.log",
                "select * from outbox.log",
                "select log from outbox.log",
                "select payload from outbox.log_0",
                "select count(payload) from outbox.log",
                "select octet_length(payload) from outbox.parked",
                "select headers from outbox.parked",
                "select payload from outbox.inbox_parked",
                "select headers from outbox.inbox_parked",
                "copy outbox.log (payload) to stdout",
                "select outbox.enqueue('t', 'k', 'kind', '')",
                "insert into outbox.log (message_id, topic, key, kind)
                 values (gen_random_uuid(), 't', 'k', 'kind')",
                "select nextval('outbox.log_seq')",
                "truncate outbox.log_0",
                "update outbox.relay set last_seq = 0",
                "update outbox.parked set replay_at = now(), replay_by = 'me'",
                "delete from outbox.parked",
                "insert into outbox.topic values ('t')",
                "insert into outbox.inbox values (1, gen_random_uuid())",
                "insert into outbox.consumer (name) values ('c')",
                "delete from outbox.inbox_parked",
                "select * from outbox.log for update",
                "select outbox.analyze_log(0)",
            ],
        )
        .await;
}

#[tokio::test]
async fn an_owner_runs_the_migrations_from_nothing_and_makes_the_roles_again() {
    let roles = Roles::make("owner").await;
    let pool = roles.pool("owner").await;
    execute(&pool, "drop schema outbox cascade".to_owned()).await;
    for _ in 0..2 {
        outbox::migrate(&pool).await.unwrap();
        // The roles are there already; a member of the owner may not make any.
        outbox::make_roles(&pool, &roles.prefix).await.unwrap();
    }
    let mut tx = pool.begin().await.unwrap();
    outbox::enqueue(&mut tx, &roles.world.message("k", 1))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    // What one member of the owner made another one may change.
    let owners: Vec<String> = sqlx::query_scalar(
        "select distinct relowner::regrole::text from pg_class
         where relnamespace = 'outbox'::regnamespace
         union select proowner::regrole::text from pg_proc
         where pronamespace = 'outbox'::regnamespace
         union select nspowner::regrole::text from pg_namespace where nspname = 'outbox'",
    )
    .fetch_all(&roles.world.pool)
    .await
    .unwrap();
    assert_eq!(owners, [format!("{}_owner", roles.prefix)]);
    roles
        .assert_refused(
            &pool,
            &[
                "select * from effect",
                "create role another",
                "select outbox.make_roles('some')",
            ],
        )
        .await;
}

#[tokio::test]
async fn an_owner_rebases_and_nobody_else() {
    let roles = Roles::make("rebaser").await;
    let world = &roles.world;
    world.send(&[world.message("k", 1)]).await;
    let foreign = "update outbox.relay set system_identifier = 1";
    execute(&world.pool, foreign.to_owned()).await;
    let patience = rebase::PATIENCE;
    for role in ["relay", "producer", "consumer", "reader"] {
        let pool = roles.pool(role).await;
        for refused in [
            rebase::plan(&pool).await.map(drop),
            rebase::rebase(&pool, patience, "ann").await.map(drop),
            rebase::check_same_xids(&pool).await,
            rebase::accept_same_xids(&pool, patience, "ann")
                .await
                .map(drop),
        ] {
            let error = refused.unwrap_err();
            let why = format!("is not a member of {}_owner", roles.prefix);
            assert!(error.to_string().contains(&why), "{role}: {error}");
        }
    }
    let pool = roles.pool("owner").await;
    // Which everybody may, unless somebody has taken it away.
    let name = &world.database.name;
    execute(
        &world.pool,
        format!("revoke temporary on database {name} from public"),
    )
    .await;
    let error = rebase::rebase(&pool, patience, "ann").await.unwrap_err();
    assert!(error.to_string().contains("grant temporary"), "{error}");
    let grant = format!(
        "grant temporary on database {name} to {}_owner",
        roles.prefix
    );
    execute(&world.pool, grant).await;
    assert_eq!(rebase::plan(&pool).await.unwrap().messages, 1);
    let done = rebase::rebase(&pool, patience, "ann").await.unwrap();
    assert_eq!(done.messages, 1);
    execute(&world.pool, foreign.to_owned()).await;
    rebase::check_same_xids(&pool).await.unwrap();
    rebase::accept_same_xids(&pool, patience, "ann")
        .await
        .unwrap();
}

#[tokio::test]
async fn roles_are_made_without_a_superuser_by_who_owns_the_schema_and_may_create_roles() {
    let world = World::embedded("admin").await;
    let prefix = prefix();
    let admin = format!("{prefix}_admin");
    let sql = format!(
        "drop schema outbox cascade;
         create role {admin} login createrole password 'secret';
         alter database {} owner to {admin}",
        world.database.name
    );
    execute(&world.pool, sql).await;
    let options = world.database.options().unwrap();
    let pool = pool(options.username(&admin).password("secret"));
    outbox::migrate(&pool).await.unwrap();
    outbox::make_roles(&pool, &prefix).await.unwrap();
    outbox::make_roles(&pool, &prefix).await.unwrap();
    let roles = Roles { world, prefix };
    let producer = roles.pool("producer").await;
    let mut tx = producer.begin().await.unwrap();
    outbox::enqueue(&mut tx, &roles.world.message("k", 1))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let read = ["select payload from outbox.log"];
    roles.assert_refused(&producer, &read).await;

    for bad in ["", "Upper", "1st", "a-b", "a b", &"x".repeat(51)] {
        let error = outbox::make_roles(&pool, bad).await.unwrap_err();
        assert!(error.to_string().contains("prefix"), "{bad}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_writes_the_columns_that_enqueue_writes_and_no_others() {
    let roles = Roles::make("columns").await;
    let producer = roles.pool("producer").await;
    let mut tx = producer.begin().await.unwrap();
    let message = roles.world.message("k", 1);
    outbox::enqueue(&mut tx, &message).await.unwrap();
    tx.commit().await.unwrap();
    roles
        .assert_refused(
            &producer,
            &[
                "insert into outbox.log (message_id, topic, key, kind, xid)
                 values (gen_random_uuid(), 't', 'k', 'kind', pg_current_xact_id())",
                "insert into outbox.log (message_id, topic, key, kind, seq)
                 values (gen_random_uuid(), 't', 'k', 'kind', 1)",
                "insert into outbox.log (message_id, topic, key, kind, created_at)
                 values (gen_random_uuid(), 't', 'k', 'kind', now())",
            ],
        )
        .await;
}
