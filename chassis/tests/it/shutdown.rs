use std::future::{pending, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chassis::shutdown::Tasks;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(5);

fn until_shutdown(shutdown: &CancellationToken) -> impl Future<Output = io::Result<()>> + use<> {
    let stopped = shutdown.clone().cancelled_owned();
    async move {
        stopped.await;
        Ok(())
    }
}

#[tokio::test]
async fn a_shutdown_ends_tasks_that_listen() {
    let shutdown = CancellationToken::new();
    let tasks = Tasks::new("test", shutdown.clone());
    tasks.spawn("loop", until_shutdown(&shutdown));
    tasks.spawn("short", ready(io::Result::Ok(())));
    shutdown.cancel();
    tasks.finish(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_task_that_fails_takes_the_others_down_and_is_named() {
    let shutdown = CancellationToken::new();
    let tasks = Tasks::new("test", shutdown.clone());
    tasks.spawn("loop", until_shutdown(&shutdown));
    tasks.spawn("relay", ready(Err(io::Error::other("out of luck"))));
    let failed = tasks.finish(DEADLINE).await.unwrap_err();
    assert_eq!(failed.to_string(), "task `relay` failed: out of luck");
    assert!(shutdown.is_cancelled());
}

#[tokio::test]
async fn a_task_that_panics_has_failed() {
    let tasks = Tasks::new("test", CancellationToken::new());
    tasks.spawn::<_, io::Error>("relay", async { panic!("a bug") });
    let failed = tasks.finish(DEADLINE).await.unwrap_err();
    assert_eq!(failed.to_string(), "task `relay` failed: panicked");
}

#[tokio::test]
async fn a_task_may_start_others() {
    let tasks = Tasks::new("test", CancellationToken::new());
    let others = tasks.clone();
    tasks.spawn("start", async move {
        others.spawn("relay", ready(Err(io::Error::other("out of luck"))));
        io::Result::Ok(())
    });
    assert_eq!(tasks.finish(DEADLINE).await.unwrap_err().task, "relay");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_listen_is_cut_off() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let cut = Arc::new(AtomicBool::new(false));
    let shutdown = CancellationToken::new();
    let tasks = Tasks::new("test", shutdown.clone());
    let held = Dropped(cut.clone());
    tasks.spawn("deaf", async move {
        let _held = held;
        pending::<io::Result<()>>().await
    });
    shutdown.cancel();
    let started = tokio::time::Instant::now();
    tasks.finish(DEADLINE).await.unwrap();
    assert_eq!(started.elapsed(), DEADLINE);
    tokio::task::yield_now().await;
    assert!(cut.load(Ordering::Relaxed));
}
