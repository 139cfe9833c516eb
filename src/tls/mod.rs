//! TLS: certificates and keys from texts to what rustls works with.
//!
//! aws-lc-rs does the cryptography, and is named wherever rustls is set up: nothing is installed for the whole process.

pub mod client;
pub mod ending;
pub mod expiry;
pub mod peer;
pub mod pem;
pub mod server;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// What does the cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
