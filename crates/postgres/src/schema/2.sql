-- The sequence of an identity of an unlogged table is unlogged too, from PostgreSQL 15 on. On a standby that is promoted,
-- such a sequence may be unreadable, and then no message could be written.
ALTER TABLE schema_name.messages ALTER COLUMN number DROP IDENTITY;
CREATE SEQUENCE schema_name.numbers;
PERFORM setval('schema_name.numbers', max(number)) FROM schema_name.messages HAVING max(number) > 0;
ALTER TABLE schema_name.messages ALTER COLUMN number SET DEFAULT nextval('schema_name.numbers');
