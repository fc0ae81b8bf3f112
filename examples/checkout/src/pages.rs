//! The pages of the shop and of the world. They need no script.

use crate::instances::Instance;
use crate::world::{Entry, Mail};
use axum::response::Html;
use maud::{DOCTYPE, Markup, html};
use std::sync::Arc;

const STYLE: &str = "
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 44rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem } h2 { font-size: 1.125rem; margin-top: 2rem }
table { width: 100%; border-collapse: collapse }
th, td { text-align: start; padding: .375rem .75rem .375rem 0; border-bottom: 1px solid #8886; vertical-align: top }
th { font-weight: 600; font-size: .875rem }
button, select { font: inherit; padding: .25rem .75rem; max-width: 100% }
form.row { display: inline-block; margin: 0 .5rem .5rem 0 }
small { opacity: .75 }";

fn page(title: &str, refresh: bool, content: &Markup) -> Html<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if refresh { meta http-equiv="refresh" content="2"; }
                title { (title) }
                style { (STYLE) }
            }
            body { main { h1 { (title) } (content) } }
        }
    };
    Html(page.into_string())
}

pub(crate) fn home(world: &str, instance: &str) -> Html<String> {
    let steps = [
        ("", "never"),
        ("reserve", "after the reservation"),
        ("charge", "after the charge"),
        ("mail", "after the mail"),
        ("ship", "after the shipment"),
        ("each", "after each step"),
    ];
    page(
        "Checkout",
        false,
        &html! {
            form method="post" action="/order" {
                p { label { "Item " select name="item" {
                    option { "Tea" } option { "Teapot" }
                } } " for 42.00 €" }
                p { label { "Kill the instance " select name="kill" {
                    @for (value, label) in steps { option value=(value) { (label) } }
                } } }
                p { button { "Order" } }
            }
            p { "Approve the order and kill instances in " a href=(world) target="_blank" { "the world" } "." }
            p { small { "This page is from " (instance) "." } }
        },
    )
}

pub(crate) fn receipt(lines: &[String], runs: u32, instance: &str) -> Html<String> {
    page(
        "Your order",
        false,
        &html! {
            ol { @for line in lines { li { (line) } } }
            p { a href="/" { "Order again" } }
            p { small { "The order was run " (runs) " times, at last by " (instance) "." } }
        },
    )
}

pub(crate) fn refused(reason: &str) -> Html<String> {
    page(
        "No order",
        false,
        &html! { p { (reason) "." } p { a href="/" { "Back" } } },
    )
}

pub(crate) fn mail(number: usize, mail: &Mail) -> Html<String> {
    let content = html! {
        @if let Some(answer) = &mail.answer {
            p { "The order is " (answer) "." }
        } @else {
            p { "A customer has ordered. Do you approve?" }
            form class="row" method="post" action={ "/mail/" (number) } {
                button name="granted" value="yes" { "Approve" }
            }
            form class="row" method="post" action={ "/mail/" (number) } {
                button name="granted" value="no" { "Refuse" }
            }
        }
        p { a href="/" { "The world" } }
    };
    page(&format!("Order {number}"), false, &content)
}

pub(crate) fn world(
    shop: &str,
    instances: &[Arc<Instance>],
    entries: &[Entry],
    mails: &[Mail],
    left: usize,
) -> Html<String> {
    let content = html! {
        p { "All that " a href=(shop) { "the shop" } " calls. " (left) " items are left." }
        h2 { "Instances" }
        @for instance in instances {
            form class="row" method="post" action={ "/kill/" (instance.name) } {
                @match instance.running() {
                    Some(running) => button { "Kill " (instance.name) ", process " (running.process) },
                    None => button disabled { (instance.name) " is dead" },
                }
            }
        }
        h2 { "Approvals" }
        @if mails.is_empty() { p { small { "None" } } }
        ul { @for (number, mail) in mails.iter().enumerate() {
            li {
                a href={ "/mail/" (number) } { "Order " (number) } ": "
                (mail.answer.as_deref().unwrap_or("waits for you"))
            }
        } }
        h2 { "Ledger" }
        table {
            thead { tr { th { "Service" } th { "Answer" } th { "Calls" } } }
            tbody { @for entry in entries {
                tr {
                    td { (entry.service) }
                    td { @match &entry.answer {
                        Ok(answer) => { (answer) },
                        Err(refusal) => { "Refused: " (refusal) },
                    } }
                    td { (entry.calls) }
                }
            } }
        }
        p { small { "An effect has one row, however often it was called for." } }
    };
    page("The world", true, &content)
}
