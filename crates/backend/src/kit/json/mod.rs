//! JSON serialisation that refuses values which would change or become unreadable.
//!
//! `serde_json` writes `null` for NaN and the infinities, and writes deeper nesting than it reads. This module returns
//! an error for both. All other values are serialised byte for byte as by `serde_json`.

mod path;

use path::{Path, Step};
use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use std::fmt::Display;

/// Serialises a value to bytes.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Checked::root(value))
}

/// Serialises a value to text.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    serde_json::to_string(&Checked::root(value))
}

/// Serialises a value to JSON text that can be embedded unchanged in another value.
pub fn to_raw_value<T: Serialize + ?Sized>(
    value: &T,
) -> serde_json::Result<Box<serde_json::value::RawValue>> {
    serde_json::value::to_raw_value(&Checked::root(value))
}

/// A nested value and its path.
struct Checked<'a, T: ?Sized> {
    value: &'a T,
    path: Path<'a>,
}

impl<'a, T: ?Sized> Checked<'a, T> {
    fn root(value: &'a T) -> Self {
        let path = Path::ROOT;
        Self { value, path }
    }
}

impl<T: Serialize + ?Sized> Serialize for Checked<'_, T> {
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        let path = self.path;
        self.value.serialize(Checking { inner, path })
    }
}

/// Serializer that forwards to `inner` and checks numbers and nesting.
struct Checking<'a, S> {
    inner: S,
    path: Path<'a>,
}

/// An array or object that is being serialised.
struct Compound<'a, C> {
    inner: C,
    path: Path<'a>,
    /// The number of elements so far.
    count: usize,
}

impl<'a, C> Compound<'a, C> {
    fn new(inner: C, path: Path<'a>) -> Self {
        Self {
            inner,
            path,
            count: 0,
        }
    }

    fn next_index(&mut self) -> Step {
        self.count += 1;
        Step::Index(self.count - 1)
    }
}

/// Whether a struct is one of the wrappers by which `serde_json` passes JSON text through. They are not JSON objects.
fn is_text(name: &str) -> bool {
    name.starts_with("$serde_json::")
}

macro_rules! forward {
    ($($method:ident($($argument:ident: $type:ty),*);)+) => {
        $(
            fn $method(self, $($argument: $type),*) -> Result<S::Ok, S::Error> {
                self.inner.$method($($argument),*)
            }
        )+
    };
}

impl<'a, S: Serializer> Serializer for Checking<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Compound<'a, S::SerializeSeq>;
    type SerializeTuple = Compound<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Compound<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Compound<'a, S::SerializeTupleVariant>;
    type SerializeMap = Compound<'a, S::SerializeMap>;
    type SerializeStruct = Compound<'a, S::SerializeStruct>;
    type SerializeStructVariant = Compound<'a, S::SerializeStructVariant>;

    forward! {
        serialize_bool(value: bool);
        serialize_i8(value: i8);
        serialize_i16(value: i16);
        serialize_i32(value: i32);
        serialize_i64(value: i64);
        serialize_i128(value: i128);
        serialize_u8(value: u8);
        serialize_u16(value: u16);
        serialize_u32(value: u32);
        serialize_u64(value: u64);
        serialize_u128(value: u128);
        serialize_char(value: char);
        serialize_str(value: &str);
        serialize_bytes(value: &[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.path.check(value.into())?;
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.path.check(value)?;
        self.inner.serialize_f64(value)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let path = self.path;
        self.inner.serialize_some(&Checked { value, path })
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let path = self.path;
        self.inner
            .serialize_newtype_struct(name, &Checked { value, path })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let path = self.path.below(Step::Name(variant)).deeper(1)?;
        self.inner
            .serialize_newtype_variant(name, index, variant, &Checked { value, path })
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        let path = self.path.deeper(1)?;
        Ok(Compound::new(self.inner.serialize_seq(len)?, path))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        let path = self.path.deeper(1)?;
        Ok(Compound::new(self.inner.serialize_tuple(len)?, path))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        let path = self.path.deeper(1)?;
        let inner = self.inner.serialize_tuple_struct(name, len)?;
        Ok(Compound::new(inner, path))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let path = self.path.variant(variant).deeper(2)?;
        let inner = self
            .inner
            .serialize_tuple_variant(name, index, variant, len)?;
        Ok(Compound::new(inner, path))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let path = self.path.deeper(1)?;
        Ok(Compound::new(self.inner.serialize_map(len)?, path))
    }

    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        let path = self.path.deeper(usize::from(!is_text(name)))?;
        let inner = self.inner.serialize_struct(name, len)?;
        Ok(Compound::new(inner, path))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let path = self.path.variant(variant).deeper(2)?;
        let inner = self
            .inner
            .serialize_struct_variant(name, index, variant, len)?;
        Ok(Compound::new(inner, path))
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! elements {
    ($($trait:ident: $method:ident;)+) => {
        $(
            impl<C: $trait> $trait for Compound<'_, C> {
                type Ok = C::Ok;
                type Error = C::Error;

                fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                    let step = self.next_index();
                    let path = self.path.below(step);
                    self.inner.$method(&Checked { value, path })
                }

                fn end(self) -> Result<C::Ok, C::Error> {
                    self.inner.end()
                }
            }
        )+
    };
}

elements! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
}

macro_rules! fields {
    ($($trait:ident),+) => {
        $(
            impl<C: $trait> $trait for Compound<'_, C> {
                type Ok = C::Ok;
                type Error = C::Error;

                fn serialize_field<T: Serialize + ?Sized>(
                    &mut self,
                    key: &'static str,
                    value: &T,
                ) -> Result<(), C::Error> {
                    let path = self.path.below(Step::Name(key));
                    self.inner.serialize_field(key, &Checked { value, path })
                }

                fn skip_field(&mut self, key: &'static str) -> Result<(), C::Error> {
                    self.inner.skip_field(key)
                }

                fn end(self) -> Result<C::Ok, C::Error> {
                    self.inner.end()
                }
            }
        )+
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl<C: SerializeMap> SerializeMap for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    /// Map keys are not checked: `serde_json` refuses keys that are not strings and cannot become strings, including
    /// NaN.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.inner.serialize_key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let path = self.path.below(Step::Value);
        self.inner.serialize_value(&Checked { value, path })
    }

    fn serialize_entry<K, V>(&mut self, key: &K, value: &V) -> Result<(), C::Error>
    where
        K: Serialize + ?Sized,
        V: Serialize + ?Sized,
    {
        let path = self.path.below(Step::Value);
        self.inner.serialize_entry(key, &Checked { value, path })
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}
