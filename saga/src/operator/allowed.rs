//! What a person may do now, for whoever shows buttons.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Coordinator, Error, Instance,
    decide::{self, Allowed},
    intervention::OperationName,
};

/// Whether a person may do one thing now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AllowedOperation {
    /// What.
    pub name: OperationName,
    /// Whether.
    pub allowed: bool,
    /// Why not; none if it is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// Everything a person might do to a saga as it stands, each with whether it is allowed and why
/// not. An operation on a step is allowed if there is a step to which it can be done.
#[must_use]
pub fn allowed_operations(coordinator: &Coordinator, instance: &Instance) -> Vec<AllowedOperation> {
    let defined = match coordinator.pinned(instance) {
        Ok(defined) => defined,
        Err(error) => return nothing_here(instance, &error),
    };
    let allowed = decide::allowed(&defined.plan, instance).into_iter();
    let allowed = allowed.map(
        |Allowed {
             operation,
             refused_because,
         }| {
            let obstacle = || match operation {
                OperationName::Migrate => no_target(coordinator, instance),
                _ => None,
            };
            let because = refused_because.or_else(obstacle);
            AllowedOperation {
                name: operation,
                allowed: because.is_none(),
                because,
            }
        },
    );
    allowed.collect()
}

/// Another replica may know it.
fn nothing_here(instance: &Instance, error: &Error) -> Vec<AllowedOperation> {
    let because = match instance.status.is_terminal() {
        true => format!("the saga is {} already", instance.status),
        false => error.to_string(),
    };
    let all = OperationName::ALL.iter();
    let all = all.map(|name| AllowedOperation {
        name: *name,
        allowed: false,
        because: Some(because.clone()),
    });
    all.collect()
}

fn no_target(coordinator: &Coordinator, instance: &Instance) -> Option<String> {
    let known = coordinator.known();
    let versions = known.names.iter().zip(&known.versions);
    let mut versions = versions.filter(|(name, _)| **name == instance.definition);
    let is_target = |version: i32| {
        let defined = coordinator.version(&instance.definition, version);
        defined.is_ok_and(|d| d.plan.migrates_from().any(|from| from == instance.version))
    };
    let found = versions.any(|(_, version)| is_target(*version));
    (!found).then(|| {
        format!(
            "no version here has a migration from version {}",
            instance.version
        )
    })
}
