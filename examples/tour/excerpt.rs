//! The part of a source file that the tour shows, as HTML.

use std::fmt::Write;

const BEGIN: &str = "// tour: begin\n";
const END: &str = "// tour: end\n";

const KEYWORDS: [&str; 25] = [
    "as", "async", "await", "const", "crate", "else", "enum", "fn", "for", "if", "impl", "in",
    "let", "loop", "match", "move", "mut", "pub", "return", "self", "struct", "trait", "type",
    "use", "while",
];

/// Returns the lines between the markers of a file, highlighted. A blank line separates the parts.
pub(crate) fn excerpt(source: &str) -> String {
    let parts = source.split(BEGIN).skip(1);
    let parts = parts.filter_map(|part| Some(part.split_once(END)?.0.trim_end()));
    highlight(&parts.collect::<Vec<_>>().join("\n\n"))
}

/// Highlights comments, strings, numbers, keywords, types and calls.
fn highlight(code: &str) -> String {
    let mut html = String::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let (class, length) = token(rest, first);
        let (text, behind) = rest.split_at(length);
        match class {
            "" => escape(text, &mut html),
            class => {
                let _ = write!(html, "<span class=\"{class}\">");
                escape(text, &mut html);
                html.push_str("</span>");
            }
        }
        rest = behind;
    }
    html
}

/// Returns the class and the length of the first token. The class is empty for text that is not highlighted.
fn token(rest: &str, first: char) -> (&'static str, usize) {
    let until = |end: fn(char) -> bool| rest.find(end).unwrap_or(rest.len());
    if rest.starts_with("//") {
        return ("c", until(|character| character == '\n'));
    }
    if let Some(raw) = rest.strip_prefix("r#\"") {
        let length = raw.find("\"#").map_or(rest.len(), |end| end + 5);
        return ("s", length);
    }
    if first == '"' {
        return ("s", string(rest));
    }
    if first.is_ascii_digit() {
        let is_end = |character: char| !character.is_ascii_alphanumeric() && character != '_';
        return ("n", until(is_end));
    }
    if !is_word(first) {
        return ("", first.len_utf8());
    }
    let length = until(|character| !is_word(character));
    let (word, behind) = rest.split_at(length);
    let class = match word {
        word if KEYWORDS.contains(&word) => "k",
        _ if first.is_ascii_uppercase() => "t",
        _ if behind.starts_with(['(', '!']) || behind.starts_with("::<") => "f",
        _ => "",
    };
    (class, length)
}

/// Returns the length of a string literal.
fn string(rest: &str) -> usize {
    let mut is_escaped = false;
    for (place, character) in rest.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return place + 1,
            _ => {}
        }
    }
    rest.len()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn escape(text: &str, html: &mut String) {
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            _ => html.push(character),
        }
    }
}
