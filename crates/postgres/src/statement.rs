//! The text of a statement, with its arguments.
//!
//! All statements use the simple protocol: one message to the server, and no prepared statement. So a statement is one
//! round trip and needs no state of a session, which a connection pooler such as PgBouncer in transaction mode does not
//! keep. Arguments that are not numbers are written as hexadecimal digits, unless all their characters are harmless, so
//! no argument can end its literal.

use bytes::Bytes;
use sqlx::AssertSqlSafe;
use std::fmt::Write;
use std::time::Duration;
use tower_promises_backend::kit::clock;

#[derive(Clone, Debug)]
pub(super) struct Statement {
    sql: String,
    /// Whether the statement may be executed twice, because it changes nothing.
    is_read: bool,
}

impl Statement {
    /// A statement that changes something, without arguments.
    pub(super) fn write(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            is_read: false,
        }
    }

    /// A statement that only reads.
    pub(super) fn read(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            is_read: true,
        }
    }

    /// Adds another statement that changes something. The server executes both in one transaction.
    pub(super) fn then(self, sql: &str) -> Self {
        Self::write(format!("{}; {sql}", self.sql))
    }

    pub(super) const fn is_read(&self) -> bool {
        self.is_read
    }

    /// The text. It consists of constants of this package, numbers, the checked name of the schema, and literals.
    pub(super) fn sql(&self) -> AssertSqlSafe<String> {
        AssertSqlSafe(self.sql.clone())
    }
}

/// A literal for a text.
pub(super) fn text(value: &str) -> String {
    let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b" -_.:/,".contains(&byte);
    if value.bytes().all(is_harmless) {
        return format!("'{value}'");
    }
    let mut literal = String::with_capacity(value.len() * 2 + 40);
    literal.push_str("convert_from(decode('");
    push_hex(&mut literal, value.as_bytes());
    literal.push_str("', 'hex'), 'UTF8')");
    literal
}

/// A literal for bytes.
pub(super) fn bytes(value: &[u8]) -> String {
    let mut literal = String::with_capacity(value.len() * 2 + 20);
    literal.push_str("decode('");
    push_hex(&mut literal, value);
    literal.push_str("', 'hex')");
    literal
}

/// A literal for an array of a type.
pub(super) fn array(kind: &str, elements: impl IntoIterator<Item = String>) -> String {
    let mut literal = String::from("ARRAY[");
    for (number, element) in elements.into_iter().enumerate() {
        if number > 0 {
            literal.push(',');
        }
        literal.push_str(&element);
    }
    // Writing to a string does not fail.
    let _ = write!(literal, "]::{kind}[]");
    literal
}

/// A literal for an array of numbers, which are digits or NULL. The server reads it faster than one with an expression for
/// each element.
pub(super) fn numbers(kind: &str, elements: impl IntoIterator<Item = String>) -> String {
    let elements: Vec<_> = elements.into_iter().collect();
    format!("'{{{}}}'::{kind}[]", elements.join(","))
}

/// A literal for a number, or NULL.
pub(super) fn number(value: Option<i64>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}

/// The microseconds of a duration, rounded up, at most those of the longest duration.
pub(super) fn microseconds(time: Duration) -> i64 {
    let microseconds = time.min(clock::LONGEST).as_nanos().div_ceil(1000);
    i64::try_from(microseconds).unwrap_or(i64::MAX)
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Reads bytes that the server has encoded as hexadecimal digits.
pub(super) fn value(digits: &str) -> sqlx::Result<Bytes> {
    from_hex(digits).ok_or_else(|| sqlx::Error::Decode("the digits are not hexadecimal".into()))
}

/// `None` if the text is anything else than pairs of hexadecimal digits.
fn from_hex(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| {
        let &[high, low] = pair else {
            return None;
        };
        u8::try_from(digit(high)? << 4 | digit(low)?).ok()
    });
    bytes.collect::<Option<Vec<u8>>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::{array, bytes, from_hex, number, numbers, text};

    #[test]
    fn no_argument_can_end_its_literal() {
        assert_eq!(text("conformance/a-1"), "'conformance/a-1'");
        assert_eq!(
            text("it's"),
            "convert_from(decode('69742773', 'hex'), 'UTF8')"
        );
        assert_eq!(text("\\"), "convert_from(decode('5c', 'hex'), 'UTF8')");
        assert_eq!(text(""), "''");
        assert_eq!(bytes(&[0, 255]), "decode('00ff', 'hex')");
        let one_and_none = [Some(1), None].map(number);
        assert_eq!(numbers("bigint", one_and_none), "'{1,NULL}'::bigint[]");
        assert_eq!(numbers("bigint", []), "'{}'::bigint[]");
        let texts = ["a", "b"].map(text);
        assert_eq!(array("text", texts), "ARRAY['a','b']::text[]");
        assert_eq!(array("text", []), "ARRAY[]::text[]");
    }

    #[test]
    fn bytes_are_read_as_they_were_written() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let literal = bytes(&all);
        let digits = &literal["decode('".len()..literal.len() - "', 'hex')".len()];
        assert_eq!(from_hex(digits).as_deref(), Some(&all[..]));
        assert_eq!(from_hex("").as_deref(), Some(&[][..]));
        for wrong in ["0", "0g", "\\x00", "é"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
