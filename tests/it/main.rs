//! One test binary; a module per area, named as the proto files.

mod rooms;
mod support;
