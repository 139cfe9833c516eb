//! Which headers may carry a credential, by their names.

/// Words in the names of headers that carry credentials.
const CREDENTIAL_WORDS: [&str; 13] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "credential",
    "api-key",
    "api_key",
    "apikey",
    "access-key",
    "x-auth",
    "session",
    "jwt",
];

/// Whether a header of this name, in any case, may carry a credential: its value is then shown nowhere.
///
/// Goes by words in the name, for nobody knows all names: `x-api-key` and `x-amz-security-token` are meant, and a
/// harmless `x-session-count` is hidden with them.
pub fn is_credential(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    CREDENTIAL_WORDS.iter().any(|word| lower.contains(word))
}
