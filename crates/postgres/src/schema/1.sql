-- Each change is one call of a function, so it is atomic and takes one round trip. `schema_name` is replaced by the name
-- of the schema. Names have the collation "C": they are compared by their bytes.

-- The store. Revisions number the changes of all keys.
CREATE SEQUENCE schema_name.revisions;
CREATE TABLE schema_name.entries (
    key text COLLATE "C" NOT NULL PRIMARY KEY,
    revision bigint NOT NULL,
    expires timestamptz,
    value bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX entries_expires ON schema_name.entries (expires) WHERE expires IS NOT NULL;

-- What processes listen to. Messages and changes are written only while there is a listener, and need not survive a
-- crash of the server: the rows of the listeners are lost with them, which tells the listeners.
CREATE UNLOGGED TABLE schema_name.listeners (
    -- Random, so that an id does not come back when a crash has emptied the table.
    id uuid NOT NULL PRIMARY KEY,
    feed text NOT NULL,
    seen timestamptz NOT NULL
);
-- A sequence of its own, which is logged. That of an identity is unlogged as the table is, and may be unreadable on a
-- standby that is promoted.
CREATE SEQUENCE schema_name.numbers;
CREATE UNLOGGED TABLE schema_name.messages (
    number bigint NOT NULL PRIMARY KEY DEFAULT nextval('schema_name.numbers'),
    transaction xid8 NOT NULL,
    written timestamptz NOT NULL,
    name text NOT NULL,
    value bytea
);
CREATE INDEX messages_transaction ON schema_name.messages (transaction);
CREATE UNLOGGED TABLE schema_name.changes (
    number bigint NOT NULL PRIMARY KEY,
    transaction xid8 NOT NULL,
    written timestamptz NOT NULL,
    name text NOT NULL,
    value bytea
);
CREATE INDEX changes_transaction ON schema_name.changes (transaction);
-- The newest transaction whose messages or changes were deleted.
CREATE UNLOGGED TABLE schema_name.horizons (
    feed text NOT NULL PRIMARY KEY,
    transaction xid8 NOT NULL
);

CREATE FUNCTION schema_name.has_listeners(asked text) RETURNS boolean LANGUAGE plpgsql AS $function$
BEGIN
    RETURN EXISTS (
        SELECT FROM schema_name.listeners
        WHERE feed = asked AND seen > clock_timestamp() - interval '1 minute'
    );
END
$function$;

-- Changes keys. A value that is NULL deletes. An expected revision that is NULL matches every state, and 0 matches an
-- absent value. Returns for each key the revision of the change, or NULL if nothing has changed, and whether there are
-- watchers.
CREATE FUNCTION schema_name.change(
    lock_timeout bigint, keys text[], new_values bytea[], expected bigint[], times_to_live bigint[],
    OUT new_revisions bigint[], OUT is_watched boolean
) LANGUAGE plpgsql AS $function$
#variable_conflict use_column
DECLARE
    lock_class CONSTANT integer := 'schema_name.entries'::regclass::oid::integer;
    item record;
    present bigint;
    next bigint;
BEGIN
    PERFORM set_config('lock_timeout', change.lock_timeout::text, true);
    new_revisions := array_fill(NULL::bigint, ARRAY[cardinality(keys)]);
    is_watched := schema_name.has_listeners('changes');
    -- In the order of the locks, so that two calls never wait for each other.
    FOR item IN
        SELECT * FROM unnest(keys, new_values, expected, times_to_live)
            WITH ORDINALITY AS items (key, value, revision, time_to_live, place)
        ORDER BY hashtext(key), key, place
    LOOP
        -- All changes of a key take turns, also if the key is absent. So its revisions rise in the order of the commits.
        PERFORM pg_advisory_xact_lock(lock_class, hashtext(item.key));
        -- This statement has a snapshot of its own, which is taken under the lock.
        SELECT revision INTO present FROM schema_name.entries
            WHERE key = item.key AND (expires IS NULL OR expires > clock_timestamp());
        CONTINUE WHEN item.revision IS NOT NULL AND item.revision <> coalesce(present, 0);
        CONTINUE WHEN item.value IS NULL AND present IS NULL;
        next := nextval('schema_name.revisions');
        IF item.value IS NULL THEN
            DELETE FROM schema_name.entries WHERE key = item.key;
        ELSE
            INSERT INTO schema_name.entries (key, revision, expires, value)
            VALUES (
                item.key, next, clock_timestamp() + item.time_to_live * interval '1 microsecond', item.value
            )
            ON CONFLICT (key) DO UPDATE
            SET revision = excluded.revision, expires = excluded.expires, value = excluded.value;
        END IF;
        new_revisions[item.place] := next;
        IF is_watched THEN
            INSERT INTO schema_name.changes (number, transaction, written, name, value)
            VALUES (next, pg_current_xact_id(), clock_timestamp(), item.key, item.value);
        END IF;
    END LOOP;
END
$function$;

-- Writes messages if there are listeners, and wakes them.
CREATE FUNCTION schema_name.publish(topics text[], payloads bytea[], channel text) RETURNS void
LANGUAGE plpgsql AS $function$
BEGIN
    IF NOT schema_name.has_listeners('messages') THEN
        RETURN;
    END IF;
    INSERT INTO schema_name.messages (transaction, written, name, value)
        SELECT pg_current_xact_id(), clock_timestamp(), topic, payload
        FROM unnest(topics, payloads) WITH ORDINALITY AS items (topic, payload, place)
        ORDER BY place;
    IF channel IS NOT NULL THEN
        PERFORM pg_notify(channel, 'messages');
    END IF;
END
$function$;

-- The queue. An envelope that has not ended has a row in one of two tables: `ready`, in the order of `position`, if it is
-- due whatever the clock shows; `waiting` during a delay or a lease. So a delivery and its end write few entries of
-- indexes: no column of an index of `envelopes` changes.
CREATE SEQUENCE schema_name.places;
CREATE TABLE schema_name.envelopes (
    place bigint NOT NULL PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    ended timestamptz,
    payload bytea NOT NULL,
    UNIQUE (queue, id)
-- A row that ends finds room for its next version in its page, which needs no entry of an index.
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE TABLE schema_name.ready (
    queue text COLLATE "C" NOT NULL,
    priority smallint NOT NULL,
    position bigint NOT NULL,
    place bigint NOT NULL,
    number integer NOT NULL,
    PRIMARY KEY (queue, priority, position)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
-- `due` is the end of the delay or of the lease. A delivery has a random token, so that no receipt fits another delivery,
-- also where a server has lost places that it had assigned.
CREATE TABLE schema_name.waiting (
    place bigint NOT NULL PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    priority smallint NOT NULL,
    number integer NOT NULL,
    token bigint,
    due timestamptz NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX waiting_due ON schema_name.waiting (queue, priority, due);
-- The place up to which sweeps have looked for envelopes that have ended.
CREATE SEQUENCE schema_name.swept MINVALUE 0 START 0;
-- The last place that was assigned at a time. Envelopes with later places have ended later.
CREATE TABLE schema_name.marks (
    written timestamptz NOT NULL PRIMARY KEY,
    place bigint NOT NULL
);

-- Adds envelopes. Returns the numbers, from 1 on, of those that were added. The others have known ids.
CREATE FUNCTION schema_name.enqueue(
    lock_timeout bigint, queues text[], ids text[], payloads bytea[], priorities smallint[], delays bigint[],
    known_for bigint
) RETURNS SETOF bigint LANGUAGE plpgsql AS $function$
#variable_conflict use_column
BEGIN
    IF enqueue.lock_timeout IS NOT NULL THEN
        PERFORM set_config('lock_timeout', enqueue.lock_timeout::text, true);
    END IF;
    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT nextval('schema_name.places') AS place, items.*
        FROM unnest(queues, ids, payloads, priorities, delays)
            WITH ORDINALITY AS items (queue, id, payload, priority, delay, item)
    ), written AS (
        INSERT INTO schema_name.envelopes AS envelopes (place, queue, id, payload)
        SELECT place, queue, id, payload
        -- In one order, so that two calls never wait for each other. The order of delivery is that of the places.
        FROM asked ORDER BY queue COLLATE "C", id COLLATE "C"
        ON CONFLICT (queue, id) DO UPDATE
        SET place = excluded.place, ended = NULL, payload = excluded.payload
        WHERE envelopes.ended <= clock_timestamp() - known_for * interval '1 microsecond'
        RETURNING place
    ), added AS MATERIALIZED (
        SELECT asked.* FROM asked JOIN written USING (place)
    ), ready AS (
        INSERT INTO schema_name.ready (queue, priority, position, place, number)
        SELECT queue, priority, place, place, 0 FROM added WHERE delay <= 0
    ), waiting AS (
        INSERT INTO schema_name.waiting (place, queue, priority, number, due)
        SELECT place, queue, priority, 0, clock_timestamp() + delay * interval '1 microsecond'
        FROM added WHERE delay > 0
    )
    SELECT item FROM added;
END
$function$;

-- Sets the patience with locks for this transaction, and makes it find rows by indexes also where the statistics of tables
-- that change fast are old. The planner's costs of such plans would start its compiler, which takes longer than the query.
-- A connection keeps the plans of the queries: to plan one for the arguments of a call takes as long as to execute it.
CREATE FUNCTION schema_name.prepare(lock_timeout bigint) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM set_config('lock_timeout', lock_timeout::text, true), set_config('enable_seqscan', 'off', true),
        set_config('enable_bitmapscan', 'off', true),
        set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
        set_config('jit', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true);
END
$function$;

CREATE FUNCTION schema_name.token() RETURNS bigint LANGUAGE sql VOLATILE AS $function$
    SELECT (random() * 9223372036854774784)::bigint
$function$;

-- Takes due envelopes, or returns a row with the microseconds until the next envelope is due, NULL without one. A patience
-- with locks that is NULL means that another function has prepared the transaction.
CREATE FUNCTION schema_name.take(
    lock_timeout bigint, asked_queue text, most integer, lease bigint, is_thorough boolean DEFAULT false
)
RETURNS TABLE (place bigint, token bigint, number integer, id text, payload text, wait bigint) LANGUAGE plpgsql AS $function$
#variable_conflict use_column
DECLARE
    present CONSTANT timestamptz := clock_timestamp();
    until CONSTANT timestamptz := present + lease * interval '1 microsecond';
    -- The open transactions. Rows that they have locked are passed by `xmax`: a try to lock them costs more than a delivery.
    open CONSTANT xid[] := ARRAY(SELECT id::xid FROM pg_snapshot_xip(pg_current_snapshot()) AS ids (id));
    newest CONSTANT integer := age(pg_snapshot_xmax(pg_current_snapshot())::xid);
    room integer := most;
    taken integer;
BEGIN
    IF take.lock_timeout IS NOT NULL THEN
        PERFORM schema_name.prepare(take.lock_timeout);
    END IF;
    FOR level IN REVERSE 2..0 LOOP
        -- First those that were delayed or leased. They have waited for longer.
        RETURN QUERY
        WITH picked AS (
            DELETE FROM schema_name.waiting
            -- The rows are locked, so they stay where they are.
            WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM schema_name.waiting
                WHERE queue = asked_queue AND priority = level AND due <= present
                ORDER BY due LIMIT room FOR UPDATE SKIP LOCKED
            ))
            RETURNING place, due, number + 1 AS number, schema_name.token() AS token
        ), taken AS (
            INSERT INTO schema_name.waiting (place, queue, priority, number, token, due)
            SELECT place, asked_queue, level, number, token, until FROM picked
        )
        SELECT place, token, number, id, encode(payload, 'hex'), NULL::bigint
        FROM picked CROSS JOIN LATERAL (
            SELECT id, payload FROM schema_name.envelopes WHERE envelopes.place = picked.place LIMIT 1
        ) AS envelope
        ORDER BY due;
        GET DIAGNOSTICS taken = ROW_COUNT;
        room := room - taken;
        EXIT WHEN room <= 0;
        RETURN QUERY
        WITH picked AS (
            DELETE FROM schema_name.ready
            WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM schema_name.ready
                WHERE queue = asked_queue AND priority = level
                    AND (is_thorough OR xmax = 0 OR xmax <> ALL (open) AND age(xmax) > newest)
                ORDER BY position LIMIT room FOR UPDATE SKIP LOCKED
            ))
            RETURNING place, position, number + 1 AS number, schema_name.token() AS token
        ), taken AS (
            INSERT INTO schema_name.waiting (place, queue, priority, number, token, due)
            SELECT place, asked_queue, level, number, token, until FROM picked
        )
        SELECT place, token, number, id, encode(payload, 'hex'), NULL::bigint
        FROM picked CROSS JOIN LATERAL (
            SELECT id, payload FROM schema_name.envelopes WHERE envelopes.place = picked.place LIMIT 1
        ) AS envelope
        ORDER BY position;
        GET DIAGNOSTICS taken = ROW_COUNT;
        room := room - taken;
        EXIT WHEN room <= 0;
    END LOOP;
    IF room < most THEN
        RETURN;
    END IF;
    -- What others have locked in a way that `xmax` does not tell.
    IF NOT is_thorough AND EXISTS (SELECT FROM schema_name.ready WHERE queue = asked_queue) THEN
        RETURN QUERY SELECT * FROM schema_name.take(NULL, asked_queue, most, lease, true);
        RETURN;
    END IF;
    RETURN QUERY
    SELECT NULL::bigint, NULL::bigint, NULL::integer, NULL::text, NULL::text,
        ceil(extract(epoch FROM min(next.due) - clock_timestamp()) * 1000000)::bigint
    FROM (VALUES (0), (1), (2)) AS levels (level)
    CROSS JOIN LATERAL (
        SELECT due FROM schema_name.waiting
        WHERE queue = asked_queue AND priority = level
        ORDER BY due LIMIT 1
    ) AS next;
