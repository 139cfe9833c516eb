//! What a route does once nobody objects.

pub mod aggregate;
pub mod batch;
mod call;
mod coding;
mod errand;
mod fallback;
mod fill;
pub mod json;
mod mirror;
mod outgoing;
mod proxy;
mod redirect;
mod respond;
mod rewrite;
pub mod saga;
mod shape;

use std::rc::Rc;

use http::Response;

use crate::exchange::{Exchange, Reason, Rejection};
use crate::http::body::Body;
use crate::upstream::Pools;
pub use aggregate::Aggregate;
pub use batch::Batch;
pub use coding::Coding;
pub use errand::{Errands, PartCall};
pub use fallback::Fallback;
pub use json::Json;
pub use outgoing::Surroundings;
pub use proxy::Proxy;
pub use redirect::Redirect;
pub use respond::Respond;
pub use saga::Saga;

/// A route's action.
pub enum Action {
    /// Send the request to an upstream and its answer back.
    Proxy(Proxy),
    /// Ask several upstreams and answer with one document.
    Aggregate(Aggregate),
    /// Answer many requests in one, each by its own route.
    Batch(Batch),
    /// Change several upstreams in turn, and undo what was done if one fails.
    Saga(Saga),
    /// Answer with fixed content.
    Respond(Respond),
    /// Send the client elsewhere.
    Redirect(Redirect),
}

impl Action {
    /// Whether the request leaves armiger, and so needs the headers of a forwarded request.
    pub fn forwards(&self) -> bool {
        matches!(self, Self::Proxy(_) | Self::Aggregate(_) | Self::Saga(_))
    }

    /// Whether the request goes to somebody else's service, which is not to see credentials.
    pub fn is_third_party(&self) -> bool {
        match self {
            Self::Proxy(proxy) => proxy.is_third_party(),
            // A part gets a credential only where the file says so by name.
            Self::Aggregate(_) | Self::Batch(_) | Self::Saga(_) | Self::Respond(_) | Self::Redirect(_) => false,
        }
    }

    /// What stands in for an upstream that fails.
    pub fn fallback(&self) -> Option<&Fallback> {
        match self {
            Self::Proxy(proxy) => proxy.fallback(),
            Self::Aggregate(_) | Self::Batch(_) | Self::Saga(_) | Self::Respond(_) | Self::Redirect(_) => None,
        }
    }

    /// The answer of an action that waits for nobody.
    pub fn at_once(&self, exchange: &mut Exchange) -> Option<Result<Response<Body>, Rejection>> {
        match self {
            Self::Respond(respond) => Some(Ok(respond.run(exchange.request.headers_mut()))),
            Self::Redirect(redirect) => Some(redirect.run(exchange)),
            Self::Proxy(_) | Self::Aggregate(_) | Self::Batch(_) | Self::Saga(_) => None,
        }
    }

    /// Acts.
    pub async fn run(
        &self,
        exchange: &mut Exchange,
        pools: &Rc<Pools>,
        errands: &dyn Errands,
    ) -> Result<Response<Body>, Rejection> {
        match self {
            // In line, for most exchanges need it, and nobody moves it: a box of its size costs 600 instructions.
            Self::Proxy(proxy) => proxy.run(exchange, pools).await,
            Self::Aggregate(aggregate) => Box::pin(aggregate.run(exchange, pools, errands)).await,
            // The walk sees to these itself: each request of a batch is one, and a saga goes on when its client is gone.
            Self::Batch(_) | Self::Saga(_) => Err(Reason::Internal.into()),
            Self::Respond(respond) => Ok(respond.run(exchange.request.headers_mut())),
            Self::Redirect(redirect) => redirect.run(exchange),
        }
    }
}
