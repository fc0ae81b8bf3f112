//! The types of promises that are settled from outside.

use super::memory::Json;
use serde::de::DeserializeOwned;
use std::any::type_name;
use std::collections::HashMap;
use std::sync::Mutex;
use tower_promises_backend::kit::sync::lock;

/// The types that this process has waited for, by their names. There are as many as the program has, so the map is
/// bounded.
#[derive(Debug, Default)]
pub(super) struct Types(Mutex<HashMap<&'static str, Fits>>);

/// Whether a value fits a type.
type Fits = fn(&Json) -> bool;

impl Types {
    /// Learns a type and returns its name.
    pub(super) fn learn<T: DeserializeOwned>(&self) -> &'static str {
        let name = type_name::<T>();
        let fits = |json: &Json| json.read::<T>().is_ok();
        lock(&self.0).insert(name, fits);
        name
    }

    /// Whether a value fits the type with this name. Any value fits an unknown type.
    pub(super) fn fits(&self, name: &str, json: &Json) -> bool {
        let fits = lock(&self.0).get(name).copied();
        fits.is_none_or(|fits| fits(json))
    }
}