END
$function$;

-- Sets the ends of active leases. Returns the places of the renewed envelopes. The places rise, here and in `settle`, so
-- `width_bucket` finds the index of a place.
CREATE FUNCTION schema_name.renew(lock_timeout bigint, places bigint[], tokens bigint[], leases bigint[])
RETURNS SETOF bigint LANGUAGE plpgsql AS $function$
#variable_conflict use_column
BEGIN
    PERFORM schema_name.prepare(renew.lock_timeout);
    RETURN QUERY
    UPDATE schema_name.waiting
    SET due = clock_timestamp() + leases[width_bucket(place, places)] * interval '1 microsecond'
    WHERE place = ANY (places) AND token = tokens[width_bucket(place, places)] AND due > clock_timestamp()
    RETURNING place;
END
$function$;

-- Ends active leases: with a delay before the next delivery, or with NULL for the end of the envelope. Returns the places
-- of the settled envelopes.
CREATE FUNCTION schema_name.settle(lock_timeout bigint, places bigint[], tokens bigint[], delays bigint[])
RETURNS SETOF bigint LANGUAGE plpgsql AS $function$
#variable_conflict use_column
BEGIN
    PERFORM schema_name.prepare(settle.lock_timeout);
    IF 0 < ANY (delays) THEN
        -- All calls lock rows in the order of the places, so that they never wait for each other. Two statements change
        -- rows here.
        PERFORM FROM schema_name.waiting WHERE place = ANY (places) ORDER BY place FOR UPDATE;
        RETURN QUERY
        UPDATE schema_name.waiting
        SET token = NULL,
            due = clock_timestamp() + delays[width_bucket(place, places)] * interval '1 microsecond'
        WHERE place = ANY (places) AND token = tokens[width_bucket(place, places)] AND due > clock_timestamp()
            AND delays[width_bucket(place, places)] > 0
        RETURNING place;
    END IF;
    RETURN QUERY
    WITH released AS (
        DELETE FROM schema_name.waiting
        WHERE place = ANY (places) AND token = tokens[width_bucket(place, places)] AND due > clock_timestamp()
            AND coalesce(delays[width_bucket(place, places)], 0) <= 0
        RETURNING place, queue, priority, number, delays[width_bucket(place, places)] AS delay
    ), ready AS (
        INSERT INTO schema_name.ready (queue, priority, position, place, number)
        SELECT queue, priority, nextval('schema_name.places'), place, number FROM released WHERE delay IS NOT NULL
    ), ended AS (
        UPDATE schema_name.envelopes SET ended = clock_timestamp(), payload = ''
        WHERE place = ANY (ARRAY(SELECT place FROM released WHERE delay IS NULL))
    )
    SELECT place FROM released;
