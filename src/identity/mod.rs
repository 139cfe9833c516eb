//! Who calls: tokens, keys, and the providers that vouch for callers.
//!
//! `token.rs` reads a compact JWS, `key.rs` and `jwk.rs` hold what checks its signature, `verify.rs` says what must hold
//! of it, `cache.rs` remembers what was found good, and `provider.rs` puts them together. None of them reads a clock.

pub mod cache;
mod compile;
pub mod defect;
mod jwk;
pub mod key;
pub mod provider;
mod token;
pub mod verify;

pub use compile::{Providers, compile};
pub use defect::Defect;
pub use provider::{JwtProvider, Provider, Refusal};
