//! What is to be done with one file, from what is known of both sides: pure, and all there is of policy. First what was
//! found, then which side prevails by the rules; an action never changes the side that a direction only reads.

use crate::api::v1::{
    ConflictPolicy as OnConflict, MissingPolicy as OnMissing, SyncAction as Action, SyncDirection as Direction,
    SyncReason as Why,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Local,
    Remote,
}

/// What the caller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// It said nothing of this path.
    Absent,
    There,
    /// It had it when it was last in sync.
    Deleted,
}

/// What Dropbox has, against what it had when the file was last in sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// It never was in sync.
    None,
    Same,
    /// Something else, or nothing.
    Other,
}

/// Whether the caller's file has changed since then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Yes,
    No,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub local: Local,
    /// Dropbox has a file there.
    pub remote: bool,
    /// Both have one, and of the same content.
    pub equal: bool,
    pub base: Base,
    pub changed: Changed,
    /// The side with the later, and the one with the larger file; none where they are equal or one of them is not known.
    pub newer: Option<Side>,
    pub larger: Option<Side>,
    /// Dropbox gives its file as it is.
    pub downloadable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub direction: Direction,
    pub on_conflict: OnConflict,
    pub on_missing: OnMissing,
}

/// What was found, as far as it says who may prevail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Settled,
    /// This side alone has it, or has something newer.
    New(Side),
    Changed(Side),
    /// Gone from this side, as it was on the other.
    Gone(Side),
    Clash,
    /// Nobody can win.
    Stuck,
}

/// Which side's state the other one gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Neither,
    Prevails(Side),
    Reported,
}

pub fn decide(facts: &Facts, policy: Policy) -> (Action, Why) {
    let (found, why) = find(facts);
    let source = policy.source();
    let verdict = match found {
        Found::Settled => Verdict::Neither,
        Found::Stuck => Verdict::Reported,
        Found::Clash => clash(facts, policy.on_conflict),
        // A target does not change by itself: that is for the one to say who says it of conflicts.
        Found::Changed(side) if source.is_some_and(|source| source != side) => clash(facts, policy.on_conflict),
        Found::Changed(side) => Verdict::Prevails(side),
        Found::New(side) => match source.filter(|source| *source != side) {
            None => Verdict::Prevails(side),
            Some(source) => missing(policy.on_missing, source, side),
        },
        Found::Gone(side) => missing(policy.on_missing, source.unwrap_or(side), side.other()),
    };
    let action = match verdict {
        Verdict::Neither => Action::None,
        Verdict::Reported => Action::Conflict,
        Verdict::Prevails(side) if source.is_some_and(|source| source != side) => Action::None,
        Verdict::Prevails(Side::Local) if facts.local == Local::There => Action::Upload,
        Verdict::Prevails(Side::Local) => Action::DeleteRemote,
        Verdict::Prevails(Side::Remote) if facts.remote => Action::Download,
        Verdict::Prevails(Side::Remote) => Action::DeleteLocal,
    };
    if action == Action::Download && !facts.downloadable {
        return (Action::None, Why::NotDownloadable);
    }
    (action, why)
}

fn find(facts: &Facts) -> (Found, Why) {
    let Facts { local, remote, equal, base, changed, .. } = *facts;
    match (local, remote) {
        (Local::There, true) if equal => (Found::Settled, Why::Equal),
        (Local::There, true) if !facts.downloadable => (Found::Stuck, Why::NotDownloadable),
        (Local::There, true) => match (base, changed) {
            (Base::None, _) => (Found::Clash, Why::BothNew),
            // What differs from what Dropbox still has must have changed here.
            (Base::Same, Changed::Yes | Changed::Unknown) => (Found::Changed(Side::Local), Why::LocalChanged),
            (Base::Same, Changed::No) => (Found::Clash, Why::BaseMismatch),
            (Base::Other, Changed::No) => (Found::Changed(Side::Remote), Why::RemoteChanged),
            (Base::Other, Changed::Yes) => (Found::Clash, Why::BothChanged),
            (Base::Other, Changed::Unknown) => (Found::Clash, Why::RemoteChangedLocalUnknown),
        },
        (Local::There, false) => match (base, changed) {
            (Base::None, _) => (Found::New(Side::Local), Why::NewLocal),
            (_, Changed::No) => (Found::Gone(Side::Remote), Why::RemoteDeleted),
            (_, Changed::Yes) => (Found::Clash, Why::RemoteDeletedLocalChanged),
            (_, Changed::Unknown) => (Found::Clash, Why::RemoteDeletedLocalUnknown),
        },
        (Local::Deleted, true) => match base {
            Base::Same => (Found::Gone(Side::Local), Why::LocalDeleted),
            Base::None | Base::Other => (Found::Clash, Why::LocalDeletedRemoteChanged),
        },
        // It could never have been here, so that it is not says nothing.
        (Local::Absent, true) if !facts.downloadable => (Found::Settled, Why::NotDownloadable),
        (Local::Absent, true) => (Found::New(Side::Remote), Why::NewRemote),
        (Local::Deleted | Local::Absent, false) => (Found::Settled, Why::BothDeleted),
    }
}

