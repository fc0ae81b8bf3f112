//! The tables, and the migrations of a file.

use super::refused::Refused;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, query_scalar, raw_sql};

/// Marks the file as belonging to this crate, in the header of SQLite.
const APPLICATION_ID: i64 = 0x746f_7072;

/// Each step migrates a file to the next version. A released step is never changed: a new version is a new step.
const STEPS: [&str; 4] = [
    // Triggers number and log the changes, so that a change is one statement. SQLite makes it atomic, whether or not
    // others are committed with it.
    "CREATE TABLE store_revision (last INTEGER NOT NULL);
    INSERT INTO store_revision (last) VALUES (0);
    CREATE TABLE store_entries (
        key TEXT NOT NULL PRIMARY KEY,
        revision INTEGER NOT NULL,
        expires INTEGER,
        value BLOB NOT NULL
    );
    CREATE INDEX store_entries_expires ON store_entries (expires) WHERE expires IS NOT NULL;
    CREATE TABLE store_changes (
        revision INTEGER NOT NULL PRIMARY KEY,
        changed INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB
    );
    CREATE TRIGGER store_inserts AFTER INSERT ON store_entries BEGIN
        UPDATE store_revision SET last = NEW.revision;
        INSERT INTO store_changes (revision, changed, key, value)
            VALUES (NEW.revision, round(unixepoch('subsec') * 1000), NEW.key, NEW.value);
    END;
    CREATE TRIGGER store_updates AFTER UPDATE ON store_entries BEGIN
        UPDATE store_revision SET last = NEW.revision;
        INSERT INTO store_changes (revision, changed, key, value)
            VALUES (NEW.revision, round(unixepoch('subsec') * 1000), NEW.key, NEW.value);
    END;
    -- The end of a time to live is not a change.
    CREATE TRIGGER store_deletes AFTER DELETE ON store_entries
    WHEN OLD.expires IS NULL OR OLD.expires > round(unixepoch('subsec') * 1000) BEGIN
        UPDATE store_revision SET last = last + 1;
        INSERT INTO store_changes (revision, changed, key)
            SELECT last, round(unixepoch('subsec') * 1000), OLD.key FROM store_revision;
    END;
    CREATE TABLE bus_messages (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        published INTEGER NOT NULL DEFAULT (round(unixepoch('subsec') * 1000)),
        topic TEXT NOT NULL,
        payload BLOB NOT NULL
    );",
    // `due` is the end of the delay, or the end of the lease. Places are never reused, so that the place and the number
    // identify a delivery permanently.
    "CREATE TABLE queue_size (envelopes INTEGER NOT NULL);
    INSERT INTO queue_size (envelopes) VALUES (0);
    CREATE TABLE queue_envelopes (
        place INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        id TEXT NOT NULL,
        priority INTEGER NOT NULL,
        due INTEGER NOT NULL,
        leased INTEGER NOT NULL DEFAULT 0,
        number INTEGER NOT NULL DEFAULT 0,
        ended INTEGER,
        payload BLOB NOT NULL,
        UNIQUE (queue, id)
    );
    CREATE INDEX queue_envelopes_due ON queue_envelopes (queue, priority, due, place)
        WHERE ended IS NULL;
    CREATE INDEX queue_envelopes_ended ON queue_envelopes (ended) WHERE ended IS NOT NULL;
    -- Only those that have ended are deleted.
    CREATE TRIGGER queue_inserts AFTER INSERT ON queue_envelopes BEGIN
        UPDATE queue_size SET envelopes = envelopes + 1;
    END;
    CREATE TRIGGER queue_ends AFTER UPDATE OF ended ON queue_envelopes
    WHEN OLD.ended IS NULL AND NEW.ended IS NOT NULL BEGIN
        UPDATE queue_size SET envelopes = envelopes - 1;
    END;",
    // A clock that continues when the clock of the machine is set. `shift` is the difference between the two. `latest`
    // is a time that the clock has shown. The clock does not go back behind it if the clock of the machine was set
    // while no process had the file open.
    "CREATE TABLE clock (shift INTEGER NOT NULL, latest INTEGER NOT NULL);
    INSERT INTO clock (shift, latest) VALUES (0, 0);
    CREATE VIEW now (milliseconds) AS
        SELECT shift + CAST(round(unixepoch('subsec') * 1000) AS INTEGER) FROM clock;
    DROP TRIGGER store_inserts;
    DROP TRIGGER store_updates;
    DROP TRIGGER store_deletes;
    CREATE TRIGGER store_inserts AFTER INSERT ON store_entries BEGIN
        UPDATE store_revision SET last = NEW.revision;
        INSERT INTO store_changes (revision, changed, key, value)
            SELECT NEW.revision, milliseconds, NEW.key, NEW.value FROM now;
    END;
    CREATE TRIGGER store_updates AFTER UPDATE ON store_entries BEGIN
        UPDATE store_revision SET last = NEW.revision;
        INSERT INTO store_changes (revision, changed, key, value)
            SELECT NEW.revision, milliseconds, NEW.key, NEW.value FROM now;
    END;
    -- The end of a time to live is not a change.
    CREATE TRIGGER store_deletes AFTER DELETE ON store_entries
    WHEN OLD.expires IS NULL OR OLD.expires > (SELECT milliseconds FROM now) BEGIN
        UPDATE store_revision SET last = last + 1;
        INSERT INTO store_changes (revision, changed, key)
            SELECT last, milliseconds, OLD.key FROM store_revision, now;
    END;",
    // Whether `due` is the end of a delay. This is unknown for existing envelopes.
    "ALTER TABLE queue_envelopes ADD COLUMN is_delayed INTEGER NOT NULL DEFAULT 1;",
];

/// Refuses a file of another application before anything is changed in it.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<(), Refused> {
    // The order matters: another process may create the tables between the two queries, and marks the file in the same
    // transaction.
    let tables: i64 = query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut *connection)
        .await?;
    let application: i64 = query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    let is_new = application == 0 && tables == 0;
    if application != APPLICATION_ID && !is_new {
        return Err(Refused::Foreign);
    }
    Ok(())
}

/// Migrates a file to the present version.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<(), Refused> {
    // Usually the file needs no migration, and so no lock.
    if version(connection).await? == STEPS.len() {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    // Another process may have been faster.
    check(&mut transaction).await?;
    let version = version(&mut transaction).await?;
    for step in &STEPS[version..] {
        raw_sql(*step).execute(&mut *transaction).await?;
    }
    let marks = format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}",
        STEPS.len()
    );
    // The statement is built from numbers only.
    raw_sql(AssertSqlSafe(marks))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

async fn version(connection: &mut SqliteConnection) -> Result<usize, Refused> {
    let found: i64 = query_scalar("PRAGMA user_version")
        .fetch_one(connection)
        .await?;
    let version = usize::try_from(found).ok();
    version
        .filter(|version| *version <= STEPS.len())
        .ok_or(Refused::Version {
            found,
            known: STEPS.len(),
        })
}
