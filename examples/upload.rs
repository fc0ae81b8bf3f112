//! Uploads a file of any size without keeping it in memory: a promise reads the request body as it arrives, hashes it
//! and stores it, and the second pass renders the digest.
//!
//! Start it with `cargo run --example upload`.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::put;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tower_promises::body::RequestBody;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

/// The largest accepted file in bytes.
const MAX_SIZE: u64 = 4 << 30;

/// A stored file.
#[derive(Clone)]
struct Stored {
    size: u64,
    digest: String,
}

/// Stores a body under its digest. An incomplete file is a temporary file, which is removed when this future is
/// dropped, for example because the client disconnects.
async fn store(mut body: RequestBody, folder: Arc<Path>) -> Result<Stored, BoxError> {
    let target = folder.clone();
    let temporary = tokio::task::spawn_blocking(move || NamedTempFile::new_in(folder)).await??;
    let mut file = tokio::fs::File::from_std(temporary.as_file().try_clone()?);
    let (mut size, mut hash) = (0, Sha256::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            size += data.len() as u64;
            if size > MAX_SIZE {
                return Err("the file is too large".into());
            }
            hash.update(&data);
            // The client can send only as fast as the disk takes the data.
            file.write_all(&data).await?;
        }
    }
    file.flush().await?;
    let mut digest = String::new();
    for byte in hash.finalize() {
        write!(digest, "{byte:02x}")?;
    }
    let path = target.join(&digest);
    tokio::task::spawn_blocking(move || temporary.persist(path)).await??;
    Ok(Stored { size, digest })
}

/// Has no `await`, so it could be a template.
async fn upload(State(folder): State<Arc<Path>>, promises: Promises) -> Result<String, StatusCode> {
    let stored = promises.result_or_try_submit_body("stored", |body| store(body, folder));
    match stored {
        Ok(Stored { size, digest }) => Ok(format!("{size} bytes, SHA-256 {digest}\n")),
        Err(PromiseError::Failed { error, .. }) => {
            eprintln!("upload failed: {error}");
            Err(StatusCode::UNPROCESSABLE_ENTITY)
        }
        Err(error) => Err(error.status()),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let folder = std::env::var_os("UPLOADS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| std::env::temp_dir().join("uploads"));
    std::fs::create_dir_all(&folder)?;

    let app = Router::new()
        .route("/", put(upload))
        .layer(PromiseLayer::new().timeout(Duration::from_secs(3600)))
        .with_state(Arc::from(folder.as_path()));

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try");
    println!("  head -c 1G /dev/zero | curl -T - http://{address}/");
    println!("  ls {}", folder.display());
    axum::serve(listener, app).await?;
    Ok(())
}
