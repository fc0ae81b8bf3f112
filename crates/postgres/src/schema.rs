//! The tables and functions, and the migrations of a schema.

use super::builder::Settings;
use super::database::{Database, Lane};
use super::refused::{OpenError, Refused};
use super::statement::{Statement, text};
use sqlx::Row;
use sqlx::postgres::PgRow;
use tower_promises_backend::BackendError;

/// Each step migrates a schema to the next version. A released step is never changed: a new version is a new step.
const STEPS: [&str; 1] = [include_str!("schema/1.sql")];

const OLDEST_SERVER: i32 = 130_000;

/// Refuses a name that would have to be escaped, or that other software may use.
pub(super) fn check_name(settings: &Settings) -> Result<(), BackendError> {
    let name = &settings.schema;
    let is_valid = (1..=63).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.starts_with("pg_")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if is_valid {
        return Ok(());
    }
    let schema = name.clone();
    Err(refused(settings, Refused::Name { schema }))
}

/// Checks the server, creates or migrates the schema, and returns its identity: the name of a table that no other database
/// has.
///
/// The migration is one message with several statements, which the server executes as one transaction. So a client that
/// dies in between leaves nothing behind, and a pooler needs no session.
pub(super) async fn migrate(database: &Database) -> Result<String, BackendError> {
    let mut lane = Lane::default();
    check_server(database, &mut lane).await?;
    // Usually the schema needs no migration, and so no lock and no permission to create anything.
    if version(database, &mut lane).await? != Some(STEPS.len()) {
        let migration = Statement::write(migration(&database.schema()));
        database.execute(&mut lane, &migration).await?;
        // Another process may have migrated the schema further meanwhile.
        version(database, &mut lane).await?;
    }
    let identity = Statement::read(format!(
        "SELECT relname::text FROM pg_class
        WHERE relnamespace = to_regnamespace({}) AND relname LIKE 'identity%'",
        text(&database.schema())
    ));
    let rows = database.execute(&mut lane, &identity).await?;
    read(database, &rows, |row| row.try_get(0))
}

async fn check_server(database: &Database, lane: &mut Lane) -> Result<(), BackendError> {
    let sql =
        "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'),
        pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";
    let rows = database.execute(lane, &Statement::read(sql)).await?;
    let (version, encoding, is_read_only) = read(database, &rows, |row| {
        Ok((
            row.try_get::<i32, _>(0)?,
            row.try_get::<String, _>(1)?,
            row.try_get::<bool, _>(2)?,
        ))
    })?;
    let reason = if version < OLDEST_SERVER {
        Refused::Server { version }
    } else if encoding != "UTF8" {
        Refused::Encoding { found: encoding }
    } else if is_read_only {
        Refused::ReadOnly
    } else {
        return Ok(());
    };
    Err(refused(database.settings(), reason))
}

/// The version of the schema, `None` if it does not exist. An error if it is newer than this program.
async fn version(database: &Database, lane: &mut Lane) -> Result<Option<usize>, BackendError> {
    let schema = database.schema();
    let table = text(&format!("{schema}.version"));
    let exists = Statement::read(format!("SELECT to_regclass({table}) IS NOT NULL"));
    let rows = database.execute(lane, &exists).await?;
    if !read(database, &rows, |row| row.try_get(0))? {
        return Ok(None);
    }
    let number = Statement::read(format!("SELECT number FROM {schema}.version"));
    let rows = database.execute(lane, &number).await?;
    let found: i32 = read(database, &rows, |row| row.try_get(0))?;
    let known = STEPS.len();
    let version = usize::try_from(found).ok().filter(|found| *found <= known);
    let newer = || refused(database.settings(), Refused::Version { found, known });
    version.map(Some).ok_or_else(newer)
}

/// The statements that bring a schema of any version to the present one.
fn migration(schema: &str) -> String {
    // The key of the lock is that of the name, in a space of numbers that no other lock of this package uses.
    let mut sql = format!(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        SELECT pg_advisory_xact_lock(hashtextextended({lock}, 0));
        DO $migration$ BEGIN
            IF to_regnamespace({name}) IS NULL THEN
                CREATE SCHEMA {schema};
            END IF;
        END $migration$;
        CREATE TABLE IF NOT EXISTS {schema}.version (number integer NOT NULL);
        INSERT INTO {schema}.version (number)
            SELECT 0 WHERE NOT EXISTS (SELECT FROM {schema}.version);",
        lock = text(&format!("tower-promises/{schema}")),
        name = text(schema),
    );
    for (number, step) in STEPS.iter().enumerate() {
        // Each statement sees what other processes have committed before they released the lock.
        sql.push_str(&format!(
            "DO $migration$ BEGIN
                IF (SELECT number FROM {schema}.version) = {number} THEN
                    {}
                    UPDATE {schema}.version SET number = {};
                END IF;
            END $migration$;",
            step.replace("schema_name", schema),
            number + 1
        ));
    }
    sql
}

fn refused(settings: &Settings, refused: Refused) -> BackendError {
    let schema = settings.schema.clone();
    BackendError::unavailable(OpenError { schema, refused })
}

fn read<T>(
    database: &Database,
    rows: &[PgRow],
    read: impl Fn(&PgRow) -> sqlx::Result<T>,
) -> Result<T, BackendError> {
    let row = rows.first().ok_or(sqlx::Error::RowNotFound);
    row.and_then(read).map_err(|error| database.error(error))
}
