//! How far a request came, for who has to know that of one whose answer never came. Stands in the request's extensions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::Request;

/// How far a request came. Shared by who put it into the request and who carries that out.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU8>);

/// What is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Nothing.
    Unknown,
    /// No upstream has it yet.
    Nobody,
    /// An upstream may have it, or a part of it.
    Upstream,
    /// An upstream has answered.
    Answer,
}

impl Progress {
    /// What is known of it now.
    pub fn reached(&self) -> Reached {
        match self.0.load(Ordering::Acquire) {
            0 => Reached::Unknown,
            1 => Reached::Nobody,
            2 => Reached::Upstream,
            _ => Reached::Answer,
        }
    }

    /// Tells who put it there, if anybody did. What it reached before stays so.
    pub fn tell<B>(request: &Request<B>, reached: Reached) {
        if let Some(Self(progress)) = request.extensions().get() {
            progress.fetch_max(reached as u8, Ordering::AcqRel);
        }
    }

    /// The same, without the request.
    pub fn advance(&self, reached: Reached) {
        self.0.fetch_max(reached as u8, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_reached_stays_so() {
        let (progress, mut request) = (Progress::default(), Request::new(()));
        Progress::tell(&request, Reached::Upstream);
        assert_eq!(progress.reached(), Reached::Unknown, "nobody asked");
        request.extensions_mut().insert(progress.clone());
        for (told, expected) in [
            (Reached::Nobody, Reached::Nobody),
            (Reached::Upstream, Reached::Upstream),
            (Reached::Nobody, Reached::Upstream),
            (Reached::Answer, Reached::Answer),
        ] {
            Progress::tell(&request, told);
            assert_eq!(progress.reached(), expected);
        }
    }
}