END
$function$;

-- Deletes what has expired, a bounded number of rows, unless another process does the same.
CREATE FUNCTION schema_name.sweep(
    lock_timeout bigint, known_for bigint, retention bigint, messages_kept bigint, changes_kept bigint
) RETURNS void LANGUAGE plpgsql AS $function$
#variable_conflict use_column
DECLARE
    rows CONSTANT integer := 1000;
    -- All earlier transactions have ended, so a reader whose snapshot is later has read what they have written.
    oldest CONSTANT xid8 := pg_snapshot_xmin(pg_current_snapshot());
    present CONSTANT timestamptz := clock_timestamp();
    oldest_end CONSTANT timestamptz := present - known_for * interval '1 microsecond';
    old_place bigint;
    marked timestamptz;
    last bigint;
    next bigint;
    swept text;
    kept bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock('schema_name.horizons'::regclass::oid::integer, 0) THEN
        RETURN;
    END IF;
    PERFORM schema_name.prepare(sweep.lock_timeout);
    DELETE FROM schema_name.entries WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM schema_name.entries WHERE expires <= present LIMIT rows FOR UPDATE SKIP LOCKED
    ));
    -- There is no index of ended envelopes, because each end would have to write to it. Sweeps look at those whose place was
    -- assigned before the window. Each goes on where the last one has stopped, and after the last place from the start.
    -- Marks that are later than the present are from before the clock was set back.
    DELETE FROM schema_name.marks WHERE written > present;
    INSERT INTO schema_name.marks (written, place)
        SELECT present, last_value FROM schema_name.places WHERE NOT EXISTS (
            SELECT FROM schema_name.marks WHERE written > present - (present - oldest_end) / 64
        ) ON CONFLICT DO NOTHING;
    SELECT place, written INTO old_place, marked FROM schema_name.marks
        WHERE written <= oldest_end ORDER BY written DESC LIMIT 1;
    IF FOUND THEN
        DELETE FROM schema_name.marks WHERE written < marked;
        SELECT last_value INTO last FROM schema_name.swept;
        WITH looked AS MATERIALIZED (
            SELECT ctid AS row, place, ended FROM schema_name.envelopes
            WHERE place > last AND place <= old_place ORDER BY place LIMIT rows
        ), deleted AS (
            DELETE FROM schema_name.envelopes WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM schema_name.envelopes
                WHERE ctid = ANY (ARRAY(SELECT row FROM looked WHERE ended <= oldest_end)) AND ended <= oldest_end
                FOR UPDATE SKIP LOCKED
            ))
        )
        SELECT CASE WHEN count(*) = rows THEN max(place) ELSE 0 END INTO next FROM looked;
        IF next <> last THEN
            PERFORM setval('schema_name.swept', next);
        END IF;
    END IF;
    DELETE FROM schema_name.listeners WHERE seen < present - interval '5 minutes';
    FOR swept, kept IN VALUES ('messages', messages_kept), ('changes', changes_kept) LOOP
        EXECUTE format(
            'WITH deleted AS (
                DELETE FROM schema_name.%I WHERE transaction < $1 AND number = ANY (ARRAY(
                    SELECT number FROM schema_name.%1$I
                    WHERE written < $2 OR number <= (
                        SELECT number FROM schema_name.%1$I ORDER BY number DESC OFFSET $3 LIMIT 1
                    )
                    ORDER BY number LIMIT $4
                )) RETURNING transaction
            )
            INSERT INTO schema_name.horizons AS horizons (feed, transaction)
            SELECT %1$L, transaction FROM deleted ORDER BY transaction DESC LIMIT 1
            ON CONFLICT (feed) DO UPDATE SET transaction = excluded.transaction
            WHERE horizons.transaction < excluded.transaction',
            swept
        ) USING oldest, present - retention * interval '1 microsecond', kept, 10 * rows;
    END LOOP;
