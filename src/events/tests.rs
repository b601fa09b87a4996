//! Tests of the hub that need no server: when feeds work, the model of random stories, and what it is told by.

mod acts;
mod figures;
mod hub;
mod listener;
mod model;
mod oracle;
mod rings;
mod slow;
mod standing;
mod steps;
pub(super) mod truth;
mod turns;
