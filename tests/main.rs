//! The tests: one binary, one file per capability. `cargo test --test main routing::` runs one of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails best where it stands")]

mod aborted_uploads;
mod accounts;
mod admin;
mod aggregate;
mod aggregate_cache;
mod api_keys;
mod batch;
mod breaker;
mod broken_files;
mod bulkhead;
mod cache;
#[cfg(feature = "redis")]
mod cache_shared;
mod check_secrets;
mod compress;
mod config;
mod cut_streams;
mod deadlines;
mod descriptors;
mod diff;
#[cfg(feature = "dns")]
mod dns;
mod drain;
mod example;
mod fallback;
mod grpc;
mod grpc_web;
mod harness;
mod health;
mod hedge;
mod hostile;
mod http2_attacks;
mod in_flight;
mod include;
mod introspection;
mod jwks;
mod jwt;
mod kubernetes;
mod large;
mod late_ends;
mod listeners;
mod mirror;
mod mistakes;
mod mistakes_together;
mod modes;
mod observe;
mod policies;
mod process;
mod proxy;
mod proxy_protocol;
mod rate_limit;
#[cfg(feature = "redis")]
mod rate_limit_shared;
mod reload;
mod retry;
mod routing;
mod rules;
mod saga;
mod shown;
mod slow_clients;
mod slow_readers;
mod slow_uploads;
mod sse;
mod tidy;
mod tls;
mod token;
mod tunnels;
mod unix_sockets;
mod uploads_again;
mod upstream_faults;
mod waiting;
mod websocket;
