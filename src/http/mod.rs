//! HTTP without opinions: bodies, headers, paths, framing, refusals. No configuration, no state.

pub mod answer;
pub mod body;
pub mod decimal;
pub mod encoded;
pub mod field_name;
pub mod forwarded;
pub mod framing;
pub mod grpc;
pub mod grpc_web;
pub mod head;
pub mod headers;
pub mod inflow;
pub mod pace;
pub mod path;
pub mod problem;
pub mod proxy_protocol;
pub mod reply;
pub mod request_pool;
pub mod reserved;
pub mod trailers;
pub mod tunnel;
pub mod websocket;
