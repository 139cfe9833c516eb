//! What we saw: metrics, the access log and its record, trace context and request ids, and our own messages.
//!
//! Observation never decides: nothing here changes an exchange, and nothing here can fail one. A log that cannot be
//! written is counted; a trace header that cannot be read is replaced.

pub mod access_log;
pub mod finish;
pub mod messages;
pub mod metrics;
pub mod record;
pub mod trace;
