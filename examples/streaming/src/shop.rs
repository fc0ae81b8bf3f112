//! What the pages read from the services.

use crate::upstreams;
use reqwest::{Client, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use tower_promises::{BoxError, PromiseError, Promises};

#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Product {
    pub(crate) title: String,
    pub(crate) text: String,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Price {
    pub(crate) amount: String,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Review {
    pub(crate) author: String,
    pub(crate) stars: usize,
    pub(crate) text: String,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Summary {
    pub(crate) text: String,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Recommendation {
    pub(crate) product: String,
    pub(crate) title: String,
}

/// The client of the services.
#[derive(Clone)]
pub(crate) struct Shop {
    client: Client,
    urls: Arc<HashMap<&'static str, Url>>,
}

impl Shop {
    /// Starts the services.
    pub(crate) async fn start() -> Result<Self, BoxError> {
        let mut urls = HashMap::new();
        for (name, address) in upstreams::start().await? {
            urls.insert(name, Url::parse(&format!("http://{address}"))?);
        }
        Ok(Self {
            client: Client::new(),
            urls: Arc::new(urls),
        })
    }

    /// Reads a product. `None` if there is no such product.
    pub(crate) fn product(
        &self,
        promises: &Promises,
        product: &str,
    ) -> Result<Option<Product>, PromiseError> {
        let request = self.client.get(self.url("catalogue", product));
        promises.result_or_try_submit(format!("catalogue {product}"), async move || {
            let response = request.send().await?;
            if response.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            response.error_for_status()?.json().await.map(Some)
        })
    }

    /// Reads what a service knows about a product.
    pub(crate) fn ask<T>(
        &self,
        promises: &Promises,
        service: &str,
        product: &str,
    ) -> Result<T, PromiseError>
    where
        T: DeserializeOwned + Clone + Send + Sync + 'static,
    {
        let request = self.client.get(self.url(service, product));
        promises.result_or_try_submit(format!("{service} {product}"), async move || {
            request.send().await?.error_for_status()?.json().await
        })
    }

    /// The name of the product comes from the client, so it is escaped.
    fn url(&self, service: &str, product: &str) -> Url {
        let mut url = self.urls[service].clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(product);
        }
        url
    }
}
