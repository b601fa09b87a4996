//! Hot loops whose instructions CI holds: the tests called `…_is_counted` do them within [`counted`] and look at
//! what came out; `make counts` runs each under Valgrind and compares what it counted there with `tests/counts/budgets.txt`.

/// What runs in here is counted. The name is what `tests/counts/run.sh` looks for.
#[inline(never)]
pub(crate) fn counted<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}
