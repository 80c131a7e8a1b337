//! A service with sagas and an outbox: its routes on a real database.

use std::{net::SocketAddr, time::Duration};

use outbox::Payload;
use saga::{Coordinator, Definition, Step, http::Streams};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, process::Command, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::room::{Ran, Room, SOON, command, recompense};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hold {}
impl Payload for Hold {
    const KIND: &'static str = "trip.hold.v1";
}
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {}
impl Payload for Held {
    const KIND: &'static str = "trip.held.v1";
}
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Release {}
impl Payload for Release {
    const KIND: &'static str = "trip.release.v1";
}

pub(crate) struct Service {
    pub(crate) room: Room,
    pub(crate) url: String,
    pub(crate) coordinator: Coordinator,
    address: SocketAddr,
    serving: Option<Serving>,
}

/// Ended by whoever drops it, with all its connections.
struct Serving {
    routes: JoinHandle<()>,
    streams: CancellationToken,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.streams.cancel();
        self.routes.abort();
    }
}

impl Service {
    pub(crate) async fn open(name: &str) -> Self {
        let room = Room::new(name).await;
        saga::migrate(&room.pool).await.unwrap();
        let hold = Step::new("hold")
            .command("trip.commands", |_: &Value| Hold {})
            .reply(|_: &mut Value, _: Held| {})
            .timeout(Duration::from_secs(3600))
            .compensation(|_: &Value| Release {});
        let definition = Definition::<Value>::builder("trip", 1).compensatable(hold);
        let coordinator = Coordinator::builder("replies")
            .define(definition.build().unwrap())
            .unwrap()
            .build();
        coordinator.register(&room.pool).await.unwrap();
        let mut service = Self {
            room,
            url: String::new(),
            coordinator,
            address: "127.0.0.1:0".parse().unwrap(),
            serving: None,
        };
        service.come().await;
        service
    }

    /// Answers from now on, where it answered before.
    pub(crate) async fn come(&mut self) {
        let pool = self.room.pool.clone();
        let streams = Streams::new(pool.clone());
        let sagas = saga::http::router(pool.clone(), self.coordinator.clone(), streams.clone());
        let routes = sagas.merge(outbox::http::router(pool));
        let routes = axum::Router::new().nest("/v1", routes.into());
        // The port was ours a moment ago.
        let listener = testbed::until(SOON, "the port", async || {
            TcpListener::bind(self.address).await.ok()
        });
        let listener = listener.await;
        self.address = listener.local_addr().unwrap();
        self.url = format!("http://{}", self.address);
        let ended = CancellationToken::new();
        tokio::spawn(streams.run(ended.clone()));
        let shutdown = ended.clone();
        let routes = tokio::spawn(async move {
            let serving = axum::serve(listener, routes);
            let serving = serving.with_graceful_shutdown(async move { shutdown.cancelled().await });
            serving.await.unwrap();
        });
        self.serving = Some(Serving {
            routes,
            streams: ended,
        });
    }

    /// Answers nobody any more, and ends what streams.
    pub(crate) async fn go(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.streams.cancel();
        drop(serving);
        testbed::until(SOON, "it is away", async || {
            let answer = tokio::net::TcpStream::connect(self.address).await;
            answer.is_err().then_some(())
        })
        .await;
    }

    /// While it is away somebody asks, and gets no answer.
    pub(crate) async fn is_asked_in_vain(&self) {
        let listener = testbed::until(SOON, "the port", async || {
            TcpListener::bind(self.address).await.ok()
        });
        let listener = listener.await;
        let asked = tokio::time::timeout(SOON, listener.accept()).await;
        asked.expect("somebody asks").unwrap();
    }

    pub(crate) async fn start(&self) -> Uuid {
        let (id, data) = (Uuid::now_v7(), json!({}));
        let key = id.to_string();
        let mut tx = self.room.pool.begin().await.unwrap();
        let started = self.coordinator.start(&mut tx, id, "trip", &key, &data);
        started.await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) async fn status(&self, id: Uuid) -> String {
        let shown = self.json(&format!("show {id}")).await;
        shown["status"].as_str().unwrap().to_owned()
    }

    /// Waits until a saga stands so.
    pub(crate) async fn until(&self, id: Uuid, status: &str) {
        testbed::until(SOON, status, async || {
            (self.status(id).await == status).then_some(())
        })
        .await;
    }

    /// `recompense parked …`, to its end.
    pub(crate) async fn parked(&self, arguments: &str) -> Ran {
        let words = ["parked"].into_iter().chain(arguments.split_whitespace());
        recompense(&self.room.url, words.chain(["--url", &self.url])).await
    }

    /// `recompense saga …`, to be started.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = command(&self.room.url);
        command.arg("saga").args(arguments.split_whitespace());
        command.args(["--url", &self.url]);
        command
    }

    pub(crate) async fn run(&self, arguments: &str) -> Ran {
        let arguments = arguments.split_whitespace().map(str::to_owned);
        let place = ["--url".to_owned(), self.url.clone()];
        let all = ["saga".to_owned()]
            .into_iter()
            .chain(arguments)
            .chain(place);
        recompense(&self.room.url, all).await
    }

    pub(crate) async fn says(&self, arguments: &str) -> String {
        let ran = self.run(arguments).await;
        assert_eq!(ran.status, Some(0), "{arguments}: {}", ran.stderr);
        ran.stdout
    }

    pub(crate) async fn json(&self, arguments: &str) -> Value {
        let text = self.says(&format!("{arguments} --output json")).await;
        serde_json::from_str(&text).unwrap()
    }
}
