//! Tests of the hub that need no server: the model of random stories, and what it is told by.

mod listener;
mod model;
pub(super) mod truth;
