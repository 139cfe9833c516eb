//! Sockets: who accepts, which worker serves, how a connection is spoken to, and how all of it ends.

pub mod admin;
mod bound;
mod connection;
pub mod drain;
pub mod gate;
mod handshake;
mod http1;
pub mod listener;
mod proxied;
mod rt;
mod socket_file;
mod stream;
mod tunnel;
mod wire;
pub mod worker;
