-- Version 1 of the schema.
CREATE TABLE store_revision (last INTEGER NOT NULL);
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
);
