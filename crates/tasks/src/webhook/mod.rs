//! Webhooks: signed HTTP requests that are sent from a queue, as *Standard Webhooks* defines them.

mod address;
mod client;
#[cfg(feature = "operations")]
mod operation;
mod secret;
mod sender;
mod task;

pub use secret::{InvalidWebhookSecret, WebhookSecret};
pub use sender::{WebhookSender, WebhookSenderBuilder};
pub use task::Webhook;
