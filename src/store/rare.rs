//! What few application parameters have otherwise than by default. There may be tens of thousands in memory, and an unused
//! proxy, policy or timeout is to cost none of them more than a pointer.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::LazyLock,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Policy, ProxySettings, Timeouts};

/// A value that is mostly the default; read and written as if it lay here.
#[derive(Clone)]
pub struct Rare<T>(Option<Box<T>>);

/// Has one default for all.
pub trait Usual: Default + PartialEq + 'static {
    fn usual() -> &'static Self;
}

macro_rules! usual {
    ($($kind:ty),*) => {
        $(impl Usual for $kind {
            fn usual() -> &'static Self {
                static USUAL: LazyLock<$kind> = LazyLock::new(<$kind>::default);
                &USUAL
            }
        })*
    };
}

usual!(Policy, ProxySettings, Timeouts);

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Rare(None)
    }
}

impl<T: Usual> From<T> for Rare<T> {
    fn from(value: T) -> Self {
        Rare((value != *T::usual()).then(|| Box::new(value)))
    }
}

impl<T: Usual> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(kept) => kept,
            None => T::usual(),
        }
    }
}

impl<T: Usual> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Usual> PartialEq for Rare<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Usual + fmt::Debug> fmt::Debug for Rare<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Usual + Serialize> Serialize for Rare<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: Usual + Deserialize<'de>> Deserialize<'de> for Rare<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Rare::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_by_default_is_not_kept_and_reads_the_same() {
        let mut rare = Rare::from(Policy::default());
        assert!(rare.0.is_none() && rare == Rare::default());
        assert_eq!(serde_json::to_value(&rare).unwrap(), serde_json::to_value(Policy::default()).unwrap());
        rare.max_file_size = 7;
        assert!(rare != Rare::default() && rare.max_file_size == 7);
        let again: Rare<Policy> = serde_json::from_value(serde_json::to_value(&rare).unwrap()).unwrap();
        assert_eq!(again, rare);
        assert!(serde_json::from_str::<Rare<Policy>>("{}").unwrap().0.is_none());
    }
}
