//! Values of any size in the store, in pieces that every adapter accepts.

use super::deadline::TimedBackend;
use crate::BackendError;
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The size of a piece, which every store accepts as one value.
const PIECE_BYTES: usize = 64 * 1024;

/// The size of a value that is stored in pieces. The pieces of a value are read with the size that was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    bytes: usize,
}

impl Pieces {
    fn number(self) -> usize {
        self.bytes.div_ceil(PIECE_BYTES)
    }

    fn keys(self, prefix: &str) -> impl Iterator<Item = String> {
        (0..self.number()).map(move |number| format!("{prefix}/{number}"))
    }
}

impl TimedBackend {
    /// Stores the pieces of a value. A value with the same prefix that is stored at the same time would be mixed with
    /// this value, so a prefix is used once.
    pub async fn put_pieces(
        &self,
        prefix: &str,
        mut value: Bytes,
        time_to_live: Duration,
    ) -> Result<Pieces, BackendError> {
        let pieces = Pieces { bytes: value.len() };
        for key in pieces.keys(prefix) {
            let piece = value.split_to(value.len().min(PIECE_BYTES));
            self.put(&key, piece, time_to_live).await?;
        }
        Ok(pieces)
    }

    /// Returns a value, or `None` if a piece of it is missing.
    pub async fn get_pieces(
        &self,
        prefix: &str,
        pieces: Pieces,
    ) -> Result<Option<Bytes>, BackendError> {
        let mut whole = BytesMut::new();
        for key in pieces.keys(prefix) {
            let Some(piece) = self.get(&key).await? else {
                return Ok(None);
            };
            if pieces.number() == 1 {
                return Ok(Some(piece.value));
            }
            whole.extend_from_slice(&piece.value);
        }
        Ok(Some(whole.freeze()))
    }

    pub async fn delete_pieces(&self, prefix: &str, pieces: Pieces) -> Result<(), BackendError> {
        for key in pieces.keys(prefix) {
            self.delete(&key).await?;
        }
        Ok(())
    }
}
