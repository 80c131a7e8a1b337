//! A thousand orders, and one fault after another.

use super::{
    faults::Fault,
    load::Load,
    model::{self, Audit},
    program::{Fate, Program},
    room::Room,
    stuck,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_orders_over_a_hundred_accounts_agree_with_a_model_whatever_dies() {
    let trials = testbed::trials();
    let mut trial = trials.begin("sagas while everything dies");
    let mut room = Room::open().await;
    // Few accounts, so that their orders wait for credit and meet each other's rows.
    let program = Program::new(trials.pick(10, 100), trial.random.fork());
    let at_least = trials.pick(40, 1_200);
    let load = Load::start(&room, program, 5, at_least);
    let audit = Audit::begin(&room);
    let faults = trials.pick(4, 2 * Fault::ALL.len());
    for fault in Fault::some(&mut trial.random, faults) {
        load.wait_for_more(5).await;
        let healed = fault.strike(&mut room, &mut trial.random).await;
        trial.healed_after(healed);
    }
    room.is_whole().await;
    let placed = load.finish().await;
    let helped = stuck::all_end(&room).await;
    let looks = audit.end().await;
    let ends = model::agrees(&room, &placed).await;
    trial.counted(placed.len(), room.duplicates().await);
    println!("{ends:?}; a person helped {helped} times; the books were looked at {looks} times");

    assert!(placed.len() >= at_least, "{} orders", placed.len());
    assert!(looks > 20, "the books were looked at {looks} times");
    let of = |fate: Fate, end: &str| ends.get(&(fate, end.to_owned())).copied();
    let confirmed = of(Fate::Good, "confirmed").unwrap_or_default();
    assert!(
        2 * confirmed > placed.len() / 2,
        "most good orders are fulfilled: {ends:?}"
    );
    assert!(of(Fate::Doomed, "rejected") > Some(0), "{ends:?}");
}
