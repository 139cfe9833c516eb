//! Limits: how much of something a caller may have. Buckets of tokens, by key; time is an argument throughout.
//!
//! [`bucket`] is the arithmetic of one bucket, [`table`] holds the buckets of many keys in little memory, [`store`] shares
//! them among workers and draws from several at once, all or nothing. [`key`] says whose bucket it is, [`fields`] what
//! clients are told. Policies ask ([`crate::policy`]); the exchange remembers what was drawn ([`crate::exchange`]).

pub mod ban;
pub mod bucket;
pub mod fields;
pub mod flight;
pub mod key;
pub mod names;
pub mod store;
mod sync;
pub mod table;

#[cfg(test)]
mod tests;
