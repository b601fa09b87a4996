//! Which items of a folder are meant: by glob, kind, depth, size and time. Pure; listings, walks and bulk calls share it.

use std::time::SystemTime;

use super::glob::Globs;
use crate::{
    fault::{Fault, Reason, Result},
    limits::{FILTER_GLOB_BYTES_MAX, FILTER_GLOBS_MAX},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Deleted,
}

/// Which of a file's two times the bounds are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeField {
    #[default]
    ServerModified,
    ClientModified,
}

/// How the bounds of size and time are joined; globs, kinds and depth must hold in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bounds {
    #[default]
    All,
    Any,
}

/// A filter as it was asked for. The default lets everything through.
#[derive(Debug, Clone, Default)]
pub struct FilterSpec {
    /// Relative to the base path, as are `exclude_globs`; none: everything.
    pub include_globs: Vec<String>,
    pub exclude_globs: Vec<String>,
    /// None: all kinds.
    pub kinds: Vec<Kind>,
    pub min_size: Option<u64>,
    pub max_size: Option<u64>,
    pub modified_after: Option<SystemTime>,
    pub modified_before: Option<SystemTime>,
    pub time_field: TimeField,
    pub bounds: Bounds,
    pub case_sensitive: bool,
    /// 1: only what lies in the base folder itself; 0: any.
    pub max_depth: u32,
}

/// An item, as far as a filter looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// From the base path on, without a leading `/`.
    pub path_relative: &'a str,
    pub kind: Kind,
    /// Only files have sizes and times; what is missing fails every bound on it.
    pub size: Option<u64>,
    pub server_modified: Option<SystemTime>,
    pub client_modified: Option<SystemTime>,
    /// Of what lies in the base folder itself: 1.
    pub depth: u32,
}

#[derive(Debug, Clone)]
pub struct ItemFilter {
    include: Globs,
    exclude: Globs,
    spec: FilterSpec,
}

impl ItemFilter {
    /// # Errors
    /// `INVALID_FIELD` with all violations at once; fields are named from `filter` on.
    pub fn new(spec: FilterSpec) -> Result<Self> {
        let mut problems = Vec::new();
        let include = compile("filter.include_globs", &spec.include_globs, spec.case_sensitive, &mut problems);
        let exclude = compile("filter.exclude_globs", &spec.exclude_globs, spec.case_sensitive, &mut problems);
        if spec.bounds == Bounds::All {
            if spec.min_size.zip(spec.max_size).is_some_and(|(min, max)| min > max) {
                problems.push(("filter.max_size".to_owned(), "OUT_OF_RANGE", "is below min_size".to_owned()));
            }
            if spec.modified_after.zip(spec.modified_before).is_some_and(|(after, before)| after > before) {
                let text = "is earlier than modified_after".to_owned();
                problems.push(("filter.modified_before".to_owned(), "OUT_OF_RANGE", text));
            }
        }
        let Some((field, _, text)) = problems.first() else {
            return Ok(Self { include, exclude, spec });
        };
        let fault = Fault::new(Reason::InvalidField, format!("{field}: {text}"));
        Err(problems.into_iter().fold(fault, |fault, (field, reason, text)| fault.violation(field, reason, text)))
    }

    pub fn matches(&self, item: &Candidate<'_>) -> bool {
        let Self { include, exclude, spec } = self;
        self.reaches(item.depth)
            && (spec.kinds.is_empty() || spec.kinds.contains(&item.kind))
            && self.within_bounds(item)
            && (include.is_empty() || include.matches(item.path_relative))
            && (exclude.is_empty() || !exclude.matches(item.path_relative))
    }

    /// Whether anything so deep may match.
    pub fn reaches(&self, depth: u32) -> bool {
        self.spec.max_depth == 0 || depth <= self.spec.max_depth
    }

    fn within_bounds(&self, item: &Candidate<'_>) -> bool {
        let spec = &self.spec;
        let is_file = item.kind == Kind::File;
        let size = item.size.filter(|_| is_file);
        let time = match spec.time_field {
            TimeField::ServerModified => item.server_modified,
            TimeField::ClientModified => item.client_modified,
        }
        .filter(|_| is_file);
        let mut bounds = [
            spec.min_size.map(|min| size.is_some_and(|size| size >= min)),
            spec.max_size.map(|max| size.is_some_and(|size| size <= max)),
            spec.modified_after.map(|after| time.is_some_and(|time| time >= after)),
            spec.modified_before.map(|before| time.is_some_and(|time| time <= before)),
        ]
        .into_iter()
        .flatten()
        .peekable();
        match spec.bounds {
            Bounds::All => bounds.all(|holds| holds),
            Bounds::Any => bounds.peek().is_none() || bounds.any(|holds| holds),
        }
    }
}

