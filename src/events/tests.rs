//! Tests of the hub that need no server: when feeds work, the model of random stories, and what it is told by.

mod hub;
mod listener;
mod model;
pub(super) mod truth;
