//! The tables, and the migrations of a file.

use super::refused::Refused;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, query_scalar, raw_sql};

/// Marks the file as belonging to this crate, in the header of SQLite.
const APPLICATION_ID: i64 = 0x746f_7072;

/// The present version.
const VERSION: usize = 5;

/// The tables of a new file. The names have a prefix, because the file may have tables of the application, too.
///
/// `due` is the end of the delay, or the end of the lease. Places are never reused, so that the place and the number
/// identify a delivery permanently. `is_delayed` says whether `due` is the end of a delay.
///
/// `shift` is the difference between the clock of the machine and a clock that continues when the former is set. `latest`
/// is a time that the latter has shown. It does not go back behind that time if the clock of the machine was set while no
/// process had the file open.
const TABLES: &str = "CREATE TABLE promises_store_revision (last INTEGER NOT NULL);
    INSERT INTO promises_store_revision (last) VALUES (0);
    CREATE TABLE promises_store_entries (
        key TEXT NOT NULL PRIMARY KEY,
        revision INTEGER NOT NULL,
        expires INTEGER,
        value BLOB NOT NULL
    );
    CREATE TABLE promises_store_changes (
        revision INTEGER NOT NULL PRIMARY KEY,
        changed INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB
    );
    CREATE TABLE promises_bus_messages (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        published INTEGER NOT NULL DEFAULT (round(unixepoch('subsec') * 1000)),
        topic TEXT NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE TABLE promises_queue_size (envelopes INTEGER NOT NULL);
    INSERT INTO promises_queue_size (envelopes) VALUES (0);
    CREATE TABLE promises_queue_envelopes (
        place INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        id TEXT NOT NULL,
        priority INTEGER NOT NULL,
        due INTEGER NOT NULL,
        leased INTEGER NOT NULL DEFAULT 0,
        number INTEGER NOT NULL DEFAULT 0,
        ended INTEGER,
        payload BLOB NOT NULL,
        is_delayed INTEGER NOT NULL DEFAULT 1,
        UNIQUE (queue, id)
    );
    CREATE TABLE promises_clock (shift INTEGER NOT NULL, latest INTEGER NOT NULL);
    INSERT INTO promises_clock (shift, latest) VALUES (0, 0);";

/// The indexes, the view and the triggers of a file. Triggers number and log the changes, so that a change is one
/// statement. SQLite makes it atomic, whether or not others are committed with it. The version is in a table, because the
/// one in the header may be that of the application.
const OBJECTS: &str = "CREATE TABLE promises_schema (version INTEGER NOT NULL);
    INSERT INTO promises_schema (version) VALUES (5);
    CREATE INDEX promises_store_entries_expires ON promises_store_entries (expires) WHERE expires IS NOT NULL;
    CREATE INDEX promises_queue_envelopes_due ON promises_queue_envelopes (queue, priority, due, place)
        WHERE ended IS NULL;
    CREATE INDEX promises_queue_envelopes_ended ON promises_queue_envelopes (ended) WHERE ended IS NOT NULL;
    CREATE VIEW promises_now (milliseconds) AS
        SELECT shift + CAST(round(unixepoch('subsec') * 1000) AS INTEGER) FROM promises_clock;
    CREATE TRIGGER promises_store_inserts AFTER INSERT ON promises_store_entries BEGIN
        UPDATE promises_store_revision SET last = NEW.revision;
        INSERT INTO promises_store_changes (revision, changed, key, value)
            SELECT NEW.revision, milliseconds, NEW.key, NEW.value FROM promises_now;
    END;
    CREATE TRIGGER promises_store_updates AFTER UPDATE ON promises_store_entries BEGIN
        UPDATE promises_store_revision SET last = NEW.revision;
        INSERT INTO promises_store_changes (revision, changed, key, value)
            SELECT NEW.revision, milliseconds, NEW.key, NEW.value FROM promises_now;
    END;
    -- The end of a time to live is not a change.
    CREATE TRIGGER promises_store_deletes AFTER DELETE ON promises_store_entries
    WHEN OLD.expires IS NULL OR OLD.expires > (SELECT milliseconds FROM promises_now) BEGIN
        UPDATE promises_store_revision SET last = last + 1;
        INSERT INTO promises_store_changes (revision, changed, key)
            SELECT last, milliseconds, OLD.key FROM promises_store_revision, promises_now;
    END;
    -- Only those that have ended are deleted.
    CREATE TRIGGER promises_queue_inserts AFTER INSERT ON promises_queue_envelopes BEGIN
        UPDATE promises_queue_size SET envelopes = envelopes + 1;
    END;
    CREATE TRIGGER promises_queue_ends AFTER UPDATE OF ended ON promises_queue_envelopes
    WHEN OLD.ended IS NULL AND NEW.ended IS NOT NULL BEGIN
        UPDATE promises_queue_size SET envelopes = envelopes - 1;
    END;";

/// Changes the names of version 4 to those of version 5. [`OBJECTS`] follow.
const RENAME: &str = "DROP TRIGGER store_inserts;
    DROP TRIGGER store_updates;
    DROP TRIGGER store_deletes;
    DROP TRIGGER queue_inserts;
    DROP TRIGGER queue_ends;
    DROP VIEW now;
    DROP INDEX store_entries_expires;
    DROP INDEX queue_envelopes_due;
    DROP INDEX queue_envelopes_ended;
    ALTER TABLE store_revision RENAME TO promises_store_revision;
    ALTER TABLE store_entries RENAME TO promises_store_entries;
    ALTER TABLE store_changes RENAME TO promises_store_changes;
    ALTER TABLE bus_messages RENAME TO promises_bus_messages;
    ALTER TABLE queue_size RENAME TO promises_queue_size;
    ALTER TABLE queue_envelopes RENAME TO promises_queue_envelopes;
    ALTER TABLE clock RENAME TO promises_clock;";

/// Each step migrates a file of an early version, without prefixes, to the next version. A step is never changed.
const EARLY_STEPS: [&str; 4] = [
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

/// Returns the statements that bring a file from this version to the present one.
fn steps(version: usize) -> Vec<&'static str> {
    match EARLY_STEPS.get(version..) {
        _ if version == 0 => vec![TABLES, OBJECTS],
        Some(steps) => [steps, &[RENAME, OBJECTS]].concat(),
        None => Vec::new(),
    }
}

/// Refuses a file of another application before anything is changed in it, unless the application shares the file.
/// Returns whether the file belongs to this crate.
pub(super) async fn check(
    connection: &mut SqliteConnection,
    is_shared: bool,
) -> Result<bool, Refused> {
    // The order matters: another process may create the tables between the two queries, and marks the file in the same
    // transaction.
    let tables: i64 = query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut *connection)
        .await?;
    let application: i64 = query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    let is_new = application == 0 && tables == 0;
    let is_own = application == APPLICATION_ID || (is_new && !is_shared);
    if !is_own && !is_shared {
        return Err(Refused::Foreign);
    }
    Ok(is_own)
}

