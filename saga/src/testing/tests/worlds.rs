//! Worlds: every fault at every step, and a thousand sagas against a model.

use std::{collections::BTreeMap, sync::Arc};

use super::sagas::*;
use crate::{
    definition::Class,
    instance::Status,
    testing::{Fault, Given, Ledger, Lived, World, random::Random},
};

fn one(given: &Arc<Given>, faults: &[(&str, Fault)]) -> (Status, Lived) {
    let ledger = Ledger::new().with("ada", 100).with("agency", 0);
    let world = World::new(3, ledger);
    let mut world = faults
        .iter()
        .fold(world, |world, (step, fault)| world.fault(*step, *fault));
    let id = world.start(given);
    let (lived, ledger) = world.run();
    let status = lived.statuses[&id];
    let paid = i64::from(status == Status::Completed) * 80;
    assert_eq!(ledger.of("agency").balance, paid, "{lived}");
    assert_eq!(ledger.of("ada").held, 0, "{lived}");
    (status, lived)
}

#[test]
fn every_fault_at_every_step_ends_as_it_should() {
    let given = Arc::new(given(&trip(), true));
    for step in &given.plan.steps {
        let name = step.name.as_str();
        let goes_back = !matches!(step.class, Class::Retriable { .. });
        let undone_if = |back: bool| {
            if back {
                Status::Compensated
            } else {
                Status::Completed
            }
        };
        for fault in Fault::ALL {
            let expected = undone_if(*fault == Fault::Refuses && goes_back);
            let (status, lived) = one(&given, &[(name, *fault)]);
            assert_eq!(status, expected, "{name} {fault}: {lived}");
            assert_eq!(lived.faults[fault.as_str()], 1);
        }
        // Both attempts, so that the saga's patience ends.
        for fault in [
            Fault::TimeoutNotExecuted,
            Fault::TimeoutExecuted,
            Fault::LateReply,
        ] {
            let expected = match step.class {
                Class::Compensatable(_) => Status::Compensated,
                // It is asked, and says so.
                Class::Pivot => undone_if(fault == Fault::TimeoutNotExecuted),
                Class::Retriable { .. } => Status::Completed,
            };
            let (status, lived) = one(&given, &[(name, fault), (name, fault)]);
            assert_eq!(status, expected, "{name} {fault} twice: {lived}");
        }
    }
}

#[test]
fn compensations_that_fail_again_and_again_end_with_a_person() {
    let given = Arc::new(given(&trip(), true));
    // One fault at the action, three at the compensation: its whole budget.
    let mut faults = vec![("pay", Fault::Refuses), ("hotel", Fault::Transient)];
    faults.extend([("hotel", Fault::TimeoutExecuted); 3]);
    let (status, _) = one(&given, &faults);
    assert_eq!(status, Status::Compensated);
}

#[test]
fn a_script_of_faults_that_cannot_fire_fails() {
    let given = Arc::new(given(&trip(), false));
    let never = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        one(&given, &[("visa", Fault::Refuses)])
    }));
    let complaint = never.expect_err("the visa is left out");
    let complaint = complaint.downcast::<String>().unwrap();
    assert!(
        complaint.contains("never fired: [(\"visa\", Refuses)]"),
        "{complaint}"
    );
}

#[test]
fn the_same_seed_is_the_same_world() {
    let lived = |seed| {
        let ledger = Ledger::new().with("ada", 1_000).with("agency", 0);
        let mut world = World::new(seed, ledger).faults(200);
        let given = Arc::new(given(&trip(), true));
        for _ in 0..20 {
            world.start(&given);
        }
        world.run()
    };
    assert_eq!(lived(4), lived(4));
    assert_ne!(lived(4).0, lived(5).0);
}

#[test]
fn a_thousand_sagas_over_a_hundred_accounts_agree_with_a_model() {
    const START: i64 = 400;
    let name = |account: u64| format!("account-{account}");
    let mut random = Random::seeded(2026);
    let ledger = (0..100).fold(Ledger::new(), |ledger, at| ledger.with(name(at), START));
    let mut world = World::new(2026, ledger.with("agency", 0)).faults(80);
    let definition = trip();
    let mut started = BTreeMap::new();
    for _ in 0..1_000 {
        let account = random.below(100);
        let price = 1 + i64::try_from(random.below(120)).unwrap();
        let trip = Trip {
            price,
            abroad: random.chance(500),
            ..Trip::default()
        };
        let given = with_business(Given::new(&definition, &trip), &name(account));
        started.insert(world.start(&Arc::new(given)), (account, price));
    }
    let (lived, ledger) = world.run();
    // The model: who completed has paid, nobody else has, and nothing is held for anybody.
    let mut spent = BTreeMap::new();
    for (id, (account, price)) in &started {
        let status = lived.statuses[id];
        assert!(status.is_terminal(), "{status}: {lived}");
        if status == Status::Completed {
            *spent.entry(*account).or_default() += price;
        }
    }
    for account in 0..100 {
        let spent: i64 = spent.get(&account).copied().unwrap_or_default();
        let found = ledger.of(&name(account));
        assert_eq!(
            (found.balance, found.held),
            (START - spent, 0),
            "{}",
            name(account)
        );
    }
    assert_eq!(ledger.of("agency").balance, spent.values().sum::<i64>());
    assert_eq!(
        lived.faults.len(),
        Fault::ALL.len(),
        "each fault fired: {lived}"
    );
    for ending in ["completed", "compensated"] {
        assert!(lived.endings[ending] > 100, "{lived}");
    }
}
