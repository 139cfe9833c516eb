//! The order in which policies are asked. The only place where it is decided.

/// A fixed point in the order. Policies of one stage are asked in the alphabetical order of their keys.
///
/// The order in the YAML file has no say: an address limit that somebody wrote below an expensive check would protect
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// What is done to every response, whoever answers? Comes first, so that it has its word on all that follow.
    Always,
    /// A browser's question whether it may ask (CORS). Carries no credentials, so nothing else can be asked of it.
    Preflight,
    /// Is this worth any work? Needs no identity and costs little.
    Admit,
    /// Who is it?
    Authenticate,
    /// May they?
    Authorize,
    /// Have they had enough? Needs an identity.
    Limit,
    /// Is the answer known already? After all that may refuse, so that a stored answer is for none who may not have it.
    Answer,
    /// Is there a place for one more? Asked late: whoever is refused anyhow takes none.
    Occupy,
    /// What must the upstream see? Asked last, so that no rejected request pays for it.
    Prepare,
}

impl Stage {
    /// Its name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Preflight => "preflight",
            Self::Admit => "admit",
            Self::Authenticate => "authenticate",
            Self::Authorize => "authorize",
            Self::Limit => "limit",
            Self::Answer => "answer",
            Self::Occupy => "occupy",
            Self::Prepare => "prepare",
        }
    }
}
