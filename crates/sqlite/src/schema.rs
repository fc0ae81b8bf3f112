//! The tables, and the check and the migration of a file.

use super::migrations::steps;
use super::refused::Refused;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, query_scalar, raw_sql};

/// Marks the file as belonging to this crate, in the header of SQLite.
const APPLICATION_ID: i64 = 0x746f_7072;

/// The present version.
pub(super) const VERSION: usize = 6;

/// The tables of the bus, the queue and the clock in a new file. The names have a prefix, because the file may have
/// tables of the application, too.
///
/// `due` is the end of the delay, or the end of the lease. Places are never reused, so that the place and the number
/// identify a delivery permanently. `is_delayed` says whether `due` is the end of a delay.
///
/// `shift` is the difference between the clock of the machine and a clock that continues when the former is set. `latest`
/// is a time that the latter has shown. It does not go back behind that time if the clock of the machine was set while no
/// process had the file open.
pub(super) const TABLES: &str = "CREATE TABLE promises_bus_messages (
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

/// The indexes, the view and the triggers of these tables. The version is in a table, because the one in the header may be
/// that of the application.
pub(super) const OBJECTS: &str = "CREATE TABLE promises_schema (version INTEGER NOT NULL);
    INSERT INTO promises_schema (version) VALUES (6);
    CREATE INDEX promises_queue_envelopes_due ON promises_queue_envelopes (queue, priority, due, place)
        WHERE ended IS NULL;
    CREATE INDEX promises_queue_envelopes_ended ON promises_queue_envelopes (ended) WHERE ended IS NOT NULL;
    CREATE VIEW promises_now (milliseconds) AS
        SELECT shift + CAST(round(unixepoch('subsec') * 1000) AS INTEGER) FROM promises_clock;
    -- Only those that have ended are deleted.
    CREATE TRIGGER promises_queue_inserts AFTER INSERT ON promises_queue_envelopes BEGIN
        UPDATE promises_queue_size SET envelopes = envelopes + 1;
    END;
    CREATE TRIGGER promises_queue_ends AFTER UPDATE OF ended ON promises_queue_envelopes
    WHEN OLD.ended IS NULL AND NEW.ended IS NOT NULL BEGIN
        UPDATE promises_queue_size SET envelopes = envelopes - 1;
    END;";

/// The tables of the store, with their index and triggers. A change of a present value writes its row, and no other table
/// and no index.
///
/// The revision of a value increases by one with each change. `removed` is at least the highest revision of all values
/// that were removed. A new value begins after it, so the revisions of a key increase across removals.
///
/// Changes are logged while a process watches: `watched` is the time until which they are. Triggers log them, so that a
/// change is one statement. SQLite makes it atomic, whether or not others are committed with it. A change without a key
/// tells watchers that changes were not logged.
///
/// `due` is when a sweep looks at an entry. It may be earlier than the end of the time to live, and then the sweep sets
/// it. It is at most a second later.
pub(super) const STORE: &str = "CREATE TABLE promises_store_state (removed INTEGER NOT NULL, watched INTEGER NOT NULL);
    INSERT INTO promises_store_state (removed, watched) VALUES (0, 0);
    CREATE TABLE promises_store_entries (
        key TEXT NOT NULL PRIMARY KEY,
        revision INTEGER NOT NULL,
        expires INTEGER,
        due INTEGER,
        value BLOB NOT NULL
    );
    CREATE INDEX promises_store_entries_due ON promises_store_entries (due) WHERE due IS NOT NULL;
    CREATE TABLE promises_store_changes (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        changed INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB
    );
    CREATE TRIGGER promises_store_inserts AFTER INSERT ON promises_store_entries
    WHEN (SELECT watched FROM promises_store_state) > (SELECT milliseconds FROM promises_now) BEGIN
        INSERT INTO promises_store_changes (changed, revision, key, value)
            SELECT milliseconds, NEW.revision, NEW.key, NEW.value FROM promises_now;
    END;
    CREATE TRIGGER promises_store_updates AFTER UPDATE OF revision ON promises_store_entries
    WHEN (SELECT watched FROM promises_store_state) > (SELECT milliseconds FROM promises_now) BEGIN
        INSERT INTO promises_store_changes (changed, revision, key, value)
            SELECT milliseconds, NEW.revision, NEW.key, NEW.value FROM promises_now;
    END;
    CREATE TRIGGER promises_store_dues AFTER UPDATE OF expires ON promises_store_entries
    WHEN NEW.expires < OLD.due - 1000 OR (OLD.due IS NULL AND NEW.expires IS NOT NULL) BEGIN
        UPDATE promises_store_entries SET due = NEW.expires WHERE key = NEW.key;
    END;
    -- The end of a time to live is not a change.
    CREATE TRIGGER promises_store_deletes AFTER DELETE ON promises_store_entries BEGIN
        UPDATE promises_store_state SET removed = OLD.revision + 1 WHERE removed <= OLD.revision;
        INSERT INTO promises_store_changes (changed, revision, key)
            SELECT milliseconds, OLD.revision + 1, OLD.key FROM promises_now, promises_store_state
            WHERE watched > milliseconds AND (OLD.expires IS NULL OR OLD.expires > milliseconds);
    END;
    CREATE TRIGGER promises_store_watches AFTER UPDATE OF watched ON promises_store_state
    WHEN OLD.watched <= (SELECT milliseconds FROM promises_now) BEGIN
        INSERT INTO promises_store_changes (changed, revision, key) SELECT milliseconds, 0, '' FROM promises_now;
    END;";

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
    use crate::migrations::EARLY_STEPS;
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
