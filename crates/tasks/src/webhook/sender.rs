use super::address::is_public;
use super::secret::WebhookSecret;
use http::Uri;
use http::uri::Scheme;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The longest URL, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// The settings with which workers send [webhooks](super::Webhook). It is application state of
/// [`Tasks`](crate::Tasks). Clones are cheap.
///
/// ```
/// use tower_promises_backend::Backend;
/// use tower_promises_tasks::{TaskQueueOptions, Tasks, Webhook, WebhookSecret, WebhookSender};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sender = WebhookSender::builder()
///     .secret(WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?)
///     .build();
/// let tasks = Tasks::builder(Backend::memory())
///     .queue(TaskQueueOptions::new("webhooks").task::<Webhook>().concurrency(32))
///     .state(sender)
///     .build();
/// # let _ = tasks;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WebhookSender {
    pub(super) settings: Arc<Settings>,
}

pub(super) struct Settings {
    secrets: Vec<WebhookSecret>,
    secrets_of: Option<Arc<SecretsOf>>,
    allow_http: bool,
    allow_private_addresses: bool,
    pub(super) timeout: Duration,
    pub(super) max_response_bytes: usize,
    pub(super) tls: Arc<ClientConfig>,
}

type SecretsOf = dyn Fn(&str) -> Vec<WebhookSecret> + Send + Sync;

/// Builds a [`WebhookSender`].
#[derive(Clone)]
#[must_use = "`build` creates the sender"]
pub struct WebhookSenderBuilder {
    secrets: Vec<WebhookSecret>,
    secrets_of: Option<Arc<SecretsOf>>,
    allow_http: bool,
    allow_private_addresses: bool,
    timeout: Duration,
    max_response_bytes: usize,
    root_certificates: Vec<CertificateDer<'static>>,
}

impl WebhookSenderBuilder {
    /// Adds a secret for all receivers. Each request has a signature for each secret, so that a receiver can change
    /// from an earlier secret to a new one: add the new one, tell the receiver, then remove the earlier one.
    pub fn secret(mut self, secret: WebhookSecret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Sets the function that returns the secrets of a receiver by its URL, in addition to those of
    /// [`secret`](Self::secret). It must not block: keep the secrets in memory. It is called in a worker, and a panic in
    /// it ends the delivery.
    pub fn secrets(
        mut self,
        secrets: impl Fn(&str) -> Vec<WebhookSecret> + Send + Sync + 'static,
    ) -> Self {
        self.secrets_of = Some(Arc::new(secrets));
        self
    }

    /// Sets whether receivers may be reached without TLS, by default no.
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// Sets whether requests may be sent to addresses outside of the public internet, by default no: to this machine,
    /// to private networks and to the metadata service of a cloud. The check applies to the address that the sender
    /// connects to, whatever name it comes from.
    pub fn allow_private_addresses(mut self, allow: bool) -> Self {
        self.allow_private_addresses = allow;
        self
    }

    /// Sets how long an attempt may take, from the look-up of the name to the status of the response, by default 20
    /// seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many bytes of a response are read before its connection is closed, by default 64 KiB. The content is
    /// ignored.
    pub fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }

    /// Adds a certificate authority, as a certificate in DER, to those that the operating system trusts.
    pub fn root_certificate(mut self, der: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(der.into().into());
        self
    }

    /// Creates the sender. Reads the certificate authorities of the operating system. Those that cannot be read are
    /// left out.
    #[must_use]
    #[allow(
        clippy::missing_panics_doc,
        reason = "the expectation is about this crate"
    )]
    pub fn build(self) -> WebhookSender {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(self.root_certificates);
        let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("the provider supports the versions of TLS that this crate enables")
            .with_root_certificates(roots)
            .with_no_client_auth();
        WebhookSender {
            settings: Arc::new(Settings {
                secrets: self.secrets,
                secrets_of: self.secrets_of,
                allow_http: self.allow_http,
                allow_private_addresses: self.allow_private_addresses,
                timeout: self.timeout,
                max_response_bytes: self.max_response_bytes,
                tls: Arc::new(tls),
            }),
        }
    }
}

impl WebhookSender {
    /// Creates a builder without secrets.
    pub fn builder() -> WebhookSenderBuilder {
        WebhookSenderBuilder {
            secrets: Vec::new(),
            secrets_of: None,
            allow_http: false,
            allow_private_addresses: false,
            timeout: Duration::from_secs(20),
            max_response_bytes: 64 * 1024,
            root_certificates: Vec::new(),
        }
    }

    /// Whether the sender would try to send to this URL, as far as the URL itself tells: its scheme, its length, that it
    /// has no user, and its address if it has one in place of a name. Check a URL with it when a client chooses one.
    #[must_use]
    pub fn allows(&self, url: &str) -> bool {
        self.settings.target(url).is_ok()
    }
}

/// A URL that the sender may try.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) uri: Uri,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

impl Settings {
    pub(super) fn secrets(&self, url: &str) -> Vec<WebhookSecret> {
        let mut secrets = self.secrets.clone();
        secrets.extend(
            self.secrets_of
                .as_ref()
                .map(|of| of(url))
                .unwrap_or_default(),
        );
        secrets
    }

    /// Checks a URL. The error says what is wrong.
    pub(super) fn target(&self, url: &str) -> Result<Target, &'static str> {
        if url.len() > MAX_URL_BYTES {
            return Err("the URL is too long");
        }
        let uri: Uri = url.parse().map_err(|_| "the URL is malformed")?;
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let is_http = uri.scheme() == Some(&Scheme::HTTP);
        if !(is_tls || self.allow_http && is_http) {
            return Err("the scheme of the URL is not allowed");
        }
        let authority = uri.authority().ok_or("the URL has no host")?;
        if authority.as_str().contains('@') {
            return Err("the URL has a user");
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .map_or(host, |host| host.trim_end_matches(']'));
        if host.is_empty() {
            return Err("the URL has no host");
        }
        if host
            .parse()
            .is_ok_and(|address| !self.allows_address(address))
        {
            return Err("the address is not allowed");
        }
        Ok(Target {
            host: host.to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            is_tls,
            uri,
        })
    }

    pub(super) fn allows_address(&self, address: IpAddr) -> bool {
        self.allow_private_addresses || is_public(address)
    }
}

impl fmt::Debug for WebhookSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        f.debug_struct("WebhookSender")
            .field("secrets", &settings.secrets)
            .field("allow_http", &settings.allow_http)
            .field("allow_private_addresses", &settings.allow_private_addresses)
            .field("timeout", &settings.timeout)
            .field("max_response_bytes", &settings.max_response_bytes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WebhookSenderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSenderBuilder")
            .field("secrets", &self.secrets)
            .field("allow_http", &self.allow_http)
            .field("allow_private_addresses", &self.allow_private_addresses)
            .field("timeout", &self.timeout)
            .field("max_response_bytes", &self.max_response_bytes)
            .finish_non_exhaustive()
    }
}
