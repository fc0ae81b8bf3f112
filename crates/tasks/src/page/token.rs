//! The tokens of forms. A page of another site does not know them.

use crate::tasks::Core;
use crate::{Principal, TaskId};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::time::Duration;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::same_site::is_same;
use uuid::Uuid;

/// The key of the secret in the store. All processes share it, because any of them may answer a form.
const KEY: &str = "task/page/secret";

/// How long a secret is used. Forms that are older than the next one are refused.
const KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How often the secret is read. Another process may create it meanwhile, so two attempts suffice.
const ATTEMPTS: usize = 3;

/// The secret of all forms.
pub(super) struct Secret(String);

impl Secret {
    /// Reads the secret, and creates it at first. So a view with a form needs a call to the store.
    pub(super) async fn read(core: &Core) -> Result<Self, BackendError> {
        let backend = &core.records.backend;
        for _ in 0..ATTEMPTS {
            if let Some(secret) = backend.read(KEY).await? {
                return Ok(Self(secret));
            }
            // 244 random bits.
            let secret = [(); 2].map(|()| Uuid::new_v4().simple().to_string());
            let secret = secret.concat();
            if backend.create(KEY, &secret, KEPT).await? {
                return Ok(Self(secret));
            }
        }
        Err(BackendError::unavailable("the store loses values"))
    }

    /// Returns the token of the forms that change a task, for the principal that sees them.
    pub(super) fn token(&self, viewer: &Principal, id: &TaskId) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes())
            .expect("HMAC takes keys of any length");
        for text in [viewer.as_str(), id.as_str()] {
            mac.update(&(text.len() as u64).to_be_bytes());
            mac.update(text.as_bytes());
        }
        let tag = mac.finalize().into_bytes();
        tag.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn accepts(&self, token: &str, viewer: &Principal, id: &TaskId) -> bool {
        is_same(token.as_bytes(), self.token(viewer, id).as_bytes())
    }
}
