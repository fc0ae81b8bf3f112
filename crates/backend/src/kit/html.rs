//! Texts in HTML.

use std::fmt::{self, Display, Formatter, Write};

/// A text, escaped for HTML between tags or in a quoted attribute.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => formatter.write_str("&amp;")?,
                '<' => formatter.write_str("&lt;")?,
                '>' => formatter.write_str("&gt;")?,
                '"' => formatter.write_str("&quot;")?,
                '\'' => formatter.write_str("&#39;")?,
                other => formatter.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Escaped;

    #[test]
    fn nothing_leaves_its_place() {
        let text = r#"</p>"a" & 'b' &amp; é"#;
        let escaped = "&lt;/p&gt;&quot;a&quot; &amp; &#39;b&#39; &amp;amp; é";
        assert_eq!(Escaped(text).to_string(), escaped);
    }
}
