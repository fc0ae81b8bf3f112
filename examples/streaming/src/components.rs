//! The same page in maud.

use crate::shop::{Price, Product, Recommendation, Review, Shop, Summary};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use tower_promises::{PromiseError, Promises};

const NBSP: &str = "\u{a0}";

/// What components need to read values and to create fragments.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) shop: Shop,
    /// The product.
    pub(crate) id: String,
}

impl Page {
    fn fragment(
        &self,
        promises: &Promises,
        name: &'static str,
        fallback: Markup,
        render: fn(&Self, &Promises) -> Result<Markup, PromiseError>,
    ) -> Markup {
        let page = self.clone();
        let fragment = promises.fragment(name, fallback.into_string(), move |promises| {
            render(&page, promises).map(Markup::into_string)
        });
        PreEscaped(fragment.to_string())
    }

    pub(crate) fn product(&self, promises: &Promises, product: &Product, visits: u32) -> Markup {
        let fragment = |name, fallback, render| self.fragment(promises, name, fallback, render);
        let loading = html! { p.skeleton aria-busy="true" { "Loading …" } };
        let word = html! { span.skeleton aria-busy="true" { "loading …" } };
        let quotes = html! {
            (loading)
            @for _ in 0..3 { blockquote.skeleton { p { (NBSP) } footer { (NBSP) } } }
        };
        let row = html! { tr { td.skeleton colspan="2" aria-busy="true" { "Loading …" } } };
        let items = html! { @for _ in 0..3 { li.skeleton aria-busy="true" { "Loading …" } } };
        let content = html! {
            article {
                div.picture {}
                div {
                    h1 { (product.title) }
                    p { (product.text) }
                    div.price aria-live="polite" { (fragment("price", loading, Self::price)) }
                    p { "Delivery: " (fragment("delivery", word, Self::delivery)) }
                }
            }
            section {
                h2 { "In our branches" }
                table {
                    thead { tr { th { "Branch" } th { "Packets" } } }
                    tbody { (fragment("stock", row, Self::stock)) }
                }
            }
            section.reviews { h2 { "Reviews" } (fragment("reviews", quotes, Self::reviews)) }
            section {
                h2 { "Goes well with it" }
                ul.cards { (fragment("recommendations", items, Self::recommendations)) }
            }
        };
        layout(&product.title, &self.id, visits, &content)
    }

    fn price(&self, promises: &Promises) -> Result<Markup, PromiseError> {
        let Price { amount } = self.shop.ask(promises, "price", &self.id)?;
        Ok(html! { p { strong { (amount) } " with VAT" } })
    }

    /// The service fails, so the layer shows its replacement.
    fn delivery(&self, promises: &Promises) -> Result<Markup, PromiseError> {
        let delivery: String = self.shop.ask(promises, "delivery", &self.id)?;
        Ok(html! { (delivery) })
    }

    /// The service does not answer.
    fn stock(&self, promises: &Promises) -> Result<Markup, PromiseError> {
        let stock = self
            .shop
            .ask::<Vec<(String, Value)>>(promises, "stock", &self.id);
        if let Err(PromiseError::TimedOut { .. }) = stock {
            return Ok(
                html! { tr { td.note colspan="2" { "Our branches do not answer. Please call us." } } },
            );
        }
        let rows = stock?;
        Ok(html! { @for (branch, packets) in rows { tr { td { (branch) } td { (packets) } } } })
    }

    fn reviews(&self, promises: &Promises) -> Result<Markup, PromiseError> {
        let reviews: Vec<Review> = self.shop.ask(promises, "reviews", &self.id)?;
        let loading = html! { p.skeleton aria-busy="true" { "Loading …" } };
        Ok(html! {
            // A fragment within a fragment.
            (self.fragment(promises, "summary", loading, Self::summary))
            @for review in reviews {
                blockquote {
                    p { (review.text) }
                    footer { (review.author) ", " (review.stars) " of 5 stars" }
                }
            }
        })
    }

    fn summary(&self, promises: &Promises) -> Result<Markup, PromiseError> {
        let Summary { text } = self.shop.ask(promises, "summary", &self.id)?;
        Ok(html! { p.summary { (text) } })
    }

    fn recommendations(&self, promises: &Promises) -> Result<Markup, PromiseError> {
        let all: Vec<Recommendation> = self.shop.ask(promises, "recommendations", &self.id)?;
        Ok(html! {
            @for it in all { li { a href=(format!("/maud/{}", it.product)) { (it.title) } } }
        })
    }
}

pub(crate) fn missing(visits: u32) -> Markup {
    let content = html! { h1 { "We do not sell this" } p { "The status of this page is 404." } };
    layout("Not found", "tea", visits, &content)
}

fn layout(title: &str, id: &str, visits: u32, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (title) }
                link rel="stylesheet" href="/style.css";
            }
            body {
                header {
                    strong { "Ferris & daughters" }
                    nav {
                        a href=(format!("/maud/{id}")) { "in parts" }
                        a href=(format!("/maud/{id}?whole")) { "whole" }
                        a href=(format!("/{id}")) { "in minijinja" }
                        a href="/maud/gold" { "no product" }
                    }
                    span { "page " (visits) " for you" }
                }
                main { (content) }
            }
        }
    }
}
