//! The path of a nested value, for error messages.

use serde::ser::Error;
use std::fmt::{self, Display, Write};

/// The maximum nesting of arrays and objects that `serde_json` reads.
const MAX_DEPTH: usize = 127;

/// The path of a value. Its parts live on the stack during serialisation, so a path allocates nothing until it is
/// displayed.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step,
    /// The enum variant of the value, if the value is a tuple or struct variant.
    variant: Option<&'static str>,
    /// The number of arrays and objects around the value.
    depth: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Step {
    Root,
    /// A field of a struct, or the content of a variant.
    Name(&'static str),
    Index(usize),
    /// A value of a map. Its key is user data, which must not appear in errors and logs.
    Value,
}

impl<'a> Path<'a> {
    pub(super) const ROOT: Self = Self {
        parent: None,
        step: Step::Root,
        variant: None,
        depth: 0,
    };

    pub(super) fn below(&'a self, step: Step) -> Self {
        Self {
            parent: Some(self),
            step,
            variant: None,
            depth: self.depth,
        }
    }

    pub(super) fn variant(self, variant: &'static str) -> Self {
        Self {
            variant: Some(variant),
            ..self
        }
    }

    /// Returns the path of a value inside of `levels` further arrays or objects.
    pub(super) fn deeper<E: Error>(mut self, levels: usize) -> Result<Self, E> {
        self.depth += levels;
        if self.depth > MAX_DEPTH {
            return Err(E::custom(format_args!(
                "the value is nested more than {MAX_DEPTH} levels deep, which cannot be read again"
            )));
        }
        Ok(self)
    }

    pub(super) fn check<E: Error>(&self, number: f64) -> Result<(), E> {
        if number.is_finite() {
            return Ok(());
        }
        Err(E::custom(format_args!(
            "{self} is {number}, and JSON has finite numbers only"
        )))
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut next = Some(self);
        while let Some(path) = next {
            steps.extend(path.variant.map(Step::Name));
            steps.push(path.step);
            next = path.parent;
        }
        steps.reverse();
        let mut is_first = true;
        for step in steps {
            match step {
                Step::Root => continue,
                Step::Index(index) if is_first => write!(f, "`[{index}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Name(_) | Step::Value => {
                    f.write_char(if is_first { '`' } else { '.' })?;
                    f.write_str(match step {
                        Step::Name(name) => name,
                        _ => "*",
                    })?;
                }
            }
            is_first = false;
        }
        f.write_str(if is_first { "the value" } else { "`" })
    }
}