/// `deleting` prevails where deletions go on, `having` where what is missing comes back.
fn missing(on_missing: OnMissing, deleting: Side, having: Side) -> Verdict {
    match on_missing {
        OnMissing::Report | OnMissing::Unspecified => Verdict::Reported,
        OnMissing::Ignore => Verdict::Neither,
        OnMissing::Delete => Verdict::Prevails(deleting),
        OnMissing::Restore => Verdict::Prevails(having),
    }
}

fn clash(facts: &Facts, on_conflict: OnConflict) -> Verdict {
    let both = facts.local == Local::There && facts.remote;
    let told = |side: Option<Side>| side.filter(|_| both).map_or(Verdict::Reported, Verdict::Prevails);
    match on_conflict {
        OnConflict::Report | OnConflict::Unspecified => Verdict::Reported,
        OnConflict::Skip => Verdict::Neither,
        OnConflict::Local => Verdict::Prevails(Side::Local),
        OnConflict::Remote => Verdict::Prevails(Side::Remote),
        OnConflict::Newer => told(facts.newer),
        OnConflict::Older => told(facts.newer.map(Side::other)),
        OnConflict::Larger => told(facts.larger),
        OnConflict::Smaller => told(facts.larger.map(Side::other)),
    }
}

impl Policy {
    /// The side that is only read.
    fn source(self) -> Option<Side> {
        match self.direction {
            Direction::TwoWay | Direction::Unspecified => None,
            Direction::Up => Some(Side::Local),
            Direction::Down => Some(Side::Remote),
        }
    }
}

impl Side {
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Local => Side::Remote,
            Side::Remote => Side::Local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCALS: [Local; 3] = [Local::Absent, Local::There, Local::Deleted];
    const BASES: [Base; 3] = [Base::None, Base::Same, Base::Other];
    const CHANGES: [Changed; 3] = [Changed::Yes, Changed::No, Changed::Unknown];
    const SIDES: [Option<Side>; 3] = [None, Some(Side::Local), Some(Side::Remote)];
    const DIRECTIONS: [Direction; 3] = [Direction::TwoWay, Direction::Up, Direction::Down];
    const ON_CONFLICT: [OnConflict; 8] = [
        OnConflict::Report,
        OnConflict::Local,
        OnConflict::Remote,
        OnConflict::Skip,
        OnConflict::Newer,
        OnConflict::Older,
        OnConflict::Larger,
        OnConflict::Smaller,
    ];
    const ON_MISSING: [OnMissing; 4] = [OnMissing::Report, OnMissing::Delete, OnMissing::Restore, OnMissing::Ignore];

    /// What a row of the table depends on.
    #[derive(Clone, Copy)]
    enum By {
        Nothing,
        /// Letters for REPORT, LOCAL, REMOTE and SKIP; the others are one of the first three.
        Conflict,
        /// Letters for REPORT, DELETE, RESTORE and IGNORE.
        Missing,
    }
    use By::{Conflict as C, Missing as M, Nothing as N};

