//! One test binary; a module per area, named as the proto files.

mod admin;
mod doors;
mod drain;
mod emulator;
mod items;
mod python;
mod raw_api;
mod resume;
mod rooms;
mod schema;
mod sdk;
mod sharing;
mod smoke;
mod support;
mod tools;
mod transfer;
