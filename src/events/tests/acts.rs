//! A story as a list of steps, made from a seed before any is taken. No step depends on what another one found, so any of
//! them can be left out: a story that fails is cut down to the steps that it needs.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::emulator::{DeltaOrder, control::Control};

/// Of everything as it is told, of everything one by one, of some, one that seldom keeps its place, and one whose place the
/// store keeps under a name.
const LISTENERS: usize = 5;

/// Writes to the store that the longest steps make: there is a place before and behind each of them.
const PLACES: u32 = 24;

/// One step of a story.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Somebody changes something at Dropbox.
    Do(Deed),
    /// The poller is told that there is news, and goes on holding its folder.
    News,
    Step,
    /// The process ends at the place in the store so many places ahead, whatever it is at when it comes there.
    Kill(u32),
    /// One who listens hears of so much, and dies behind one of these, before it has kept its place.
    Hear {
        who: usize,
        most: usize,
        dies_at: Option<usize>,
    },
    /// One who listens goes away, and comes back another time.
    Leave {
        who: usize,
    },
    /// The process ends, and comes back.
    Restart,
    /// Dropbox forgets every cursor.
    Reset,
    /// One whose place is kept under a name has that forgotten, and begins anew another time.
    Forget,
    /// The log grows old; or the folder does, which nobody has watched for long.
    Sweep {
        all: bool,
    },
    /// The call to Dropbox so many ahead fails.
    Fail(u32),
    /// How pages are cut and ordered from now on.
    Cut(Cut),
    /// Nobody writes for a while: everything is told, and is what there is.
    Quiet,
}

/// Something done at Dropbox, or refused there.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    /// `strict`: a new revision, also if the content is the same.
    Put {
        path: String,
        content: u8,
        strict: bool,
    },
    Folder(String),
    Delete(String),
    Move(String, String),
    Recase(String),
    /// Or the end of sharing, of one that is shared.
    Share(String),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    listing_page: Option<usize>,
    delta_page: Option<usize>,
    order: DeltaOrder,
}

impl Cut {
    pub fn new(dice: &mut StdRng) -> Cut {
        let mut size = || dice.random_bool(0.8).then(|| dice.random_range(1..8));
        let (listing_page, delta_page) = (size(), size());
        let order = match dice.random_range(0..4) {
            0 => DeltaOrder::AsHappened,
            1 => DeltaOrder::DeletedLast,
            _ => DeltaOrder::Shuffled(dice.random()),
        };
        Cut { listing_page, delta_page, order }
    }

    pub fn make(self, control: &Control) {
        control.switch(|switches| {
            (switches.listing_page, switches.delta_page, switches.delta_order) =
                (self.listing_page, self.delta_page, self.order);
        });
    }
}

fn place(dice: &mut StdRng) -> String {
    let depth = dice.random_range(1..4);
    // The last two are one name to whoever lowers words and not letters.
    let names: String = (0..depth).map(|_| ["/a", "/b", "/Σ", "/ς"][dice.random_range(0..4)]).collect();
    format!("/W{names}")
}

impl Deed {
    /// Few names and few contents, so that most things meet something.
    pub fn new(dice: &mut StdRng) -> Deed {
        let path = place(dice);
        match dice.random_range(0..39) {
            0..=12 => Deed::Put { path, content: dice.random_range(0..20), strict: dice.random_bool(0.2) },
            13..=18 => Deed::Folder(path),
            19..=24 => Deed::Delete(path),
            25..=35 => Deed::Move(path, place(dice)),
            36 | 37 => Deed::Share(path),
            _ => {
                let cut = path.rfind('/').map_or(0, |slash| slash + 1);
                let name = match &path[cut..] {
                    "Σ" => "σ".into(),
                    // To Dropbox its upper case is another name.
                    "ς" => "ς".into(),
                    name => name.to_uppercase(),
                };
                Deed::Recase(format!("{}{name}", &path[..cut]))
            }
        }
    }
}