END
$function$;

-- Transactions of the application. What is written in one is written by `finish`, in one statement, so nothing has to be
-- undone if the call is dropped before. Until then the key or the id is reserved: no other transaction changes it.
-- Returns the revision of the change, or NULL if the key does not have the expected revision, 0 if it is absent.
CREATE FUNCTION schema_name.reserve(asked text, expected bigint) RETURNS bigint LANGUAGE plpgsql AS $function$
DECLARE
    present bigint;
BEGIN
    PERFORM pg_advisory_xact_lock('schema_name.entries'::regclass::oid::integer, hashtext(asked));
    SELECT revision INTO present FROM schema_name.entries
        WHERE key = asked AND (expires IS NULL OR expires > clock_timestamp());
    IF coalesce(present, 0) <> expected THEN
        RETURN NULL;
    END IF;
    RETURN nextval('schema_name.revisions');
END
$function$;

-- Whether an id is not known.
CREATE FUNCTION schema_name.reserve_id(asked_queue text, asked_id text, known_for bigint) RETURNS boolean
LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM pg_advisory_xact_lock(
        'schema_name.envelopes'::regclass::oid::integer, hashtext(asked_queue || '/' || asked_id)
    );
    RETURN NOT EXISTS (
        SELECT FROM schema_name.envelopes
        WHERE queue = asked_queue AND id = asked_id
            AND (ended IS NULL OR ended > clock_timestamp() - known_for * interval '1 microsecond')
    );
