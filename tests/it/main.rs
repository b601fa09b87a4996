//! One test binary; a module per area, named as the proto files.

mod admin;
mod doors;
mod emulator;
mod faults;
mod items;
mod python;
mod raw_api;
mod rooms;
mod schema;
mod smoke;
mod sharing;
mod sdk;
mod sharing;
mod support;
mod tools;
