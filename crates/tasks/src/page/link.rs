//! Links of the page.

use form_urlencoded::Serializer;
use std::fmt::{self, Display, Formatter};

/// A relative link that consists of a query only. It is made of URL characters, but `&` still needs an escape in HTML.
#[derive(Clone, Debug, Default)]
pub(super) struct Link(Vec<(&'static str, String)>);

impl Link {
    /// Creates a link to a view.
    pub(super) fn to(view: &str) -> Self {
        Self::default().with("view", view)
    }

    /// Adds a parameter.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// Adds a parameter if it has a value.
    pub(super) fn with_some(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl Display for Link {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut query = Serializer::for_suffix(String::from("?"), 1);
        query.extend_pairs(&self.0);
        formatter.write_str(&query.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn parameters_are_encoded() {
        assert_eq!(Link::default().to_string(), "?");
        let link = Link::to("task")
            .with("id", "a b&c=é/\"'")
            .with_some("queue", None);
        assert_eq!(link.to_string(), "?view=task&id=a+b%26c%3D%C3%A9%2F%22%27");
    }
}
