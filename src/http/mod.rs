//! HTTP without opinions: bodies, headers, paths, framing, refusals. No configuration, no state.

pub mod body;
pub mod encoded;
pub mod forwarded;
pub mod framing;
pub mod grpc;
pub mod headers;
pub mod path;
pub mod problem;
pub mod reserved;
pub mod websocket;
