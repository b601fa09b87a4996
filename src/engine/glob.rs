//! Globs over paths: `*` and `?` stop at `/`, `**` crosses it, `[a-z]` and `[!a-z]` are one character, `{a,b}` is either,
//! `\` takes the next character as it is. All globs of a set are one automaton that reads a path once, so no glob can
//! make a match slow; it works on characters, where the `globset` crate takes `?` for a byte.

/// Globs of which one has to match.
#[derive(Debug, Clone)]
pub(super) struct Globs {
    program: Vec<Step>,
    case_sensitive: bool,
}

#[derive(Debug, Clone)]
enum Step {
    One(char),
    NotSlash,
    Any,
    Class { negated: bool, ranges: Vec<(char, char)> },
    Either(usize, usize),
    Jump(usize),
    Match,
}

impl Globs {
    pub(super) fn new(case_sensitive: bool) -> Self {
        Self { program: Vec::new(), case_sensitive }
    }

    /// Adds a glob. The error says what is wrong with it.
    pub(super) fn add(&mut self, glob: &str) -> Result<(), &'static str> {
        if glob.is_empty() {
            return Err("is empty");
        }
        if glob.starts_with('/') {
            return Err("starts with '/', but globs are relative to the base path");
        }
        let before = self.program.len();
        // Tries this glob, else the one added next.
        self.program.push(Step::Either(before + 1, 0));
        let mut compiler =
            Compiler { rest: glob.chars().collect(), at: 0, program: &mut self.program, fold: !self.case_sensitive };
        let parsed = compiler.sequence(0, true).map(|_| ());
        if let Err(problem) = parsed {
            self.program.truncate(before);
            return Err(problem);
        }
        self.program.push(Step::Match);
        self.program[before] = Step::Either(before + 1, self.program.len());
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.program.is_empty()
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        let mut now = Threads::new(self.program.len());
        let mut next = Threads::new(self.program.len());
        now.add(&self.program, 0);
        for char in path.chars() {
            if now.list.is_empty() {
                return false;
            }
            next.clear();
            for at in &now.list {
                if self.takes(&self.program[*at], char) {
                    next.add(&self.program, at + 1);
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        now.matched
    }

    fn takes(&self, step: &Step, char: char) -> bool {
        match step {
            Step::One(wanted) if self.case_sensitive => *wanted == char,
            Step::One(wanted) => *wanted == dbxcase::dbx_lowercase(char),
            Step::NotSlash => char != '/',
            Step::Any => true,
            Step::Class { negated, ranges } => {
                let within = |char| ranges.iter().any(|(low, high)| (*low..=*high).contains(&char));
                let found = within(char)
                    || !self.case_sensitive
                        && (within(dbxcase::dbx_lowercase(char)) || char.to_uppercase().next().is_some_and(within));
                char != '/' && found != *negated
            }
            Step::Either(..) | Step::Jump(_) | Step::Match => false,
        }
    }
}

/// Where the automaton stands: each step once.
struct Threads {
    list: Vec<usize>,
    seen: Vec<bool>,
    open: Vec<usize>,
    matched: bool,
}

impl Threads {
    fn new(len: usize) -> Self {
        Self { list: Vec::new(), seen: vec![false; len], open: Vec::new(), matched: false }
    }

    fn clear(&mut self) {
        self.list.clear();
        self.seen.fill(false);
        self.matched = false;
    }

    fn add(&mut self, program: &[Step], at: usize) {
        self.open.push(at);
        while let Some(at) = self.open.pop() {
            // Behind the last glob there is nothing to try.
            let Some(step) = program.get(at) else { continue };
            if std::mem::replace(&mut self.seen[at], true) {
                continue;
            }
            match step {
                Step::Either(one, other) => self.open.extend([*one, *other]),
                Step::Jump(to) => self.open.push(*to),
                Step::Match => self.matched = true,
                _ => self.list.push(at),
            }
        }
    }
}

struct Compiler<'a> {
    rest: Vec<char>,
    at: usize,
    program: &'a mut Vec<Step>,
    fold: bool,
}

/// `{` within `{` goes no deeper than this.
const DEPTH_MAX: usize = 16;

impl Compiler<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += 1;
        Some(char)
    }

    /// Up to the end of the glob, or within braces up to `,` or `}`. `fresh`: at the start of a path component; returns
    /// the same of its end.
    fn sequence(&mut self, depth: usize, mut fresh: bool) -> Result<bool, &'static str> {
        while let Some(char) = self.peek() {
            if depth > 0 && (char == ',' || char == '}') {
                break;
            }
            self.at += 1;
            match char {
                '*' => fresh = self.stars(fresh),
                '?' => (fresh, _) = (false, self.program.push(Step::NotSlash)),
                '[' => (fresh, _) = (false, self.class()?),
                '{' => fresh = self.either(depth + 1, fresh)?,
                '}' => return Err("has a '}' without its '{'"),
                '\\' => {
                    let literal = self.take().ok_or("ends in '\\'")?;
                    fresh = self.literal(literal);
                }
                literal => fresh = self.literal(literal),
            }
        }
        Ok(fresh)
    }

    fn literal(&mut self, char: char) -> bool {
        self.program.push(Step::One(if self.fold { dbxcase::dbx_lowercase(char) } else { char }));
        char == '/'
    }

    /// `*`, or `**`, or at the start of a component `**/`: any number of components, none included.
    fn stars(&mut self, fresh: bool) -> bool {
        let mut count = 1;
        while self.peek() == Some('*') {
            self.at += 1;
            count += 1;
        }
        let start = self.program.len();
        if count > 1 && fresh && self.peek() == Some('/') {
            self.at += 1;
            self.program.push(Step::Either(start + 1, start + 4));
            self.program.push(Step::Any);
            self.program.push(Step::Either(start + 1, start + 3));
            self.program.push(Step::One('/'));
            return true;
        }
        self.program.push(Step::Either(start + 1, start + 3));
        self.program.push(if count > 1 { Step::Any } else { Step::NotSlash });
        self.program.push(Step::Jump(start));
        false
    }

    fn either(&mut self, depth: usize, fresh: bool) -> Result<bool, &'static str> {
        if depth > DEPTH_MAX {
            return Err("nests '{' too deeply");
        }
        let mut ends = Vec::new();
        let mut all_fresh = true;
        loop {
            let choice = self.program.len();
            self.program.push(Step::Jump(choice + 1));
            all_fresh &= self.sequence(depth, fresh)?;
            match self.take() {
                Some(',') => {
                    ends.push(self.program.len());
                    self.program.push(Step::Match);
                    self.program[choice] = Step::Either(choice + 1, self.program.len());
                }
                Some(_) => break,
                None => return Err("has a '{' without its '}'"),
            }
        }
        let end = self.program.len();
        for jump in ends {
            self.program[jump] = Step::Jump(end);
        }
        Ok(all_fresh)
    }

    fn class(&mut self) -> Result<(), &'static str> {
        const OPEN: &str = "has a '[' without its ']'";
        let negated = matches!(self.peek(), Some('!' | '^'));
        if negated {
            self.at += 1;
        }
        let mut ranges = Vec::new();
        loop {
            let low = match self.take().ok_or(OPEN)? {
                // The first `]` is a character like any other.
                ']' if !ranges.is_empty() => break,
                '\\' => self.take().ok_or(OPEN)?,
                char => char,
            };
            let is_range = self.peek() == Some('-') && self.rest.get(self.at + 1).is_some_and(|char| *char != ']');
            let high = match is_range {
                false => low,
                true => {
                    self.at += 1;
                    match self.take().ok_or(OPEN)? {
                        '\\' => self.take().ok_or(OPEN)?,
                        char => char,
                    }
                }
            };
            if low > high {
                return Err("has a range in '[]' that runs backwards");
            }
            ranges.push((low, high));
        }
        self.program.push(Step::Class { negated, ranges });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(list: &[&str], case_sensitive: bool) -> Globs {
        let mut globs = Globs::new(case_sensitive);
        list.iter().for_each(|glob| globs.add(glob).expect("a good glob"));
        globs
    }

    #[test]
    fn a_glob_matches_what_it_says() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("*.pdf", &["a.pdf", ".pdf", "ä.PDF"], &["x/a.pdf", "a.pdf/", "a.pdfx", ""]),
            ("**/*.pdf", &["a.pdf", "x/a.pdf", "x/y/a.pdf"], &["a.txt", "xa.pdf/b"]),
            ("a/**", &["a/b", "a/b/c"], &["a", "ab/c", "b/a/c"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "a/xb", "a/bx"]),
            ("**", &["a", "a/b/c"], &[]),
            ("a**b", &["ab", "a/x/b", "axb"], &["a/x"]),
            ("?", &["a", "é", "😀"], &["", "ab", "/"]),
            ("a?c", &["abc", "aßc"], &["a/c", "ac"]),
            ("[a-c]x", &["ax", "Bx"], &["dx", "x"]),
            ("[!a-c]x", &["dx", "äx"], &["ax", "Ax", "/x"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a-]", &["-", "a"], &["b"]),
            ("[а-я]", &["ж", "Ж"], &["z"]),
            ("{a,b/*,c{1,2}}.t", &["a.t", "b/x.t", "c1.t", "C2.T"], &["c.t", "b.t", "c3.t"]),
            ("{src/,}**/*.rs", &["a.rs", "src/a.rs", "src/x/a.rs"], &["a.r"]),
            ("x{,y}", &["x", "xy"], &["xyy"]),
            (r"\*\{", &["*{"], &["a{"]),
            ("a,b", &["a,b"], &["a"]),
            ("ÄÖ*", &["äö1", "ÄÖ"], &["ao"]),
        ];
        for (glob, yes, no) in table {
            let globs = globs(&[glob], false);
            for path in *yes {
                assert!(globs.matches(path), "{glob} takes {path}");
            }
            for path in *no {
                assert!(!globs.matches(path), "{glob} leaves {path}");
            }
        }
    }

    #[test]
    fn case_counts_when_it_is_said_to() {
        let globs = globs(&["Ab*", "[x-z]"], true);
        assert!(globs.matches("Abc") && globs.matches("y"));
        assert!(!globs.matches("abc") && !globs.matches("Y"));
    }

    #[test]
    fn one_of_several_globs_is_enough_and_none_matches_nothing() {
        let several = globs(&["a", "b*", "c/d"], false);
        assert!(["a", "bx", "c/d"].iter().all(|path| several.matches(path)));
        assert!(!several.matches("c"));
        assert!(!globs(&[], false).matches("") && globs(&[], false).is_empty());
    }

    #[test]
    fn a_bad_glob_is_refused_and_leaves_the_others_as_they_were() {
        let mut globs = globs(&["a"], false);
        let deep = format!("{}{}", "{".repeat(17), "}".repeat(17));
        for bad in ["", "/a", "[a", "[", "[!]", "{a", "a}", r"a\", "[z-a]", "{a,{b}", &deep] {
            assert!(globs.add(bad).is_err(), "{bad}");
        }
        assert!(globs.matches("a") && !globs.matches("b"));
        globs.add("b").expect("a good glob");
        assert!(globs.matches("b"));
    }

    #[test]
    fn a_glob_made_to_be_slow_is_not() {
        let globs = globs(&[&"{a,a}*".repeat(170)], false);
        let path = format!("{}b/", "a".repeat(1000));
        let start = std::time::Instant::now();
        assert!(!globs.matches(&path));
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
