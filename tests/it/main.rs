//! One test binary; a module per area, named as the proto files.

mod emulator;
mod python;
mod rooms;
mod schema;
mod sdk;
mod support;
mod tools;
