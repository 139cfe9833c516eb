//! Who calls: tokens, keys, and the providers that vouch for callers.
//!
//! `token.rs` reads a compact JWS, `key.rs` and `jwk.rs` hold what checks its signature, `verify.rs` says what must hold
//! of it, `cache.rs` remembers what was found good, and `provider.rs` puts them together. None of them reads a clock.
//!
//! What an issuer must be asked for is fetched in the background: its keys (`jwks.rs`, by the schedule in `pace.rs`) and
//! its word about opaque tokens (`introspection.rs`), both by `client.rs`. `mtls.rs` reads certificates of clients.

pub mod api_key;
pub mod cache;
mod client;
mod compile;
pub mod defect;
pub mod introspection;
mod jwk;
pub mod jwks;
pub mod key;
pub mod mint;
pub mod mtls;
mod pace;
pub mod provider;
mod recent;
mod token;
pub mod verify;

pub use compile::{Providers, compile};
pub use defect::Defect;
pub use provider::{JwtProvider, Provider, Refusal};
