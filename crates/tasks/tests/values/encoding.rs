//! The JSON encoding equals that of `serde_json`, or is an error.

use proptest::prelude::*;
use serde::ser::{SerializeMap, SerializeStruct, SerializeStructVariant};
use serde::ser::{SerializeTuple, SerializeTupleStruct, SerializeTupleVariant};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::time::Duration;
use tower_promises_backend::Backend;
use tower_promises_signals::{SignalError, Signals};

const FIELDS: [&str; 3] = ["first", "second", "third"];

/// A value of each kind in the serde data model.
#[derive(Clone, Debug)]
enum Node {
    Bool(bool),
    I8(i8),
    I128(i128),
    U64(u64),
    U128(u128),
    F32(f32),
    F64(f64),
    Char(char),
    Text(String),
    Shown(String),
    Bytes(Vec<u8>),
    Raw(Box<RawValue>),
    Number(serde_json::Number),
    None,
    Some(Box<Node>),
    Unit,
    UnitStruct,
    UnitVariant,
    NewtypeStruct(Box<Node>),
    NewtypeVariant(Box<Node>),
    Seq(Vec<Node>),
    Tuple(Vec<Node>),
    TupleStruct(Vec<Node>),
    TupleVariant(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// A map that serialises keys and values separately.
    Steps(Vec<(Key, Node)>),
    Struct(Vec<Node>),
    StructVariant(Vec<Node>),
}

#[derive(Clone, Debug)]
enum Key {
    Text(String),
    Number(i64),
    Float(f64),
    Letter(char),
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Letter(letter) => serializer.serialize_char(*letter),
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::I8(value) => serializer.serialize_i8(*value),
            Self::I128(value) => serializer.serialize_i128(*value),
            Self::U64(value) => serializer.serialize_u64(*value),
            Self::U128(value) => serializer.serialize_u128(*value),
            Self::F32(value) => serializer.serialize_f32(*value),
            Self::F64(value) => serializer.serialize_f64(*value),
            Self::Char(value) => serializer.serialize_char(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Shown(value) => serializer.collect_str(value),
            Self::Bytes(value) => serializer.serialize_bytes(value),
            Self::Raw(value) => value.serialize(serializer),
            Self::Number(value) => value.serialize(serializer),
            Self::None => serializer.serialize_none(),
            Self::Some(value) => serializer.serialize_some(value),
            Self::Unit => serializer.serialize_unit(),
            Self::UnitStruct => serializer.serialize_unit_struct("Unit"),
            Self::UnitVariant => serializer.serialize_unit_variant("Node", 0, "unit"),
            Self::NewtypeStruct(value) => serializer.serialize_newtype_struct("Newtype", value),
            Self::NewtypeVariant(value) => {
                serializer.serialize_newtype_variant("Node", 1, "newtype", value)
            }
            Self::Seq(values) => serializer.collect_seq(values),
            Self::Tuple(values) => {
                let mut tuple = serializer.serialize_tuple(values.len())?;
                for value in values {
                    tuple.serialize_element(value)?;
                }
                tuple.end()
            }
            Self::TupleStruct(values) => {
                let mut tuple = serializer.serialize_tuple_struct("Tuple", values.len())?;
                for value in values {
                    tuple.serialize_field(value)?;
                }
                tuple.end()
            }
            Self::TupleVariant(values) => {
                let length = values.len();
                let mut tuple = serializer.serialize_tuple_variant("Node", 2, "tuple", length)?;
                for value in values {
                    tuple.serialize_field(value)?;
                }
                tuple.end()
            }
            Self::Map(entries) => {
                serializer.collect_map(entries.iter().map(|(key, value)| (key, value)))
            }
            Self::Steps(entries) => {
                let mut map = serializer.serialize_map(None)?;
                for (key, value) in entries {
                    map.serialize_key(key)?;
                    map.serialize_value(value)?;
                }
                map.end()
            }
            Self::Struct(values) => {
                let mut fields = serializer.serialize_struct("Struct", values.len())?;
                for (name, value) in FIELDS.iter().zip(values) {
                    fields.serialize_field(name, value)?;
                }
                fields.skip_field("skipped")?;
                fields.end()
            }
            Self::StructVariant(values) => {
                let length = values.len();
                let mut fields = serializer.serialize_struct_variant("Node", 3, "s", length)?;
                for (name, value) in FIELDS.iter().zip(values) {
                    fields.serialize_field(name, value)?;
                }
                fields.end()
            }
        }
    }
}

impl Key {
    fn is_finite(&self) -> bool {
        !matches!(self, Self::Float(number) if !number.is_finite())
    }
}

impl Node {
    fn is_finite(&self) -> bool {
        match self {
            Self::F32(number) => number.is_finite(),
            Self::F64(number) => number.is_finite(),
            Self::Some(value) | Self::NewtypeStruct(value) | Self::NewtypeVariant(value) => {
                value.is_finite()
            }
            Self::Seq(values)
            | Self::Tuple(values)
            | Self::TupleStruct(values)
            | Self::TupleVariant(values)
            | Self::Struct(values)
            | Self::StructVariant(values) => values.iter().all(Self::is_finite),
            Self::Map(entries) | Self::Steps(entries) => {
                let mut entries = entries.iter();
                entries.all(|(key, value)| key.is_finite() && value.is_finite())
            }
            _ => true,
        }
    }
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        4 => ".{0,8}".prop_map(Key::Text),
        2 => any::<i64>().prop_map(Key::Number),
        2 => (-1e9..1e9).prop_map(Key::Float),
        1 => any::<char>().prop_map(Key::Letter),
        1 => Just(Key::Float(f64::NAN)),
    ]
}