/// The story of a seed.
pub(super) fn story(seed: u64) -> Vec<Act> {
    let mut dice = StdRng::seed_from_u64(seed);
    let dice = &mut dice;
    let mut acts = vec![Act::Cut(Cut::new(dice))];
    acts.extend((0..dice.random_range(0..30)).map(|_| Act::Do(Deed::new(dice))));
    // Where somebody writes before every step no two cursors are ever at one place.
    let is_busy = dice.random_bool(0.3);
    for _ in 0..dice.random_range(20..120) {
        let act = match dice.random_range(0..100) {
            0..=33 => Act::Do(Deed::new(dice)),
            34..=42 => Act::News,
            43..=66 => Act::Step,
            67..=69 => Act::Kill(dice.random_range(0..PLACES)),
            70..=89 => {
                let most = dice.random_range(1..20);
                let dies_at = dice.random_bool(0.2).then(|| dice.random_range(0..most));
                Act::Hear { who: dice.random_range(0..LISTENERS), most, dies_at }
            }
            90 | 91 => Act::Leave { who: dice.random_range(0..LISTENERS) },
            92 => Act::Restart,
            93 => Act::Reset,
            94 => Act::Sweep { all: dice.random_bool(0.3) },
            95 => Act::Fail(dice.random_range(1..4)),
            96 => Act::Cut(Cut::new(dice)),
            97 => Act::Forget,
            _ => Act::Quiet,
        };
        if is_busy && matches!(act, Act::Step) {
            acts.push(Act::Do(Deed::new(dice)));
        }
        acts.push(act);
        if dice.random_bool(0.01) {
            acts.extend(left_behind(dice));
        }
        if dice.random_bool(0.02) {
            acts.extend(vanishing(dice));
        }
        if dice.random_bool(0.02) {
            acts.extend(replacing(dice));
        }
    }
    acts
}

/// Something leaves a folder that moves then; who hears of the move may die before it hears of the other, and come back when
/// the log has grown old. By chance alone one story in some thousands has this.
fn left_behind(dice: &mut StdRng) -> Vec<Act> {
    let (folder, to) = (place(dice), place(dice));
    let name = |n: usize| format!("{folder}/{}", ["a", "b", "c", "d"][n]);
    let mut acts: Vec<_> =
        (0..4).map(|n| Act::Do(Deed::Put { path: name(n), content: dice.random(), strict: false })).collect();
    acts.extend([Act::Quiet, Act::Cut(Cut::new(dice)), Act::Do(Deed::Delete(name(dice.random_range(0..4))))]);
    acts.extend([Act::Do(Deed::Move(folder, to)), Act::News]);
    acts.extend((0..dice.random_range(1..8)).map(|_| Act::Step));
    for who in 0..LISTENERS {
        let most = dice.random_range(1..20);
        acts.push(Act::Hear { who, most, dies_at: Some(dice.random_range(0..most)) });
        acts.push(Act::Leave { who });
    }
    acts.push(Act::Sweep { all: false });
    acts
}

/// A folder takes the place of a file, in one drain, behind the back of who has heard of the file and wants no folders.
fn replacing(dice: &mut StdRng) -> Vec<Act> {
    let path = place(dice);
    let put = Deed::Put { path: path.clone(), content: dice.random(), strict: false };
    let mut acts = vec![Act::Do(put), Act::News, Act::Step, Act::Step];
    acts.extend((0..LISTENERS).map(|who| Act::Hear { who, most: 20, dies_at: None }));
    acts.extend([Act::Do(Deed::Delete(path.clone())), Act::Do(Deed::Folder(path)), Act::News]);
    acts
}

/// The watched folder itself goes, or moves away, and something takes its place, or it comes back.
fn vanishing(dice: &mut StdRng) -> Vec<Act> {
    let [watched, away] = ["/W", "/V"].map(str::to_owned);
    let mut acts = Vec::new();
    let between = |dice: &mut StdRng, acts: &mut Vec<Act>| {
        for _ in 0..dice.random_range(0..6) {
            acts.push(match dice.random_range(0..6) {
                0 | 1 => Act::News,
                2..=4 => Act::Step,
                _ => Act::Hear { who: dice.random_range(0..LISTENERS), most: dice.random_range(1..20), dies_at: None },
            });
        }
    };
    acts.push(Act::Do(match dice.random_bool(0.5) {
        true => Deed::Delete(watched.clone()),
        false => Deed::Move(watched.clone(), away.clone()),
    }));
    between(dice, &mut acts);
    match dice.random_range(0..5) {
        0 => acts.push(Act::Do(Deed::Folder(watched))),
        1 | 2 => acts.push(Act::Do(Deed::Move(away, watched))),
        3 => {
            acts.push(Act::Do(Deed::Put { path: watched.clone(), content: dice.random(), strict: false }));
            between(dice, &mut acts);
            acts.push(Act::Do(Deed::Delete(watched)));
        }
        // Whoever writes into it next makes it again.
        _ => {}
    }
    acts
}

/// Leaves out whatever a failing story can do without: halves first, then less and less, then single steps until none can go.
pub(super) async fn shrunk(mut acts: Vec<Act>, mut fails: impl AsyncFnMut(&[Act]) -> bool) -> Vec<Act> {
    let mut size = acts.len().div_ceil(2);
    loop {
        let (mut at, mut less) = (0, false);
        while at < acts.len() {
            let mut without = acts.clone();
            without.drain(at..(at + size).min(acts.len()));
            if fails(&without).await {
                (acts, less) = (without, true);
            } else {
                at += size;
            }
        }
        if size == 1 && !less {
            return acts;
        }
        size = size.div_ceil(2);
    }
}
