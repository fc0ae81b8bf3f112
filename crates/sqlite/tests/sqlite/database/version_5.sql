-- Version 5.
CREATE TABLE promises_store_revision (last INTEGER NOT NULL);
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
INSERT INTO promises_clock (shift, latest) VALUES (0, 0);
CREATE TABLE promises_schema (version INTEGER NOT NULL);
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
END;