fn leaf() -> impl Strategy<Value = Node> {
    let raw = prop_oneof![Just("{\"b\": [1,\t2]}"), Just("1e400"), Just("null")];
    prop_oneof![
        any::<bool>().prop_map(Node::Bool),
        any::<i8>().prop_map(Node::I8),
        any::<i128>().prop_map(Node::I128),
        any::<u64>().prop_map(Node::U64),
        any::<u128>().prop_map(Node::U128),
        any::<f32>().prop_map(Node::F32),
        any::<f64>().prop_map(Node::F64),
        any::<char>().prop_map(Node::Char),
        ".{0,12}".prop_map(Node::Text),
        ".{0,12}".prop_map(Node::Shown),
        any::<Vec<u8>>().prop_map(Node::Bytes),
        raw.prop_map(|raw| Node::Raw(RawValue::from_string(raw.to_owned()).unwrap())),
        any::<u32>().prop_map(|number| Node::Number(number.into())),
        Just(Node::None),
        Just(Node::Unit),
        Just(Node::UnitStruct),
        Just(Node::UnitVariant),
        Just(Node::F64(f64::NEG_INFINITY)),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    leaf().prop_recursive(6, 40, 4, |inner| {
        let one = || inner.clone().prop_map(Box::new);
        let some = || prop::collection::vec(inner.clone(), 0..4);
        let entries = || prop::collection::vec((key(), inner.clone()), 0..4);
        prop_oneof![
            one().prop_map(Node::Some),
            one().prop_map(Node::NewtypeStruct),
            one().prop_map(Node::NewtypeVariant),
            some().prop_map(Node::Seq),
            some().prop_map(Node::Tuple),
            some().prop_map(Node::TupleStruct),
            some().prop_map(Node::TupleVariant),
            entries().prop_map(Node::Map),
            entries().prop_map(Node::Steps),
            some().prop_map(Node::Struct),
            some().prop_map(Node::StructVariant),
        ]
    })
}

/// Returns the bytes that the store contains for a latched value.
fn stored<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, SignalError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let backend = Backend::memory();
    let signals = Signals::new(backend.clone());
    runtime.block_on(async {
        signals.latch("x", value, Duration::from_secs(60)).await?;
        let latch = backend.store().get("signal-latch/x").await.unwrap();
        Ok(latch.unwrap().value.to_vec())
    })
}

proptest! {
    #[test]
    fn the_text_is_that_of_serde_json(node in node()) {
        match stored(&node) {
            Ok(text) => {
                prop_assert!(node.is_finite());
                prop_assert_eq!(text, serde_json::to_vec(&node).unwrap());
            }
            Err(error) => {
                prop_assert!(matches!(error, SignalError::Serialize { .. }), "{:?}", error);
                prop_assert!(!node.is_finite());
            }
        }
    }
}

fn nested(levels: usize) -> serde_json::Value {
    (0..levels).fold(serde_json::Value::Null, |inner, _| vec![inner].into())
}

#[tokio::test(start_paused = true)]
async fn a_value_nested_too_deeply_to_be_read_fails_when_it_is_sent() {
    let signals = Signals::memory();
    let wait = signals.wait::<serde_json::Value>("x");
    assert_eq!(signals.send("x", &nested(127)).await.unwrap(), 1);
    assert_eq!(wait.await.unwrap(), nested(127));

    let error = signals.send("x", &nested(128)).await.unwrap_err();
    assert_eq!(
        test_support::task::chain(&error),
        "signal `x`: a `serde_json::value::Value` cannot be serialised: the value is nested more than 127 levels \
         deep, which cannot be read again"
    );
}

/// Serializers see raw JSON as a struct.
#[test]
fn raw_json_does_not_count_as_a_level() {
    let around = |node| (0..127).fold(node, |inner, _| Node::Seq(vec![inner]));
    let raw = RawValue::from_string("[1]".to_owned()).unwrap();
    let [raw, number] = [Node::Raw(raw), Node::Number(1.into())].map(around);
    for node in [raw, number] {
        assert_eq!(stored(&node).unwrap(), serde_json::to_vec(&node).unwrap());
    }
}

#[derive(Serialize)]
enum Wrapped {
    Newtype(Box<Wrapped>),
    Tuple((), Box<Wrapped>),
    Struct { inner: Box<Wrapped> },
    End,
}

/// Each variant has as many levels as its JSON has brackets.
#[test]
fn variants_count_the_levels_of_their_json() {
    type Wrap = fn(Box<Wrapped>) -> Wrapped;
    let wraps: [(usize, Wrap); 3] = [
        (1, Wrapped::Newtype),
        (2, |inner| Wrapped::Tuple((), inner)),
        (2, |inner| Wrapped::Struct { inner }),
    ];
    for (levels, wrap) in wraps {
        let nested = |count| (0..count).fold(Wrapped::End, |inner, _| wrap(Box::new(inner)));
        let text = stored(&nested(127 / levels)).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap();
        let too_deep = nested(127 / levels + 1);
        stored(&too_deep).unwrap_err();
        let text = serde_json::to_vec(&too_deep).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap_err();
    }
}
