//! The blocked keys as the leader remembers them. A hint: the rows in `outbox.blocked_key`, locked,
//! are what counts. Only the leader blocks a key, so at worst a key is thought blocked that an
//! operator has just opened.

use std::collections::{HashMap, HashSet};

/// A key of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BlockedKey {
    pub(crate) topic: String,
    pub(crate) key: String,
}

#[derive(Debug, Default)]
pub(crate) struct BlockedKeys {
    topics: HashMap<String, HashSet<String>>,
}

impl BlockedKeys {
    pub(crate) fn contains(&self, topic: &str, key: &str) -> bool {
        let keys = self.topics.get(topic);
        keys.is_some_and(|keys| keys.contains(key))
    }

    pub(crate) fn block(&mut self, BlockedKey { topic, key }: BlockedKey) {
        self.topics.entry(topic).or_default().insert(key);
    }

    pub(crate) fn open(&mut self, BlockedKey { topic, key }: &BlockedKey) {
        if let Some(keys) = self.topics.get_mut(topic) {
            keys.remove(key);
            if keys.is_empty() {
                self.topics.remove(topic);
            }
        }
    }
}

impl FromIterator<BlockedKey> for BlockedKeys {
    fn from_iter<I: IntoIterator<Item = BlockedKey>>(keys: I) -> Self {
        let mut blocked = Self::default();
        keys.into_iter().for_each(|key| blocked.block(key));
        blocked
    }
}
