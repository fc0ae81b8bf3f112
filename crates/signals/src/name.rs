use std::fmt::Write;
use std::sync::Arc;

/// The maximum size of the name of a signal with its namespaces, in bytes, after `/`, `%` and control characters were
/// escaped.
pub(super) const MAX_NAME_BYTES: usize = 512;

/// Appends a name to a namespace. The separator is escaped within names, so different lists of names have different
/// paths.
pub(super) fn below(namespace: &str, name: &str) -> Arc<str> {
    let mut path = String::with_capacity(namespace.len() + name.len());
    path.push_str(namespace);
    for character in name.chars() {
        if character == '/' || character == '%' || character.is_control() {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                // Writing to a string does not fail.
                let _ = write!(path, "%{byte:02X}");
            }
        } else {
            path.push(character);
        }
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn names_do_not_collide() {
        let chat = format!("{}/", below("", "chat"));
        assert_eq!(&*below(&chat, "room"), "chat/room");
        assert_eq!(&*below("", "chat/room"), "chat%2Froom");
        assert_eq!(&*below("", "chat%2Froom"), "chat%252Froom");
        assert_eq!(&*below("", "a\n\u{85}ß"), "a%0A%C2%85ß");
    }
}
