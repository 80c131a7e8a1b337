//! What every service answers to the same question, each by itself: one that is away hides no other.

use futures::future::join_all;
use serde::de::DeserializeOwned;

use crate::{
    api::{Refused, Visitor},
    house::Dashboard,
    pages::filter::Filter,
};

/// What a service answered.
pub(crate) struct Group<T> {
    pub(crate) name: String,
    pub(crate) told: Result<T, Refused>,
}

impl<T> Group<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(&str, T) -> U) -> Group<U> {
        let told = self.told.map(|told| change(&self.name, told));
        let name = self.name;
        Group { name, told }
    }
}

/// Asks the service that the filter names, or all of them at once, for what is `at` a path of the API
/// with those of the filter's fields that are `asked` there.
pub(crate) async fn ask<T: DeserializeOwned>(
    dashboard: &Dashboard,
    visitor: &Visitor,
    filter: &Filter,
    asked: &[&str],
    at: &str,
) -> Vec<Group<T>> {
    let only = filter.get("service");
    let mut asked = filter.only(asked);
    if !only.is_empty() {
        // A place in one list is none in another.
        asked = asked.with("cursor", filter.get("cursor"));
    }
    let path = format!("{at}{}", asked.after_path());
    let services = dashboard.services().iter();
    let services = services.filter(|api| only.is_empty() || only == api.name());
    let groups = services.map(async |api| Group {
        name: api.name().to_owned(),
        told: api.get(visitor, &path).await,
    });
    join_all(groups).await
}

/// All services, to choose from.
pub(crate) fn names(dashboard: &Dashboard) -> Vec<String> {
    let services = dashboard.services().iter();
    services.map(|api| api.name().to_owned()).collect()
}
