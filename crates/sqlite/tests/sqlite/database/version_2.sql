-- The additions of version 2 of the schema.
CREATE TABLE queue_size (envelopes INTEGER NOT NULL);
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
-- Only envelopes that have ended are deleted.
CREATE TRIGGER queue_inserts AFTER INSERT ON queue_envelopes BEGIN
    UPDATE queue_size SET envelopes = envelopes + 1;
END;
CREATE TRIGGER queue_ends AFTER UPDATE OF ended ON queue_envelopes
WHEN OLD.ended IS NULL AND NEW.ended IS NOT NULL BEGIN
    UPDATE queue_size SET envelopes = envelopes - 1;
END;
