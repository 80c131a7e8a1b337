//! A service that answers with its name, or hangs up on a request that it has read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the gateway asks an instance each second.
pub(super) const HEALTH: &str = "/readyz?exclude=broker&exclude=lease&exclude=consumer";

/// What it was asked, and how it behaves.
pub(super) struct Backend {
    pub(super) url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    name: String,
    is_unwell: AtomicBool,
    hangs_up: AtomicBool,
    thinks: Mutex<Duration>,
    asked: Mutex<Vec<Asked>>,
}

/// A request that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) body: String,
    /// By which protocol the gateway says it was asked.
    pub(super) protocol: Option<String>,
}

impl Backend {
    /// One that is well.
    pub(super) async fn start(name: &str) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let state = Arc::new(State {
            name: name.to_owned(),
            ..State::default()
        });
        let served = state.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, served.clone()));
            }
        });
        Backend {
            url: format!("http://{address}"),
            state,
        }
    }

    /// From now on its `/readyz` says so.
    pub(super) fn is_unwell(&self, unwell: bool) {
        self.state.is_unwell.store(unwell, Ordering::Relaxed);
    }

    /// From now on it reads each request and closes the connection, as one does that is killed.
    pub(super) fn hangs_up(&self, hangs_up: bool) {
        self.state.hangs_up.store(hangs_up, Ordering::Relaxed);
    }

    /// How long it works on a request before it hangs up.
    pub(super) fn thinks(&self, time: Duration) {
        *self.state.thinks.lock().expect("a time") = time;
    }

    /// What it was asked so far, without questions after its health.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().expect("the list").clone()
    }

    /// Whether somebody asked it for exactly this.
    pub(super) fn asked_for(&self, target: &str) -> bool {
        self.asked().iter().any(|asked| asked.target == target)
    }

    /// How often it was asked with this body.
    pub(super) fn asked_with(&self, body: &str) -> usize {
        let asked = self.asked();
        asked.iter().filter(|asked| asked.body == body).count()
    }
}

async fn serve(connection: TcpStream, state: Arc<State>) {
    let mut connection = BufReader::new(connection);
    while let Some(asked) = read(&mut connection).await {
        let is_health = asked.target == HEALTH;
        if !is_health {
            state.asked.lock().expect("the list").push(asked);
            if state.hangs_up.load(Ordering::Relaxed) {
                let thinks = *state.thinks.lock().expect("a time");
                tokio::time::sleep(thinks).await;
                return;
            }
        }
        let status = if is_health && state.is_unwell.load(Ordering::Relaxed) {
            "503 Service Unavailable"
        } else {
            "200 OK"
        };
        let name = &state.name;
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}",
            name.len()
        );
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The next request of a connection; `None` at its end.
async fn read(connection: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        connection.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length");
    let length = length.map_or(Some(0), |length| length.parse().ok())?;
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.ok()?;
    Some(Asked {
        method,
        target,
        body: String::from_utf8(body).ok()?,
        protocol: headers.remove("x-forwarded-proto"),
    })
}
