use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use tower_promises_backend::BackendError;

const PREFIX: &str = "whsec_";

/// Accepts secrets with and without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A secret that a receiver of webhooks shares with the sender: `whsec_`, and 24 to 64 bytes in base64.
///
/// `Debug` does not show the secret.
///
/// ```
/// use tower_promises_tasks::WebhookSecret;
///
/// let secret = WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// assert_eq!(format!("{secret:?}"), "WebhookSecret");
/// # Ok::<_, tower_promises_tasks::InvalidWebhookSecret>(())
/// ```
#[derive(Clone)]
pub struct WebhookSecret(Arc<[u8]>);

impl WebhookSecret {
    /// Reads a secret. The prefix may be missing.
    ///
    /// # Errors
    ///
    /// [`InvalidWebhookSecret`] if the text is not base64, or has fewer than 24 or more than 64 bytes.
    pub fn new(text: &str) -> Result<Self, InvalidWebhookSecret> {
        let text = text.strip_prefix(PREFIX).unwrap_or(text);
        let bytes = LENIENT.decode(text).map_err(|_| InvalidWebhookSecret)?;
        if !(24..=64).contains(&bytes.len()) {
            return Err(InvalidWebhookSecret);
        }
        Ok(Self(bytes.into()))
    }

    /// Creates a random secret of 32 bytes.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] if the operating system has no random numbers.
    pub fn random() -> Result<Self, BackendError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|error| BackendError::unavailable(format!("no random numbers: {error}")))?;
        Ok(Self(bytes.into()))
    }

    /// Returns the secret as text, with its prefix, to show it to the receiver.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// Returns the signature of a request, with its version.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// Error of a text that is not a [`WebhookSecret`]. It does not contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidWebhookSecret;

impl fmt::Display for InvalidWebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a webhook secret is `whsec_` and 24 to 64 bytes in base64")
    }
}

impl Error for InvalidWebhookSecret {}
