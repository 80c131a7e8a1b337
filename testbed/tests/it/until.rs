use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use testbed::{until, wait_for};

#[tokio::test]
async fn waiting_returns_the_first_answer() {
    let looks = AtomicU32::new(0);
    let answer = until(Duration::from_secs(5), "the third look", async || {
        let look = looks.fetch_add(1, Ordering::Relaxed) + 1;
        (look == 3).then_some(look)
    });
    assert_eq!(answer.await, 3);
}

#[tokio::test]
#[should_panic(expected = "the kettle to boil")]
async fn waiting_in_vain_says_for_what() {
    until(
        Duration::from_millis(40),
        "the kettle to boil",
        async || None::<()>,
    )
    .await;
}

#[tokio::test]
async fn a_look_that_hangs_ends_at_the_deadline() {
    let never = std::future::pending::<anyhow::Result<Option<()>>>;
    let hung = wait_for(Duration::from_millis(40), "an answer", never);
    let error = hung.await.unwrap_err();
    assert!(error.to_string().contains("an answer"));
}

#[tokio::test]
async fn waiting_works_in_a_task_of_its_own() {
    let task = tokio::spawn(async {
        let word = String::from("here");
        until(Duration::from_secs(5), "a word", async || {
            Some(word.clone())
        })
        .await
    });
    assert_eq!(task.await.unwrap(), "here");
}
