//! Tests of the hub that need no server: the model of random stories, and what it is told by.

mod acts;
mod listener;
mod model;
mod oracle;
pub(super) mod truth;
