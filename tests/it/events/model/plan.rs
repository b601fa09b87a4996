//! What a seed says will happen.

use std::time::Duration;

use dropbox_connector::emulator::{DeltaOrder, control::Control};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::consumer::Manner;

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// So many more things are done by the writers, while the next steps are taken.
    Write(usize),
    Written,
    /// Somebody is told something, if it comes soon.
    Heard,
    /// In the middle of what it does: after so many further pages of changes, if they come soon.
    Kill {
        replica: usize,
        after: u64,
    },
    Start {
        replica: usize,
    },
    /// Dropbox forgets every cursor.
    Reset,
    /// Pages and order of changes are others from now on.
    Cut,
    /// All is quiet for a while: everybody has everything.
    Settle,
    /// And the index stands.
    Index,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub seed: u64,
    pub replicas: usize,
    pub writers: usize,
    /// What is watched.
    pub folder: String,
    /// Files that are there before.
    pub bulk: u64,
    pub consumers: [Manner; 3],
    pub steps: Vec<Step>,
}

impl Plan {
    pub fn new(seed: u64, replicas: usize) -> Plan {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut steps = vec![Step::Write(dice.random_range(0..30))];
        // A dead one of two costs its lease of ten seconds.
        let kills = if replicas == 1 { dice.random_range(3..6) } else { 2 };
        for _ in 0..kills {
            if dice.random_bool(0.6) {
                steps.push(Step::Index);
            }
            for _ in 0..dice.random_range(1..5) {
                steps.push(match dice.random_range(0..8) {
                    0..=3 => Step::Write(dice.random_range(1..40)),
                    4 => Step::Written,
                    5 | 6 => Step::Heard,
                    _ => Step::Cut,
                });
            }
            let replica = dice.random_range(0..replicas);
            steps.push(Step::Write(dice.random_range(5..30)));
            steps.push(Step::Kill { replica, after: dice.random_range(0..12) });
            if dice.random_bool(0.3) {
                steps.push(Step::Reset);
            }
            steps.push(Step::Write(dice.random_range(0..30)));
            if replicas > 1 && dice.random_bool(0.5) {
                // The other one takes over before the dead one is back.
                steps.push(Step::Settle);
            }
            steps.push(Step::Start { replica });
            match dice.random_range(0..5) {
                0 => steps.extend([Step::Settle, Step::Write(dice.random_range(1..20)), Step::Reset]),
                1 => steps.push(Step::Settle),
                _ => {}
            }
        }
        // Whatever happened before: in every play there are types that are certain, and can be judged.
        steps.push(Step::Index);
        steps.push(Step::Write(dice.random_range(10..60)));
        let manners = [Manner::Token, Manner::Forgetful, Manner::Checkpoint];
        let another = *manners.choose(&mut dice).expect("there are some");
        Plan {
            seed,
            replicas,
            writers: dice.random_range(2..5),
            folder: if dice.random_bool(0.3) { String::new() } else { "/W".to_owned() },
            bulk: if dice.random_bool(0.5) { dice.random_range(1..150) } else { 0 },
            consumers: [Manner::Token, Manner::Checkpoint, another],
            steps,
        }
    }

    /// How listings and changes are cut and ordered from now on.
    pub fn cuts(&self, control: &Control, number: u64) {
        let mut dice = StdRng::seed_from_u64(self.seed.wrapping_mul(1_000) + number);
        let mut size = |most: usize| dice.random_bool(0.7).then(|| dice.random_range(1..most));
        let (delta_page, listing_page) = (size(6), size(40));
        let delta_order = match dice.random_range(0..4) {
            0 => DeltaOrder::AsHappened,
            1 => DeltaOrder::DeletedLast,
            _ => DeltaOrder::Shuffled(dice.random()),
        };
        // Near, or far away.
        let answer_takes = Duration::from_millis(if dice.random_bool(0.5) { 0 } else { dice.random_range(5..120) });
        control.switch(|switches| {
            (switches.delta_page, switches.listing_page, switches.delta_order, switches.answer_takes) =
                (delta_page, listing_page, delta_order, answer_takes);
        });
    }
}
