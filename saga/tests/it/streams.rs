//! What happens to sagas, told while it happens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, BodyDataStream, to_bytes},
    http::{Request, Response, StatusCode, header},
};
use futures::{StreamExt, future::join_all};
use saga::{http::Streams, wire::Outcome};
use serde_json::Value;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use crate::support::*;

/// As often as the tests are patient.
const EVERY: Duration = Duration::from_millis(50);

struct House {
    pool: PgPool,
    /// How many statements the poller has sent: each borrows a connection of its pool.
    polled: Arc<AtomicUsize>,
    streams: Streams,
    router: Router,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

/// One event as a client sees it.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    name: String,
    id: String,
    data: Value,
}

/// A client.
struct Client {
    stream: BodyDataStream,
    text: String,
}

impl House {
    async fn open(name: &str) -> Self {
        Self::with(name, 2_000).await
    }

    async fn with(name: &str, clients: usize) -> Self {
        let pool = database(name).await;
        let polled = Arc::new(AtomicUsize::new(0));
        let counting = polled.clone();
        let own = PgPoolOptions::new().max_connections(1);
        let own = own.before_acquire(move |_, _| {
            counting.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(true) })
        });
        let own = own.connect_with(pool.connect_options().as_ref().clone());
        let streams = Streams::with(own.await.unwrap(), clients, EVERY);
        let sagas = saga::http::router(pool.clone(), coordinator(), streams.clone());
        let shutdown = CancellationToken::new();
        let house = Self {
            router: Router::new().nest("/v1", sagas.into()),
            running: tokio::spawn(streams.clone().run(shutdown.clone())),
            pool,
            polled,
            streams,
            shutdown,
        };
        tokio::task::yield_now().await;
        house
    }

    async fn ask(&self, uri: &str, last: Option<&str>) -> Response<Body> {
        let request = Request::get(uri).header(header::ACCEPT, "text/event-stream");
        let request = match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        };
        let request = request.body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn connect(&self, uri: &str, last: Option<&str>) -> Client {
        let response = self.ask(uri, last).await;
        assert_eq!(response.status(), StatusCode::OK, "{uri}");
        let kind = &response.headers()[header::CONTENT_TYPE];
        assert_eq!(kind, "text/event-stream");
        Client {
            stream: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    async fn problem(&self, uri: &str, last: Option<&str>) -> (u16, Value) {
        let response = self.ask(uri, last).await;
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 100_000).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn begin(&self) -> Uuid {
        start(&coordinator(), &self.pool, &Trip::default()).await.id
    }

    /// Its first step is refused: three events more, and it has ended.
    async fn refuse(&self, id: Uuid) {
        let commands = sent(&self.pool, "trip.commands").await;
        let command = commands
            .iter()
            .find(|command| command.key == id.to_string());
        let reply = answer(command.unwrap(), Outcome::Failed);
        deliver(&self.pool, &coordinator().replies(), &reply)
            .await
            .unwrap();
    }
}

impl Client {
    /// The next event; none when the stream has ended. Comments do not count as something.
    async fn next(&mut self) -> Option<Told> {
        let next = timeout(PATIENCE, self.event()).await;
        next.expect("something to happen")
    }

    async fn event(&mut self) -> Option<Told> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let told = Told::parse(block);
                self.text = rest.to_owned();
                match told {
                    Some(told) => return Some(told),
                    None => continue,
                }
            }
            let more = self.stream.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
    }

    async fn told(&mut self) -> Told {
        self.next().await.expect("an event")
    }

    async fn seqs(&mut self, count: usize) -> Vec<i64> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            let told = self.told().await;
            assert_eq!(told.name, "recorded");
            assert_eq!(told.id, told.data["seq"].to_string());
            seqs.push(told.data["seq"].as_i64().unwrap());
        }
        seqs
    }
}

impl Told {
    /// None for what is no event: a comment, the time to come back after.
    fn parse(block: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.map(|line| line.trim_start_matches(':').trim_start().to_owned())
        };
        Some(Self {
            name: field("event")?,
            id: field("id")?,
            data: serde_json::from_str(&field("data")?).unwrap(),
        })
    }
}