END
$function$;

-- Writes what was reserved, and wakes other processes with the commit.
CREATE FUNCTION schema_name.finish(
    keys text[], new_values bytea[], new_revisions bigint[], times_to_live bigint[],
    queues text[], ids text[], payloads bytea[], priorities smallint[], delays bigint[], known_for bigint,
    topics text[], messages bytea[], channel text
) RETURNS void LANGUAGE plpgsql AS $function$
#variable_conflict use_column
DECLARE
    is_watched CONSTANT boolean := schema_name.has_listeners('changes');
    added bigint;
BEGIN
    INSERT INTO schema_name.entries (key, revision, expires, value)
        SELECT key, revision, clock_timestamp() + time_to_live * interval '1 microsecond', value
        FROM unnest(keys, new_values, new_revisions, times_to_live) AS items (key, value, revision, time_to_live)
    ON CONFLICT (key) DO UPDATE
    SET revision = excluded.revision, expires = excluded.expires, value = excluded.value;
    IF is_watched THEN
        INSERT INTO schema_name.changes (number, transaction, written, name, value)
            SELECT revision, pg_current_xact_id(), clock_timestamp(), key, value
            FROM unnest(keys, new_values, new_revisions) AS items (key, value, revision);
    END IF;
    SELECT count(*) INTO added
        FROM schema_name.enqueue(NULL, queues, ids, payloads, priorities, delays, known_for);
    IF added < cardinality(ids) THEN
        RAISE EXCEPTION 'another call has enqueued an envelope with the same id'
            USING ERRCODE = 'serialization_failure';
    END IF;
    PERFORM schema_name.publish(topics, messages, channel);
    IF channel IS NOT NULL THEN
        IF is_watched AND cardinality(keys) > 0 THEN
            PERFORM pg_notify(channel, 'changes');
        END IF;
        PERFORM pg_notify(channel, 'queue/' || queue) FROM (SELECT DISTINCT unnest(queues)) AS names (queue);
    END IF;
END
$function$;

-- An empty table, whose name tells this database from others.
DO $identity$ BEGIN
    EXECUTE format('CREATE TABLE schema_name.%I ()', 'identity_' || replace(gen_random_uuid()::text, '-', ''));
END $identity$;
