//! One client that watches one saga.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::http::{
    stream::{client::Line, registry::Streams},
    view::Recorded,
};

/// Events of one saga in order, made once for all who watch it.
pub(crate) type Page = Arc<[Line]>;

/// The client's end. Dropped, it is forgotten.
pub(crate) struct Watcher {
    streams: Streams,
    key: u64,
    pages: mpsc::Receiver<Page>,
    page: Option<(Page, usize)>,
}

impl Watcher {
    pub(crate) fn new(streams: Streams, key: u64, pages: mpsc::Receiver<Page>) -> Self {
        Self {
            streams,
            key,
            pages,
            page: None,
        }
    }

    /// The next event, as soon as there is one; none when the streams end.
    pub(crate) async fn next(&mut self) -> Option<Line> {
        loop {
            if self.streams.0.ended.is_cancelled() {
                return None;
            }
            if let Some((page, at)) = &mut self.page
                && let Some(line) = page.get(*at)
            {
                *at += 1;
                return Some(line.clone());
            }
            let page = self.pages.recv();
            let page = self.streams.0.ended.run_until_cancelled(page).await??;
            self.page = Some((page, 0));
            // There is room for one more page now.
            self.streams.0.woken.notify_one();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.streams.forget(self.key);
    }
}

/// As it goes out.
pub(crate) fn line(recorded: &Recorded) -> Option<Line> {
    let data = serde_json::to_string(recorded).ok()?;
    Some(Line::new("recorded", recorded.seq.to_string(), data))
}
