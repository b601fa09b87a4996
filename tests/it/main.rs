//! One test binary; a module per area, named as the proto files.

mod emulator;
mod rooms;
mod sdk;
mod support;
