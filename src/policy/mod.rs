//! What a route demands. Start reading here: one file per policy, and one row each in the table below.

mod body_limit;
pub mod cache;
pub mod chain;
mod compress;
mod cors;
pub mod exposure;
mod grpc_web;
pub mod guard;
mod headers;
mod identity;
mod in_flight;
mod ip_filter;
pub mod key;
pub mod rate_limit;
mod roles;
mod rules;
pub mod scope;
mod scopes;
pub mod stage;
mod table;

use crate::config::value::Setting;
use crate::exchange::{Exchange, Rejection, Verdict};
pub use chain::Chain;
pub use guard::{Guard, Weaker};
pub use scope::Scope;
pub use stage::Stage;

/// A demand that a route makes.
///
/// It is asked once per exchange, sees all of it and changes nothing: what it wants changed stands in its verdict.
pub trait Policy {
    /// Passes, answers or rejects.
    fn on_request(&self, exchange: &Exchange) -> impl Future<Output = Result<Verdict, Rejection>>;
}

table::policies! {
    // YAML key   type
    // Within a stage those that stand first are asked first: an address that is kept out learns nothing of a limit.
    ip_filter  => IpFilter,
    body_limit => BodyLimit,
    cache      => Cache,
    compress   => Compress,
    cors       => Cors,
    grpc_web   => GrpcWeb,
    headers    => Headers,
    identity   => IdentityPolicy,
    in_flight  => InFlight,
    rate_limit => RateLimit,
    roles      => Roles,
    rules      => Rules,
    scopes     => Scopes,
}

impl Blocks {
    /// Writes what holds in the place of what was left out.
    fn fill(&mut self) {
        if let Setting::On(limits) = &mut self.rate_limit {
            limits.fill();
        }
        if let Setting::On(rules) = &mut self.rules {
            rules.fill();
        }
    }
}
