//! The tables of the present version of a file, with their indexes and triggers.

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
    CREATE TABLE promises_store_log (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        changed INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB
    );
    CREATE TRIGGER promises_store_inserts AFTER INSERT ON promises_store_entries
    WHEN (SELECT watched FROM promises_store_state) > (SELECT milliseconds FROM promises_now) BEGIN
        INSERT INTO promises_store_log (changed, revision, key, value)
            SELECT milliseconds, NEW.revision, NEW.key, NEW.value FROM promises_now;
    END;
    CREATE TRIGGER promises_store_updates AFTER UPDATE OF revision ON promises_store_entries
    WHEN (SELECT watched FROM promises_store_state) > (SELECT milliseconds FROM promises_now) BEGIN
        INSERT INTO promises_store_log (changed, revision, key, value)
            SELECT milliseconds, NEW.revision, NEW.key, NEW.value FROM promises_now;
    END;
    CREATE TRIGGER promises_store_dues AFTER UPDATE OF expires ON promises_store_entries
    WHEN NEW.expires < OLD.due - 1000 OR (OLD.due IS NULL AND NEW.expires IS NOT NULL) BEGIN
        UPDATE promises_store_entries SET due = NEW.expires WHERE key = NEW.key;
    END;
    -- The end of a time to live is not a change.
    CREATE TRIGGER promises_store_deletes AFTER DELETE ON promises_store_entries BEGIN
        UPDATE promises_store_state SET removed = OLD.revision + 1 WHERE removed <= OLD.revision;
        INSERT INTO promises_store_log (changed, revision, key)
            SELECT milliseconds, OLD.revision + 1, OLD.key FROM promises_now, promises_store_state
            WHERE watched > milliseconds AND (OLD.expires IS NULL OR OLD.expires > milliseconds);
    END;
    CREATE TRIGGER promises_store_watches AFTER UPDATE OF watched ON promises_store_state
    WHEN OLD.watched <= (SELECT milliseconds FROM promises_now) BEGIN
        INSERT INTO promises_store_log (changed, revision, key) SELECT milliseconds, 0, '' FROM promises_now;
    END;";
