//! Sockets: who accepts, which worker serves, how a connection is spoken to, and how all of it ends.

pub mod admin;
mod bound;
mod connection;
mod door;
pub mod drain;
mod farewell;
pub mod gate;
mod handshake;
mod http1;
mod http2;
pub mod listener;
mod proxied;
mod rt;
mod socket_file;
mod tunnel;
mod wire;
pub mod worker;
