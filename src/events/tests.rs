//! Tests of the hub that need no server: the model of random stories, and what it is told by.

mod figures;
mod listener;
mod model;
mod steps;
pub(super) mod truth;
