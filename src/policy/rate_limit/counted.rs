//! A limit, compiled: what all routes share that count by the same name.

use std::sync::Arc;

use serde_json::Value;

use super::remote::Elsewhere;
use crate::exchange::Exchange;
use crate::exchange::identity::ClaimPath;
use crate::limits::ban::Penalty;
use crate::limits::fields::Told;
use crate::limits::store::{Plan, Store};

/// A limit.
pub struct Counted {
    /// Its name; of one that each route has for itself, after the route's.
    pub name: Box<str>,
    /// Who hits it too often is kept out.
    pub penalty: Option<Penalty>,
    /// For everybody that no other says something of.
    pub usual: Bucket,
    /// For callers with a certain claim.
    pub special: Option<Special>,
}

/// Buckets, and how they fill.
pub struct Bucket {
    /// The buckets.
    pub store: Arc<Store>,
    /// How they fill.
    pub plan: Plan,
    /// What clients are told.
    pub told: Arc<Told>,
    /// Where they are in earnest, if not here. Then these stand in for them.
    pub elsewhere: Option<Elsewhere>,
}

/// Other rates for some callers.
pub struct Special {
    /// The claim that tells them apart.
    pub claim: ClaimPath,
    /// Its values.
    pub buckets: Box<[(Box<str>, Bucket)]>,
}

impl Counted {
    /// The buckets that count this request.
    pub fn bucket(&self, exchange: &Exchange) -> &Bucket {
        let Some(special) = &self.special else { return &self.usual };
        let claims = exchange.caller.as_ref().map(|caller| &caller.identity.claims);
        let Some(Value::String(value)) = claims.and_then(|claims| special.claim.find(claims)) else {
            return &self.usual;
        };
        special.buckets.iter().find(|(known, _)| **known == **value).map_or(&self.usual, |(_, bucket)| bucket)
    }

    /// All of its buckets: each with the value of the claim that leads to it.
    pub fn all(&self) -> impl Iterator<Item = (Option<&str>, &Bucket)> {
        let special = self.special.iter().flat_map(|special| &special.buckets);
        std::iter::once((None, &self.usual)).chain(special.map(|(value, bucket)| (Some(&**value), bucket)))
    }
}
