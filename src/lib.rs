//! The Dropbox connector: a gRPC microservice in front of Dropbox's HTTP API.
//!
//! A request crosses the rooms in one direction:
//!
//! ```text
//! gRPC → service → engine → dropbox → (Dropbox | emulator)
//!          ├→ convert            proto ⇄ Dropbox types, field checks; pure
//!          ├→ events             the watch hub → dropbox, store
//!          └→ credentials        application-parameter id → Caller
//! http (live, ready, metrics) → telemetry, ready
//! store ← credentials, engine, service
//! ```
//!
//! Leaves, free to every room but `emulator`: `fault secret seal clock limits config api access ready page fair`.
//! `tests/it/rooms.rs` holds these arrows.

pub mod access;
pub mod apart;
pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod convert;
#[cfg(test)]
mod counted_tests;
pub mod credentials;
pub mod dropbox;
pub mod emulator;
pub mod engine;
pub mod events;
pub mod fair;
pub mod fault;
pub mod http;
pub mod lease;
pub mod limits;
pub mod page;
pub mod ready;
pub mod seal;
pub mod secret;
pub mod service;
pub mod store;
pub mod telemetry;
