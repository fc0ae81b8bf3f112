use std::borrow::{Borrow, Cow};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

/// The name of a promise, unique within a request.
///
/// Any string converts into a key. A `&'static str` needs no allocation. Any other string is copied once and then
/// shared by clones of the key.
///
/// ```
/// use tower_promises::promise::Key;
///
/// const MENU: Key = Key::from_static("menu");
/// let basket = Key::from(format!("basket:{}", 7));
/// assert_eq!(basket.as_str(), "basket:7");
/// # let _ = MENU;
/// ```
#[derive(Clone)]
pub struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Key {
    /// Creates a key in a constant.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        Self(Repr::Static(name))
    }

    /// The same as `==`, but faster for keys that most likely are the same string.
    #[inline]
    pub(super) fn is(&self, other: &Self) -> bool {
        let (this, other) = (self.as_str(), other.as_str());
        std::ptr::eq(this, other) || this == other
    }

    /// Returns the name as a string slice.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(name) => name,
            Repr::Shared(name) => name,
        }
    }
}

impl From<&'static str> for Key {
    fn from(name: &'static str) -> Self {
        Self::from_static(name)
    }
}

impl From<String> for Key {
    fn from(name: String) -> Self {
        Self(Repr::Shared(name.into()))
    }
}

impl From<Arc<str>> for Key {
    fn from(name: Arc<str>) -> Self {
        Self(Repr::Shared(name))
    }
}

impl From<Cow<'static, str>> for Key {
    fn from(name: Cow<'static, str>) -> Self {
        match name {
            Cow::Borrowed(name) => name.into(),
            Cow::Owned(name) => name.into(),
        }
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Key {}

impl PartialEq<str> for Key {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Key {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The same hash as that of `str`, as `Borrow<str>` requires.
        self.as_str().hash(state);
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A key with the type of its value, so that a type mismatch does not compile.
///
/// ```
/// use tower_promises::Promises;
/// use tower_promises::promise::PromiseKey;
///
/// const VISITORS: PromiseKey<u64> = PromiseKey::new("visitors");
///
/// fn banner(promises: &Promises) -> String {
///     // The type is inferred from the key, and another type does not compile.
///     match promises.result(VISITORS) {
///         Ok(visitors) => format!("{visitors} visitors"),
///         Err(_) => String::new(),
///     }
/// }
/// # let _ = banner;
///
/// /// A key for each page, still with the type.
/// fn visitors_of(page: u32) -> PromiseKey<u64> {
///     PromiseKey::named(format!("visitors:{page}"))
/// }
/// assert_eq!(visitors_of(7).key().as_str(), "visitors:7");
/// ```
///
/// ```compile_fail
/// # use tower_promises::Promises;
/// # use tower_promises::promise::PromiseKey;
/// # const VISITORS: PromiseKey<u64> = PromiseKey::new("visitors");
/// fn banner(promises: &Promises) {
///     let _ = promises.submit(VISITORS, async { "not a number" });
/// }
/// ```
pub struct PromiseKey<T> {
    key: Key,
    value: PhantomData<fn() -> T>,
}

impl<T> PromiseKey<T> {
    /// Creates a typed key in a constant.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            key: Key::from_static(name),
            value: PhantomData,
        }
    }

    /// Creates a typed key from a name that is known only at run time.
    #[must_use]
    pub fn named(name: impl Into<Key>) -> Self {
        Self {
            key: name.into(),
            value: PhantomData,
        }
    }

    /// Returns the key without the type.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl<T> Clone for PromiseKey<T> {
    fn clone(&self) -> Self {
        Self::named(&self.key)
    }
}

impl<T> fmt::Debug for PromiseKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PromiseKey")
            .field(&self.key)
            .field(&format_args!("{}", std::any::type_name::<T>()))
            .finish()
    }
}

/// The name of a promise of a `T`: anything [`Into<Key>`], for any `T`, or a [`PromiseKey<T>`].
///
/// This trait is sealed.
pub trait IntoKey<T>: AnyKey {
    /// Returns the key.
    fn into_key(self) -> Key;
}

/// The name of a promise whose type does not matter: anything [`Into<Key>`], or a [`PromiseKey`].
///
/// This trait is sealed.
pub trait AnyKey: sealed::Sealed {
    /// Returns the key.
    fn into_any_key(self) -> Key;
}

mod sealed {
    use super::{Key, PromiseKey};

    pub trait Sealed {}

    impl<K: Into<Key>> Sealed for K {}
    impl<T> Sealed for PromiseKey<T> {}
    impl<T> Sealed for &PromiseKey<T> {}
}

impl<K: Into<Key>> AnyKey for K {
    fn into_any_key(self) -> Key {
        self.into()
    }
}

impl<T> AnyKey for PromiseKey<T> {
    fn into_any_key(self) -> Key {
        self.key
    }
}

impl<T> AnyKey for &PromiseKey<T> {
    fn into_any_key(self) -> Key {
        self.key.clone()
    }
}

impl<T, K> IntoKey<T> for K
where
    K: Into<Key>,
{
    fn into_key(self) -> Key {
        self.into()
    }
}

impl<T> IntoKey<T> for PromiseKey<T> {
    fn into_key(self) -> Key {
        self.into_any_key()
    }
}

impl<T> IntoKey<T> for &PromiseKey<T> {
    fn into_key(self) -> Key {
        self.into_any_key()
    }
}
