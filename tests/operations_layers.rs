//! What stands around the layer for operations, and inside of it.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower_promises::operation::{OperationBody, OperationRequestBody};

#[tokio::test]
async fn bodies_are_empty_by_default() {
    async fn check<B: Body<Error: std::fmt::Debug> + Default>() {
        let body = B::default();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }
    check::<OperationBody<Full<Bytes>>>().await;
    check::<OperationRequestBody<Full<Bytes>>>().await;
}