    /// A situation, and a cell for each direction.
    type Row = (Local, bool, Base, &'static [Changed], Why, [(By, &'static str); 3]);

    /// Every situation, and what is done two-way, up and down. U upload, D download, l and r delete here and at Dropbox,
    /// C conflict, - nothing.
    #[rustfmt::skip]
    const TABLE: [Row; 25] = {
        use {Base::*, Changed::{Yes, No, Unknown}, Local::*};
        const ANY: &[Changed] = &CHANGES;
        const SURE: &[Changed] = &[No];
        [
            (There, true, None, ANY, Why::BothNew, [(C, "CUD-"), (C, "CU--"), (C, "C-D-")]),
            (There, true, Same, &[Yes, Unknown], Why::LocalChanged, [(N, "U"), (N, "U"), (C, "C-D-")]),
            (There, true, Same, SURE, Why::BaseMismatch, [(C, "CUD-"), (C, "CU--"), (C, "C-D-")]),
            (There, true, Other, SURE, Why::RemoteChanged, [(N, "D"), (C, "CU--"), (N, "D")]),
            (There, true, Other, &[Yes], Why::BothChanged, [(C, "CUD-"), (C, "CU--"), (C, "C-D-")]),
            (There, true, Other, &[Unknown], Why::RemoteChangedLocalUnknown, [(C, "CUD-"), (C, "CU--"), (C, "C-D-")]),
            (There, false, None, ANY, Why::NewLocal, [(N, "U"), (N, "U"), (M, "Cl--")]),
            (There, false, Same, SURE, Why::RemoteDeleted, [(M, "ClU-"), (M, "CUU-"), (M, "Cl--")]),
            (There, false, Other, SURE, Why::RemoteDeleted, [(M, "ClU-"), (M, "CUU-"), (M, "Cl--")]),
            (There, false, Same, &[Yes], Why::RemoteDeletedLocalChanged, [(C, "CUl-"), (C, "CU--"), (C, "C-l-")]),
            (There, false, Other, &[Yes], Why::RemoteDeletedLocalChanged, [(C, "CUl-"), (C, "CU--"), (C, "C-l-")]),
            (There, false, Same, &[Unknown], Why::RemoteDeletedLocalUnknown, [(C, "CUl-"), (C, "CU--"), (C, "C-l-")]),
            (There, false, Other, &[Unknown], Why::RemoteDeletedLocalUnknown, [(C, "CUl-"), (C, "CU--"), (C, "C-l-")]),
            (Deleted, true, Same, ANY, Why::LocalDeleted, [(M, "CrD-"), (M, "Cr--"), (M, "CDD-")]),
            (Deleted, true, Other, ANY, Why::LocalDeletedRemoteChanged, [(C, "CrD-"), (C, "Cr--"), (C, "C-D-")]),
            (Deleted, true, None, ANY, Why::LocalDeletedRemoteChanged, [(C, "CrD-"), (C, "Cr--"), (C, "C-D-")]),
            (Deleted, false, None, ANY, Why::BothDeleted, [(N, "-"), (N, "-"), (N, "-")]),
            (Deleted, false, Same, ANY, Why::BothDeleted, [(N, "-"), (N, "-"), (N, "-")]),
            (Deleted, false, Other, ANY, Why::BothDeleted, [(N, "-"), (N, "-"), (N, "-")]),
            (Absent, true, None, ANY, Why::NewRemote, [(N, "D"), (M, "Cr--"), (N, "D")]),
            (Absent, true, Same, ANY, Why::NewRemote, [(N, "D"), (M, "Cr--"), (N, "D")]),
            (Absent, true, Other, ANY, Why::NewRemote, [(N, "D"), (M, "Cr--"), (N, "D")]),
            (Absent, false, None, ANY, Why::BothDeleted, [(N, "-"), (N, "-"), (N, "-")]),
            (Absent, false, Same, ANY, Why::BothDeleted, [(N, "-"), (N, "-"), (N, "-")]),
            (Absent, false, Other, ANY, Why::BothDeleted, [(N, "-"), (N, "-"), (N, "-")]),
        ]
    };

    fn every() -> Vec<(Facts, Policy)> {
        let mut all = Vec::new();
        let facts = LOCALS.into_iter().flat_map(|local| {
            BASES.into_iter().flat_map(move |base| {
                CHANGES.into_iter().flat_map(move |changed| {
                    SIDES.into_iter().flat_map(move |newer| {
                        SIDES.into_iter().flat_map(move |larger| {
                            (0..8).map(move |bits| Facts {
                                local,
                                remote: bits & 1 > 0,
                                equal: bits & 2 > 0,
                                base,
                                changed,
                                newer,
                                larger,
                                downloadable: bits & 4 > 0,
                            })
                        })
                    })
                })
            })
        });
        for facts in facts {
            // Only two files are equal.
            if facts.equal && !(facts.local == Local::There && facts.remote) {
                continue;
            }
            for direction in DIRECTIONS {
                for on_conflict in ON_CONFLICT {
                    all.extend(ON_MISSING.map(|on_missing| (facts, Policy { direction, on_conflict, on_missing })));
                }
            }
        }
        assert_eq!(all.len(), 3 * 3 * 9 * (3 * 2 + 1) * 2 * 3 * 8 * 4);
        all
    }

    fn letter(action: Action) -> char {
        match action {
            Action::Upload => 'U',
            Action::Download => 'D',
            Action::DeleteLocal => 'l',
            Action::DeleteRemote => 'r',
            Action::Conflict => 'C',
            Action::None => '-',
            Action::Unspecified => '?',
        }
    }

    /// What the table says.
    fn wanted(facts: &Facts, policy: Policy) -> (char, Why) {
        if facts.equal {
            return ('-', Why::Equal);
        }
        let is_it = |row: &&Row| {
            (row.0, row.1, row.2) == (facts.local, facts.remote, facts.base) && row.3.contains(&facts.changed)
        };
        let rows: Vec<_> = TABLE.iter().filter(is_it).collect();
        let [row] = &rows[..] else { panic!("{} rows for {facts:?}", rows.len()) };
        let (why, cells) = (row.4, row.5);
        let (by, letters) = cells[DIRECTIONS.iter().position(|one| *one == policy.direction).unwrap()];
        let both = facts.local == Local::There && facts.remote;
        let at = |side: Option<Side>| match side.filter(|_| both) {
            None => 0,
            Some(Side::Local) => 1,
            Some(Side::Remote) => 2,
        };
        let opposite = |side: Option<Side>| side.map(Side::other);
        let at = match by {
            By::Nothing => 0,
            By::Missing => ON_MISSING.iter().position(|one| *one == policy.on_missing).unwrap(),
            By::Conflict => match policy.on_conflict {
                OnConflict::Newer => at(facts.newer),
                OnConflict::Older => at(opposite(facts.newer)),
                OnConflict::Larger => at(facts.larger),
                OnConflict::Smaller => at(opposite(facts.larger)),
                plain => ON_CONFLICT.iter().position(|one| *one == plain).unwrap(),
            },
        };
        let letter = letters.chars().nth(at).unwrap();
        match (facts.downloadable, both, letter) {
            (false, true, _) => ('C', Why::NotDownloadable),
            (false, false, _) if facts.local == Local::Absent && facts.remote => ('-', Why::NotDownloadable),
            (false, false, 'D') => ('-', Why::NotDownloadable),
            _ => (letter, why),
        }
    }

    #[test]
    fn every_case_is_decided_as_the_table_says() {
        for (facts, policy) in every() {
            let (action, why) = decide(&facts, policy);
            assert_eq!((letter(action), why), wanted(&facts, policy), "{facts:?} {policy:?}");
        }
    }

    #[test]
    fn nothing_is_lost_that_a_rule_did_not_give_away_and_no_source_is_written_to() {
        for (facts, policy) in every() {
            let (action, why) = decide(&facts, policy);
            let case = format!("{facts:?} {policy:?}: {action:?} {why:?}");
            match policy.direction {
                Direction::Up => assert!(!matches!(action, Action::Download | Action::DeleteLocal), "{case}"),
                Direction::Down => assert!(!matches!(action, Action::Upload | Action::DeleteRemote), "{case}"),
                _ => {}
            }
            match action {
                Action::Upload => assert!(facts.local == Local::There && !facts.equal, "{case}"),
                Action::Download => assert!(facts.remote && facts.downloadable && !facts.equal, "{case}"),
                Action::DeleteLocal => assert!(facts.local == Local::There && !facts.remote, "{case}"),
                Action::DeleteRemote => assert!(facts.local != Local::There && facts.remote, "{case}"),
                _ => {}
            }
            let careful = policy.on_conflict == OnConflict::Report && policy.on_missing == OnMissing::Report;
            if careful {
                assert!(!matches!(action, Action::DeleteLocal | Action::DeleteRemote), "{case}");
                // What is written over was unchanged since the last sync.
                let over = facts.local == Local::There && facts.remote;
                if over && action == Action::Upload {
                    assert_eq!(facts.base, Base::Same, "{case}");
                }
                if over && action == Action::Download {
                    assert_eq!(facts.changed, Changed::No, "{case}");
                }
            }
        }
    }

    #[test]
    fn two_sides_that_are_exchanged_are_decided_the_other_way_round() {
        // Of what both sides can tell alike: files on both, known to be changed or not.
        let mirrored = |side: Option<Side>| side.map(Side::other);
        for (facts, policy) in every() {
            let both = facts.local == Local::There && facts.remote && facts.downloadable;
            let known = matches!(
                (facts.base, facts.changed),
                (Base::Same, Changed::Yes) | (Base::Other, Changed::No | Changed::Yes)
            );
            if !both || !known {
                continue;
            }
            let (base, changed) = match (facts.base, facts.changed) {
                (Base::Same, _) => (Base::Other, Changed::No),
                (_, Changed::No) => (Base::Same, Changed::Yes),
                same => same,
            };
            let (newer, larger) = (mirrored(facts.newer), mirrored(facts.larger));
            let facts_there = Facts { base, changed, newer, larger, ..facts };
            let policy_there = Policy {
                direction: match policy.direction {
                    Direction::Up => Direction::Down,
                    Direction::Down => Direction::Up,
                    two_way => two_way,
                },
                on_conflict: match policy.on_conflict {
                    OnConflict::Local => OnConflict::Remote,
                    OnConflict::Remote => OnConflict::Local,
                    other => other,
                },
                ..policy
            };
            let mirror = match decide(&facts, policy).0 {
                Action::Upload => Action::Download,
                Action::Download => Action::Upload,
                other => other,
            };
            assert_eq!(decide(&facts_there, policy_there).0, mirror, "{facts:?} {policy:?}");
        }
    }
}
