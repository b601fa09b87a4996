//! The same listing for the same user, made twice at once, is refused the second time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use crate::emulator::{Call, Refusal, hold};

/// Listings being made.
#[derive(Debug, Clone, Default)]
pub(in crate::emulator) struct Listings(Arc<Mutex<HashSet<String>>>);

/// One of them; it is made until its answer is sent.
#[derive(Debug)]
pub(in crate::emulator) struct Listing {
    listings: Listings,
    key: String,
}

impl Drop for Listing {
    fn drop(&mut self) {
        hold(&self.listings.0).remove(&self.key);
    }
}

impl Listings {
    /// # Errors
    /// `TooManyRequests`
    pub fn enter(&self, call: &Call<'_>) -> Result<Option<Listing>, Refusal> {
        let name = call.route.name.as_str();
        if !["files/list_folder", "files/list_folder/continue"].contains(&name) {
            return Ok(None);
        }
        let key = format!("{name} {} {} {}", call.account(), call.root, call.arg);
        match hold(&self.0).insert(key.clone()) {
            true => Ok(Some(Listing { listings: self.clone(), key })),
            false => Err(Refusal::TooManyRequests),
        }
    }
}
