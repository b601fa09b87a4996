//! One test binary; a module per area, named as the proto files.

mod access;
mod admin;
mod ambiguous;
mod cli;
mod doors;
mod emulator;
mod faults;
mod items;
mod jail;
mod listing;
mod python;
mod raw_api;
mod rooms;
mod schema;
mod sdk;
mod secrets;
mod server;
mod sharing;
mod smoke;
mod support;
mod tools;