/// Migrates a file to the present version.
pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    is_shared: bool,
) -> Result<(), Refused> {
    // Usually the file needs no migration, and so no lock.
    if version(connection).await? == VERSION {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    // Another process may have been faster.
    let is_own = check(&mut transaction, is_shared).await?;
    for step in steps(version(&mut transaction).await?) {
        raw_sql(step).execute(&mut *transaction).await?;
    }
    if is_own {
        // The version in the header makes earlier versions of this crate refuse the file.
        let marks =
            format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}");
        // The statement is built from numbers only.
        raw_sql(AssertSqlSafe(marks))
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn version(connection: &mut SqliteConnection) -> Result<usize, Refused> {
    let has_table = "SELECT count(*) FROM sqlite_schema WHERE name = 'promises_schema'";
    let has_table: i64 = query_scalar(has_table).fetch_one(&mut *connection).await?;
    let application: i64 = query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    let version = if has_table > 0 {
        "SELECT version FROM promises_schema"
    } else if application == APPLICATION_ID {
        "PRAGMA user_version"
    } else {
        return Ok(0);
    };
    let found: i64 = query_scalar(version).fetch_one(connection).await?;
    let version = usize::try_from(found).ok();
    version
        .filter(|version| *version <= VERSION)
        .ok_or(Refused::Version {
            found,
            known: VERSION,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use sqlx::Row;
    use std::collections::BTreeSet;

    /// Returns the columns of all tables, and the statements that have created everything else.
    async fn schema(connection: &mut SqliteConnection) -> BTreeSet<String> {
        let columns =
            "SELECT m.name, p.name, p.type, p.\"notnull\", coalesce(p.dflt_value, ''), p.pk
            FROM sqlite_schema m, pragma_table_info(m.name) p WHERE m.type = 'table'";
        let columns = sqlx::query(columns).fetch_all(&mut *connection).await;
        let columns = columns.unwrap().into_iter().map(|row| {
            let [table, column, of, default] =
                [0, 1, 2, 4].map(|index| row.get::<String, _>(index));
            let [is_required, key] = [3, 5].map(|index| row.get::<i64, _>(index));
            format!("{table} {column} {of} {is_required} {default} {key}")
        });
        let others = "SELECT coalesce(sql, name) FROM sqlite_schema WHERE type <> 'table'";
        let others = query_scalar::<_, String>(others)
            .fetch_all(connection)
            .await;
        columns.chain(others.unwrap()).collect()
    }

    #[tokio::test]
    async fn an_old_file_gets_the_schema_of_a_new_one() {
        let mut new = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        migrate(&mut new, false).await.unwrap();
        let expected = schema(&mut new).await;
        assert!(expected.len() > 30, "{expected:?}");
        for version in 1..=EARLY_STEPS.len() {
            let mut old = SqliteConnection::connect("sqlite::memory:").await.unwrap();
            for step in &EARLY_STEPS[..version] {
                raw_sql(*step).execute(&mut old).await.unwrap();
            }
            let marks = format!(
                "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}"
            );
            raw_sql(AssertSqlSafe(marks))
                .execute(&mut old)
                .await
                .unwrap();
            migrate(&mut old, false).await.unwrap();
            assert_eq!(schema(&mut old).await, expected, "from version {version}");
        }
    }
}
