//! One test binary; a module per area, named as the proto files.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

mod access;
mod admin;
mod ambiguous;
mod cli;
mod cli_tls;
mod commits;
mod deadlines;
mod deploy;
mod doors;
mod drain;
mod egress;
mod emulator;
mod events;
mod fair;
mod faults;
mod full_disk;
mod gate;
mod items;
mod jail;
mod keys;
mod listing;
mod members;
mod oauth;
mod python;
mod raw_api;
mod readme;
mod replace;
mod resume;
mod rooms;
mod schema;
mod sdk;
mod secrets;
mod server;
mod sharing;
mod smoke;
mod store;
mod support;
mod sync;
mod tools;
mod transfer;
mod web;
mod webhooks;
