//! What can be wrong with a token. Operators see it, callers never do.

/// Turns rows into the enum and its codes.
macro_rules! defects {
    ($($(#[$doc:meta])* $Defect:ident => $code:literal;)+) => {
        /// What is wrong with a token. The code stands in the log and is the label of the metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Defect { $($(#[$doc])* $Defect,)+ }

        impl Defect {
            /// Every one, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$Defect,)+];

            /// Its stable name.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$Defect => $code,)+ }
            }
        }
    };
}

defects! {
    /// Longer than `token_max`.
    TooLarge => "jwt_too_large";
    /// Not three parts in the one spelling of base64url, or not JSON where it must be (RFC 7515 §7.1).
    Malformed => "jwt_malformed";
    /// A member stands twice in an object: two readers could take different ones (RFC 8725 §2.4 and RFC 7515 §4).
    Duplicate => "jwt_duplicate_member";
    /// `crit` names an extension, and none is understood here (RFC 7515 §4.1.11).
    Critical => "jwt_critical_extension";
    /// `typ` is none of `types` (RFC 8725 §3.11).
    Type => "jwt_type";
    /// `alg` is none that is accepted here; `none` never is (RFC 8725 §3.1).
    Algorithm => "jwt_algorithm";
    /// No provider of the route vouches for this `iss`.
    Issuer => "jwt_issuer";
    /// No key has this `kid`, or none that may be used with this `alg`.
    KeyUnknown => "jwt_kid_unknown";
    /// The token names no key and several could be meant.
    KeyAmbiguous => "jwt_kid_missing";
    /// The signature is not by the key.
    Signature => "jwt_signature";
    /// No `aud` of the token is among `audiences`.
    Audience => "jwt_audience";
    /// `exp` is over.
    Expired => "jwt_expired";
    /// There is no `exp`.
    ExpiryMissing => "jwt_exp_missing";
    /// `nbf` is still to come.
    NotYet => "jwt_not_yet_valid";
    /// `iat` is still to come.
    IssuedInFuture => "jwt_issued_in_future";
    /// `iat` is longer ago than `max_age`, or absent where that counts.
    TooOld => "jwt_too_old";
    /// Valid for longer than `max_lifetime`.
    LifetimeTooLong => "jwt_lifetime_too_long";
    /// A claim that is required is absent.
    ClaimMissing => "jwt_claim_missing";
    /// A claim that is checked has another type than it must have. It is not taken for absent.
    ClaimType => "jwt_claim_type";
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

impl std::error::Error for Defect {}
