//! Sockets: who accepts, which worker serves, and how a connection is spoken to.

pub mod admin;
mod connection;
pub mod gate;
pub mod listener;
mod rt;
pub mod worker;