type Problem = (String, &'static str, String);

fn compile(field: &str, list: &[String], case_sensitive: bool, problems: &mut Vec<Problem>) -> Globs {
    let mut globs = Globs::new(case_sensitive);
    if list.len() > FILTER_GLOBS_MAX {
        problems.push((field.to_owned(), "OUT_OF_RANGE", format!("has more than {FILTER_GLOBS_MAX} globs")));
        return globs;
    }
    for (index, glob) in list.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if glob.len() > FILTER_GLOB_BYTES_MAX {
            problems.push((field, "OUT_OF_RANGE", format!("is longer than {FILTER_GLOB_BYTES_MAX} bytes")));
        } else if let Err(problem) = globs.add(glob) {
            problems.push((field, "MALFORMED", problem.to_owned()));
        }
    }
    globs
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// 100 bytes; the server saw it at 50 s, its author changed it at 20 s.
    const FILE: Candidate<'static> = Candidate {
        path_relative: "docs/Report.PDF",
        kind: Kind::File,
        size: Some(100),
        server_modified: None,
        client_modified: None,
        depth: 2,
    };

    fn file() -> Candidate<'static> {
        Candidate { server_modified: Some(at(50)), client_modified: Some(at(20)), ..FILE }
    }

    fn globs(list: &[&str]) -> Vec<String> {
        list.iter().map(|glob| glob.to_string()).collect()
    }

    #[test]
    fn a_filter_lets_through_what_it_says() {
        let all = FilterSpec::default;
        let any = || FilterSpec { bounds: Bounds::Any, ..all() };
        let client = || FilterSpec { time_field: TimeField::ClientModified, ..all() };
        let table: Vec<(&str, FilterSpec, bool)> = vec![
            ("nothing asked", all(), true),
            ("included", FilterSpec { include_globs: globs(&["x", "**/*.pdf"]), ..all() }, true),
            ("not included", FilterSpec { include_globs: globs(&["*.pdf"]), ..all() }, false),
            ("excluded", FilterSpec { exclude_globs: globs(&["docs/**"]), ..all() }, false),
            (
                "included and excluded",
                FilterSpec { include_globs: globs(&["**"]), exclude_globs: globs(&["**/r*"]), ..all() },
                false,
            ),
            ("case", FilterSpec { include_globs: globs(&["**/*.pdf"]), case_sensitive: true, ..all() }, false),
            ("kind", FilterSpec { kinds: vec![Kind::Folder, Kind::File], ..all() }, true),
            ("other kind", FilterSpec { kinds: vec![Kind::Folder], ..all() }, false),
            ("depth", FilterSpec { max_depth: 2, ..all() }, true),
            ("too deep", FilterSpec { max_depth: 1, ..all() }, false),
            ("smallest", FilterSpec { min_size: Some(100), max_size: Some(100), ..all() }, true),
            ("too small", FilterSpec { min_size: Some(101), ..all() }, false),
            ("too large", FilterSpec { max_size: Some(99), ..all() }, false),
            ("time", FilterSpec { modified_after: Some(at(50)), modified_before: Some(at(50)), ..all() }, true),
            ("too old", FilterSpec { modified_after: Some(at(51)), ..all() }, false),
            ("too new", FilterSpec { modified_before: Some(at(49)), ..all() }, false),
            ("client's time", FilterSpec { modified_before: Some(at(20)), ..client() }, true),
            ("client's time, too old", FilterSpec { modified_after: Some(at(21)), ..client() }, false),
            ("all bounds", FilterSpec { min_size: Some(1), modified_after: Some(at(51)), ..all() }, false),
            ("any bound", FilterSpec { min_size: Some(1), modified_after: Some(at(51)), ..any() }, true),
            ("no bound holds", FilterSpec { min_size: Some(101), modified_after: Some(at(51)), ..any() }, false),
            ("any of none", any(), true),
            (
                "any bound, but not the kind",
                FilterSpec { min_size: Some(1), kinds: vec![Kind::Deleted], ..any() },
                false,
            ),
        ];
        for (name, spec, expected) in table {
            assert_eq!(ItemFilter::new(spec).expect(name).matches(&file()), expected, "{name}");
        }
    }

    #[test]
    fn folders_and_deletions_fail_every_bound() {
        for kind in [Kind::Folder, Kind::Deleted] {
            for bounds in [Bounds::All, Bounds::Any] {
                let bounded = [
                    FilterSpec { bounds, min_size: Some(0), ..FilterSpec::default() },
                    FilterSpec { bounds, max_size: Some(u64::MAX), ..FilterSpec::default() },
                    FilterSpec { bounds, modified_after: Some(at(0)), ..FilterSpec::default() },
                    FilterSpec { bounds, modified_before: Some(at(99)), ..FilterSpec::default() },
                ];
                for spec in bounded {
                    assert!(!ItemFilter::new(spec).expect("valid").matches(&Candidate { kind, ..file() }));
                }
                let free = FilterSpec { bounds, ..FilterSpec::default() };
                assert!(ItemFilter::new(free).expect("valid").matches(&Candidate { kind, ..file() }));
            }
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let mut include = globs(&["ok", "[a", &"x".repeat(1025)]);
        include.push("y".repeat(1024));
        let fault = ItemFilter::new(FilterSpec {
            include_globs: include,
            exclude_globs: vec!["a".to_owned(); 33],
            min_size: Some(2),
            max_size: Some(1),
            modified_after: Some(at(2)),
            modified_before: Some(at(1)),
            ..FilterSpec::default()
        })
        .expect_err("much is wrong");
        assert_eq!(fault.reason(), Reason::InvalidField);
        let told: Vec<_> = fault.violations().iter().map(|it| (it.field.as_str(), it.reason)).collect();
        assert_eq!(
            told,
            [
                ("filter.include_globs[1]", "MALFORMED"),
                ("filter.include_globs[2]", "OUT_OF_RANGE"),
                ("filter.exclude_globs", "OUT_OF_RANGE"),
                ("filter.max_size", "OUT_OF_RANGE"),
                ("filter.modified_before", "OUT_OF_RANGE"),
            ]
        );
    }
}
