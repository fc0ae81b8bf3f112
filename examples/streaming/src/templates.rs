//! The page in minijinja. Its templates say what is a fragment.

use crate::shop::{Product, Shop};
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use std::sync::{Arc, Weak};
use tower_promises::{BoxError, PromiseError, Promises};

const SOURCES: [(&str, &str); 8] = [
    ("delivery.html", include_str!("../templates/delivery.html")),
    ("missing.html", include_str!("../templates/missing.html")),
    ("price.html", include_str!("../templates/price.html")),
    ("product.html", include_str!("../templates/product.html")),
    (
        "recommendations.html",
        include_str!("../templates/recommendations.html"),
    ),
    ("reviews.html", include_str!("../templates/reviews.html")),
    ("stock.html", include_str!("../templates/stock.html")),
    ("summary.html", include_str!("../templates/summary.html")),
];

#[derive(Clone)]
pub(crate) struct Templates(Arc<Environment<'static>>);

impl Templates {
    pub(crate) fn new(shop: Shop) -> Self {
        // Fragments are rendered after the page, so their function refers to the templates.
        Self(Arc::new_cyclic(|templates: &Weak<Environment<'_>>| {
            let mut environment = Environment::new();
            for (name, source) in SOURCES {
                environment
                    .add_template(name, source)
                    .expect("the template is correct");
            }
            environment.add_function("ask", move |service: &str, product: &str| {
                ask(&shop, service, product)
            });
            let templates = templates.clone();
            environment.add_function(
                "fragment",
                move |state: &mut State<'_, '_>, name, product, options| {
                    fragment(&templates, state, name, product, &options)
                },
            );
            environment
        }))
    }

    pub(crate) fn product(
        &self,
        id: &str,
        product: &Product,
        visits: u32,
    ) -> Result<String, Error> {
        let page = self.0.get_template("product.html")?;
        page.render(context! { id, visits, product => Serde(product) })
    }

    pub(crate) fn missing(&self, visits: u32) -> Result<String, Error> {
        self.0
            .get_template("missing.html")?
            .render(context! { visits })
    }
}

/// Reads the answer of a service. `none` if the service does not answer in time.
fn ask(shop: &Shop, service: &str, product: &str) -> Result<Value, Error> {
    let answer = shop.ask::<Value>(&promises()?, service, product);
    match answer {
        Ok(answer) => Ok(answer),
        Err(PromiseError::TimedOut { .. }) => Ok(().into()),
        Err(error) => {
            let problem = Error::new(ErrorKind::InvalidOperation, "the service has no answer");
            Err(problem.with_source(error))
        }
    }
}

/// Renders the template of this name as a fragment. The fallback is the content of the `call` block.
fn fragment(
    templates: &Weak<Environment<'static>>,
    state: &mut State<'_, '_>,
    name: String,
    product: String,
    options: &Kwargs,
) -> Result<Value, Error> {
    let fallback: Value = options.get("caller")?;
    let fallback = fallback.call(state, &[])?.to_string();
    let templates = templates.clone();
    let template = format!("{name}.html");
    let fragment = promises()?.fragment(name, fallback, move |_| {
        let templates = templates.upgrade().ok_or("the templates are gone")?;
        let template = templates.get_template(&template)?;
        Ok::<_, BoxError>(template.render(context! { id => product.as_str() })?)
    });
    Ok(Value::from_safe_string(fragment.to_string()))
}

fn promises() -> Result<Promises, Error> {
    Promises::current().ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            "the template is not rendered for a request",
        )
    })
}
