//! The recipes of the README, run as they are pasted.
