//! Tokens and idempotency keys: keyed hashes of an operation and the name of a promise.
//!
//! The key is a secret of the operation, which is random and is not known to clients, together with the secret of the
//! application if there is one. So a token is the same in each run, reveals neither the operation nor the name, and no
//! token has to be stored.

use crate::record::digest;

/// The number of hexadecimal digits, for 128 bits.
const DIGITS: usize = 32;

fn derive(purpose: &str, application: &[u8], secret: &str, name: &str) -> String {
    let parts = [
        application,
        secret.as_bytes(),
        purpose.as_bytes(),
        name.as_bytes(),
    ];
    let mut token = digest(&parts);
    token.truncate(DIGITS);
    token
}

/// Returns the token with which a promise is settled from outside.
pub(super) fn outside(application: &[u8], secret: &str, name: &str) -> String {
    derive("outside", application, secret, name)
}

/// Returns the key with which another service recognises that a call is repeated.
pub(super) fn idempotency_key(application: &[u8], secret: &str, name: &str) -> String {
    derive("idempotency", application, secret, name)
}

/// Whether two tokens are equal. The time does not depend on how much of them is equal.
pub(super) fn is_same(token: &str, other: &str) -> bool {
    // Equal digests mean equal tokens, and a caller cannot choose where digests differ.
    digest(&[token.as_bytes()]) == digest(&[other.as_bytes()])
}