#[tokio::test]
async fn a_history_goes_on_live_and_is_taken_up_again_without_gap_or_repetition() {
    let house = House::open("live_history").await;
    let id = house.begin().await;
    let uri = format!("/v1/sagas/{id}/events");
    let mut client = house.connect(&uri, None).await;
    assert_eq!(client.seqs(2).await, [1, 2]);
    house.refuse(id).await;
    assert_eq!(client.seqs(2).await, [3, 4]);
    drop(client);

    let mut back = house.connect(&uri, Some("3")).await;
    assert_eq!(back.seqs(2).await, [4, 5]);
    let mut late = house.connect(&format!("{uri}?after=4"), None).await;
    assert_eq!(late.seqs(1).await, [5]);
    // What a stream tells is what a page tells.
    let page = house
        .router
        .clone()
        .oneshot(Request::get(&uri).body(Body::empty()).unwrap());
    let page = to_bytes(page.await.unwrap().into_body(), 100_000)
        .await
        .unwrap();
    let page: Value = serde_json::from_slice(&page).unwrap();
    let mut all = house.connect(&uri, None).await;
    for event in page["events"].as_array().unwrap() {
        assert_eq!(&all.told().await.data, event);
    }
}

#[tokio::test]
async fn the_list_says_reload_and_then_each_change_once() {
    let house = House::open("live_list").await;
    let before = house.begin().await;
    let mut client = house.connect("/v1/sagas/stream", None).await;
    assert_eq!(client.told().await.name, "reload");
    let id = house.begin().await;
    let told = client.told().await;
    assert_eq!(
        (told.name.as_str(), &told.data["id"]),
        ("saga", &id.to_string().into())
    );
    assert_eq!(told.data["status"], "running");
    let last = told.id;
    drop(client);

    house.refuse(before).await;
    let mut back = house.connect("/v1/sagas/stream", Some(&last)).await;
    let told = back.told().await;
    assert_eq!(
        told.data["id"],
        before.to_string(),
        "and not what was told before"
    );
    assert_eq!(told.data["status"], "compensated");
    house.refuse(id).await;
    let told = back.told().await;
    assert_eq!(
        (&told.data["id"], &told.data["seq"]),
        (&id.to_string().into(), &5.into())
    );

    let foreign = format!("{}-1", Uuid::now_v7().simple());
    let mut stranger = house.connect("/v1/sagas/stream", Some(&foreign)).await;
    assert_eq!(
        stranger.told().await.name,
        "reload",
        "another process gave that id"
    );
    let filtered = "/v1/sagas/stream?definition=other";
    let mut other = house.connect(filtered, Some(&last)).await;
    let mut all = house.connect("/v1/sagas/stream", Some(&last)).await;
    house.begin().await;
    assert_eq!(all.told().await.data["id"], before.to_string());
    assert!(
        timeout(EVERY * 4, other.next()).await.is_err(),
        "nothing of that definition"
    );
}

#[tokio::test]
async fn a_shutdown_ends_every_stream() {
    let house = House::open("live_shutdown").await;
    let id = house.begin().await;
    let mut history = house.connect(&format!("/v1/sagas/{id}/events"), None).await;
    let mut list = house.connect("/v1/sagas/stream", None).await;
    assert_eq!(history.seqs(2).await, [1, 2]);
    assert_eq!(list.told().await.name, "reload");
    house.shutdown.cancel();
    assert_eq!(history.next().await, None);
    assert_eq!(list.next().await, None);
    timeout(PATIENCE, house.running).await.unwrap().unwrap();
    assert_eq!(house.streams.open(), 0);
}

