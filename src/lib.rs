//! armiger: a sidecar proxy that carries what every production API needs and no service should write again.
//!
//! The folders, in the order in which a reader meets them: the user wrote a [`config`]; [`http`] needs helpers; we watch
//! ([`telemetry`]); [`limits`] count; a request becomes an [`exchange`]; [`upstream`]s are reached; [`policy`] demands; [`action`] does; a
//! [`snapshot`] holds the plan; the [`proxy`] walks it; the [`server`] owns the sockets; [`app`] wires all of it.
//!
//! `ARCHITECTURE.md` has the map. The crate is a program: nothing here is a stable interface.

#![forbid(unsafe_code)]

pub mod action;
pub mod app;
pub mod cli;
pub mod config;
pub mod demo;
pub mod exchange;
pub mod expression;
pub mod http;
pub mod identity;
pub mod keep;
pub mod limits;
pub mod machine;
pub mod policy;
pub mod proxy;
#[cfg(feature = "redis")]
pub mod redis_client;
pub mod server;
pub mod snapshot;
pub mod telemetry;
pub mod timer;
pub mod tls;
pub mod turn;
pub mod upstream;
