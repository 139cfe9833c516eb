//! How an upstream's endpoints share its requests: `balance`, `ejection`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::HumanDuration;

/// How endpoints share the requests. In each way an endpoint that is ejected, found ill by `health`, or kept by its
/// breaker gets none as long as another may have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The one with the fewest requests in flight, by their weights: of all up to eight endpoints, of more than that of two that
    /// chance picks. Shuns what is slow by itself.
    #[default]
    LeastRequests,
    /// One after the other, as often as their weights say.
    RoundRobin,
    /// By chance, as often as their weights say.
    Random,
    /// Requests that are alike in this go to the same endpoint, and to another only while that one is out.
    Hash(HashKey),
}

/// What makes requests alike.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The client's address.
    ClientAddress,
    /// The path, without its query.
    Path,
    /// The value of this header. Requests without it go by chance.
    Header(String),
}

/// Takes an endpoint out for a while that failed several times in a row, as long as others are left.
///
/// It differs from a breaker: it never refuses a request, and so never takes out the last endpoint. What counts as failure
/// is what `breaker.failure` says, or its defaults, be it that another endpoint answered in the end: an HTTP/2 endpoint that
/// refuses every stream has failed like one that cannot be reached. One stream refused now and then, or among others, is
/// none.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// So many failures in a row take an endpoint out.
    pub consecutive: u32,
    /// For how long, the first time; each further time adds as much.
    pub base: HumanDuration,
    /// The most that this grows to.
    pub max: HumanDuration,
    /// The share of the endpoints that may be out at once, above 0 and up to 1. It is never exceeded, and one endpoint always
    /// stays.
    pub share_max: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { consecutive: 3, base: HumanDuration::seconds(10), max: HumanDuration::seconds(300), share_max: 0.5 }
    }
}
