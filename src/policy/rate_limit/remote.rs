//! Buckets that are not in this process: what is asked of whoever has them.

use std::pin::Pin;
use std::sync::Arc;

use smallvec::SmallVec;

use super::config::OnError;
use crate::exchange::allowance::{Lender, Loan};
use crate::limits::bucket::{Drawn, Rate};
use crate::timer::Wheel;

/// A request for tokens of a bucket.
pub struct RemoteAsk {
    /// The bucket's key.
    pub key: Arc<str>,
    /// How it fills.
    pub rate: Rate,
    /// Tokens.
    pub cost: u64,
}

/// A bucket after it was asked.
pub struct RemoteLevel {
    /// Units that it lacks.
    pub lacks: u64,
    /// What came of the request. If any of those asked together is not granted, none is taken from.
    pub drawn: Drawn,
    /// To give it back.
    pub loan: Loan,
}

/// Levels of buckets that were asked together.
pub type RemoteLevels = SmallVec<[RemoteLevel; 2]>;

/// It did not answer, or not in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away;

/// Whoever has the buckets.
pub trait Remote: Lender {
    /// Draws from all of these buckets, or from none.
    fn draw<'a>(
        &'a self,
        asks: &'a [RemoteAsk],
        wheel: &'a Wheel,
    ) -> Pin<Box<dyn Future<Output = Result<RemoteLevels, Away>> + 'a>>;

    /// The same, as one who takes things back.
    fn lender(self: Arc<Self>) -> Arc<dyn Lender>;
}

/// Where the buckets of a limit are, if they are not in this process.
pub struct Elsewhere {
    /// With whom.
    pub remote: Arc<dyn Remote>,
    /// What their keys begin with.
    pub prefix: Box<str>,
    /// How they fill: what is in this process stands in for them, at a share of it.
    pub rate: Rate,
    /// What happens while nobody answers.
    pub on_error: OnError,
}