#[tokio::test]
async fn a_thousand_clients_are_served_by_one_poller() {
    let house = House::open("live_thousand").await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(house.begin().await);
    }
    let began = Instant::now();
    let mut watchers = Vec::new();
    for at in 0..900 {
        let uri = format!("/v1/sagas/{}/events", ids[at % ids.len()]);
        watchers.push(house.connect(&uri, None).await);
    }
    let mut followers = Vec::new();
    for _ in 0..100 {
        followers.push(house.connect("/v1/sagas/stream", None).await);
    }
    assert_eq!(house.streams.open(), 1_000);
    for told in join_all(watchers.iter_mut().map(|watcher| watcher.seqs(2))).await {
        assert_eq!(told, [1, 2]);
    }
    for told in join_all(followers.iter_mut().map(Client::told)).await {
        assert_eq!(told.name, "reload");
    }
    for id in &ids {
        house.refuse(*id).await;
    }
    for told in join_all(watchers.iter_mut().map(|watcher| watcher.seqs(3))).await {
        assert_eq!(told, [3, 4, 5]);
    }
    let ended = async |mut follower: Client| {
        let mut ended = 0;
        while ended < ids.len() {
            ended += usize::from(follower.told().await.data["status"] == "compensated");
        }
    };
    join_all(followers.into_iter().map(ended)).await;
    // Three statements in a look, and a look at most every 50 ms.
    let looks = usize::try_from(began.elapsed().as_millis() / 50).unwrap() + 2;
    let statements = house.polled.load(Ordering::Relaxed);
    assert!(statements >= 4, "{statements} were counted");
    assert!(
        statements <= 3 * looks,
        "{statements} statements in {looks} looks"
    );

    drop(watchers);
    assert_eq!(house.streams.open(), 0);
}

#[tokio::test]
async fn a_slow_client_delays_nobody_and_gets_everything() {
    let house = House::open("live_slow").await;
    let id = house.begin().await;
    let more = "insert into saga.event (saga_id, seq, kind, body)
                select $1, n, 'resumed', '{\"type\": \"resumed\"}' from generate_series(3, 1000) as n";
    sqlx::query(more)
        .bind(id)
        .execute(&house.pool)
        .await
        .unwrap();
    let uri = format!("/v1/sagas/{id}/events");
    let mut slow = house.connect(&uri, None).await;
    let mut quick = house.connect(&uri, None).await;
    let all: Vec<i64> = (1..=1000).collect();
    assert_eq!(quick.seqs(1000).await, all);
    assert_eq!(slow.seqs(1000).await, all);
}

#[tokio::test]
async fn who_is_gone_frees_a_place_and_who_finds_none_is_told_when_to_come() {
    let house = House::with("live_places", 2).await;
    let id = house.begin().await;
    let uri = format!("/v1/sagas/{id}/events");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = house.router.clone();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {uri} HTTP/1.1\r\nhost: test\r\naccept: text/event-stream\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("\"seq\":2") {
        let mut some = [0; 1024];
        let read = connection.read(&mut some).await.unwrap();
        text.push_str(std::str::from_utf8(&some[..read]).unwrap());
    }
    let _other = house.connect("/v1/sagas/stream", None).await;
    let response = house.ask(&uri, None).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    drop(connection);
    let freed = async || (house.streams.open() == 1).then_some(());
    testbed::until(PATIENCE, "the place is free", freed).await;
    house.connect(&uri, None).await;
    serving.abort();
}

#[tokio::test]
async fn a_wrong_wish_is_named() {
    let house = House::open("live_wrong").await;
    let id = house.begin().await;
    let uri = format!("/v1/sagas/{id}/events");
    for last in ["-1", "x", "1.5", "99999999999999999999"] {
        let (status, body) = house.problem(&uri, Some(last)).await;
        assert_eq!(
            (status, &body["errors"][0]["field"]),
            (400, &"Last-Event-ID".into())
        );
    }
    for last in ["1", "x-1", "-", "018f3b2e-6a5f-7c3d-9b1a-2f4e6d8c0a1b-1"] {
        let (status, body) = house.problem("/v1/sagas/stream", Some(last)).await;
        assert_eq!(
            (status, &body["errors"][0]["field"]),
            (400, &"Last-Event-ID".into())
        );
    }
    for (query, field) in [
        ("status=running", "status"),
        ("waiting_for=reply", "waiting_for"),
        ("stuck_for=10m", "stuck_for"),
        ("cursor=x", "cursor"),
        ("version=0", "version"),
    ] {
        let (status, body) = house
            .problem(&format!("/v1/sagas/stream?{query}"), None)
            .await;
        assert_eq!((status, &body["errors"][0]["field"]), (400, &field.into()));
    }
    let nobody = format!("/v1/sagas/{}/events", Uuid::now_v7());
    assert_eq!(house.problem(&nobody, None).await.0, 404);
    house.shutdown.cancel();
    house.running.await.unwrap();
    let idle = House {
        running: tokio::spawn(async {}),
        shutdown: CancellationToken::new(),
        ..house
    };
    assert_eq!(
        idle.problem(&uri, None).await.0,
        503,
        "nobody serves streams"
    );
}
