//! The statements that migrate files of earlier versions.

use super::tables::{OBJECTS, STORE, TABLES, VERSION};

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
pub(super) const EARLY_STEPS: [&str; 4] = [
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

/// Moves the tables of the store of version 5 out of the way of [`STORE`]. Version 5 logged each change, and numbered the
/// changes of all keys. A table is copied, because renaming it fails if a view of the application is invalid.
const BEFORE_STORE: &str = "DROP TRIGGER IF EXISTS promises_store_inserts;
    DROP TRIGGER IF EXISTS promises_store_updates;
    DROP TRIGGER IF EXISTS promises_store_deletes;
    DROP INDEX IF EXISTS promises_store_entries_expires;
    DROP TABLE promises_store_changes;
    CREATE TABLE promises_store_entries_5 AS SELECT key, revision, expires, value FROM promises_store_entries;
    DROP TABLE promises_store_entries;";

const AFTER_STORE: &str = "INSERT INTO promises_store_entries (key, revision, expires, due, value)
        SELECT key, revision, expires, expires, value FROM promises_store_entries_5;
    UPDATE promises_store_state SET removed = (SELECT last FROM promises_store_revision);
    DROP TABLE promises_store_entries_5;
    DROP TABLE promises_store_revision;
    UPDATE promises_schema SET version = 6;";

/// Returns the statements that bring a file from this version to the present one.
pub(super) fn steps(version: usize) -> Vec<&'static str> {
    let from_5 = [BEFORE_STORE, STORE, AFTER_STORE];
    match EARLY_STEPS.get(version..) {
        _ if version == 0 => vec![TABLES, STORE, OBJECTS],
        Some(steps) => [steps, &[RENAME, OBJECTS], &from_5].concat(),
        None if version < VERSION => from_5.to_vec(),
        None => Vec::new(),
    }
}
