//! Commands of one saga at the same time.

use crate::testing::conformance::{
    cases::consistent::{Asked, consistent},
    draft::Draft,
    room::{Room, Saga, Tried},
};

const PAIR: Asked = Asked {
    actions: 1,
    probes: 0,
    compensations: 1,
};

pub(crate) async fn raced_on_one_key(room: &Room<'_>) -> Tried {
    race(room, |undo| undo).await
}

/// The record key chooses the partition, and partitions are read in parallel.
pub(crate) async fn raced_across_partitions(room: &Room<'_>) -> Tried {
    race(room, Draft::astray).await
}

/// Between two tries of the action its compensation comes, or before, or after.
pub(crate) async fn stumbling_compensated(room: &Room<'_>) -> Tried {
    let sagas = sagas(room)?;
    let undos = sagas.iter().map(|saga| saga.compensation.clone().astray());
    let undos: Vec<Draft> = undos.collect();
    let actions = sagas.iter().map(|saga| &saga.stumbling);
    let drafts: Vec<&Draft> = actions.chain(&undos).collect();
    room.send(&drafts).await?;
    for saga in &sagas {
        consistent(saga, PAIR).await?;
    }
    Ok(())
}

/// Half of the sagas send the action first, half the compensation.
async fn race(room: &Room<'_>, sent_as: impl Fn(Draft) -> Draft) -> Tried {
    let sagas = sagas(room)?;
    let undos: Vec<Draft> = sagas
        .iter()
        .map(|saga| sent_as(saga.compensation.clone()))
        .collect();
    let pairs = sagas.iter().zip(&undos).enumerate();
    let drafts: Vec<&Draft> = pairs
        .flat_map(|(n, (saga, undo))| match n % 2 {
            0 => [&saga.action, undo],
            _ => [undo, &saga.action],
        })
        .collect();
    room.send(&drafts).await?;
    for saga in &sagas {
        consistent(saga, PAIR).await?;
    }
    Ok(())
}

/// Everything of all sagas in one heap, shuffled.
pub(crate) async fn storm(room: &Room<'_>) -> Tried {
    let mut dice = Dice(room.options.seed);
    let sagas = sagas(room)?;
    let mut asked = Vec::with_capacity(sagas.len());
    let mut heap = Vec::new();
    for saga in &sagas {
        let mut times = |most: u64| dice.below(most + 1);
        let (actions, compensations) = (times(3), times(2));
        let probes = match room.options.probe {
            // Not more: a probe that comes first settles everything.
            true => times(1),
            false => 0,
        };
        asked.push(Asked {
            actions,
            probes,
            compensations,
        });
        let action = std::iter::repeat_with(|| saga.action.again()).take(actions);
        let probe = std::iter::repeat_with(|| saga.action.probe()).take(probes);
        let undo = std::iter::repeat_with(|| saga.compensation.again()).take(compensations);
        for draft in action.chain(probe).chain(undo) {
            heap.push(match dice.below(3) {
                0 => draft.astray(),
                _ => draft,
            });
        }
    }
    dice.shuffle(&mut heap);
    room.send(&heap.iter().collect::<Vec<_>>()).await?;
    for (saga, asked) in sagas.iter().zip(asked) {
        consistent(saga, asked).await?;
    }
    Ok(())
}

fn sagas<'a>(room: &'a Room<'a>) -> Result<Vec<Saga<'a>>, crate::Error> {
    (0..room.options.sagas).map(|_| room.saga()).collect()
}

/// SplitMix64: the same seed, the same storm.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Slightly uneven, which does not matter for numbers this small.
    fn below(&mut self, end: u64) -> usize {
        usize::try_from(self.next() % end.max(1)).unwrap_or_default()
    }

    fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last as u64 + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_storm() {
        let shuffled = |seed| {
            let mut things: Vec<u8> = (0..50).collect();
            Dice(seed).shuffle(&mut things);
            things
        };
        assert_eq!(shuffled(7), shuffled(7));
        assert_ne!(shuffled(7), shuffled(8));
        let mut sorted = shuffled(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<u8>>(), "nothing is lost");
    }
}
