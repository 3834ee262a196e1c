//! The target of a move from SQLite: a schema made for the move, which nothing else uses until the move is finished.

use std::borrow::Cow;
use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio_postgres::types::Type;

use super::connection::{Connection, Connector, address};
use super::error::{Fault, OpenError};
use super::options::{PostgresOptions, options};
use super::params::{Param, params, text};
use super::rows::{get, to_ms};
use super::{numbers, partitions, schema, startup};
use crate::config::StoreConfig;
use crate::store::moving::MoveError;
use crate::store::moving::part::{Batch, Column, Cursor, Part};

const MOVE: &str = "SELECT id, part, through, rows, finished_at IS NOT NULL FROM @moves";
/// $1 id, $2 $3 the expected progress, $4 $5 $6 the new progress.
const NOTE: &str = "
    UPDATE @moves SET part = $4, through = $5, rows = $6
    WHERE id = $1 AND part = $2 AND through = $3 AND finished_at IS NULL";
/// $1 id, $2 now.
const FINISH: &str = "UPDATE @moves SET finished_at = $2 WHERE id = $1 AND finished_at IS NULL";
/// $1 id. Changes nothing if a process has opened the schema.
const GIVE_UP: &str =
    "UPDATE @moves SET finished_at = NULL, part = -1 WHERE id = $1 AND opened_at IS NULL";

/// Makes the server analyze the copied rows, so that it plans the first statements well.
const ANALYZE: &str =
    "ANALYZE @messages, @outcomes, @deliveries, @requests, @attempts, @pending, @payloads";

/// Writes rows of a part: a statement, and the columns that are its parameters.
type Write = (&'static str, &'static [usize]);

/// The statements that write a part. Their columns are those that [`crate::store::sqlite::moving`] reads.
fn writes(part: Part) -> &'static [Write] {
    match part {
        Part::Streams => &[(
            "INSERT INTO @streams (destination, no, last) SELECT * FROM unnest($1, $2, $3)",
            &[0, 1, 2],
        )],
        // Names that differ only in characters that cannot be stored become one.
        Part::EventNames => &[(
            "INSERT INTO @event_names (source, name, first_seen_at, last_seen_at)
             SELECT * FROM unnest($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[0, 1, 2, 3],
        )],
        Part::Tallies => &[(
            "INSERT INTO @tallies AS t (step, at, stage, destination, source, subscription, reason, count)
             SELECT step, at, stage, destination, source, subscription, reason, SUM(count)
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
                 u (step, at, stage, destination, source, subscription, reason, count)
             GROUP BY 1, 2, 3, 4, 5, 6, 7
             ON CONFLICT (step, at, stage, destination, source, subscription, reason)
             DO UPDATE SET count = t.count + excluded.count",
            &[0, 1, 2, 3, 4, 5, 6, 7],
        )],
        Part::Messages => &[
            (
                "INSERT INTO @messages (seq, message_hash, lane, anonymous, email, received_at, payload_bytes, class,
                                        kind, source, destination, message_id, event, warnings)
                 SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
                &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
            ),
            (
                "INSERT INTO @payloads (seq, trace, payload)
                 SELECT seq, trace, payload FROM unnest($1, $2, $3) u (seq, trace, payload) WHERE payload IS NOT NULL",
                &[0, 22, 14],
            ),
            (
                "INSERT INTO @pending (seq, lane, received_at, payload_bytes, class, source, destination, is_deletion,
                                       is_planned, next_attempt_at)
                 SELECT seq, lane, received_at, payload_bytes, class, source, destination, kind = 'delete',
                        is_planned <> 0, next_attempt_at
                 FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                     u (seq, lane, received_at, payload_bytes, class, kind, source, destination, state, is_planned,
                        next_attempt_at)
                 WHERE state = 0",
                &[0, 2, 5, 6, 7, 8, 9, 10, 15, 16, 17],
            ),
            (
                "INSERT INTO @outcomes (seq, done_at, is_failed, unmatched, unmatched_detail)
                 SELECT seq, COALESCE(done_at, received_at), is_failed <> 0, unmatched, unmatched_detail
                 FROM unnest($1, $2, $3, $4, $5, $6, $7)
                     u (seq, received_at, state, done_at, is_failed, unmatched, unmatched_detail)
                 WHERE state <> 0",
                &[0, 5, 15, 18, 19, 20, 21],
            ),
            // As accepting messages does.
            (
                "UPDATE @days d SET slack_ms = s.slack_ms
                 FROM (SELECT ((seq >> 23) + 1577836800) / 86400 AS day,
                              MAX(ABS(received_at - ((seq >> 23) + 1577836800) * 1000)) AS slack_ms
                       FROM unnest($1, $2) u (seq, received_at) GROUP BY 1) s
                 WHERE d.day = s.day AND s.slack_ms > GREATEST(d.slack_ms, 60000)",
                &[0, 5],
            ),
        ],
        Part::Deliveries => &[(
            "INSERT INTO @deliveries (seq, replay, position, is_superseded, request_id, part_id, ended_at, state,
                                      subscription, action, reason, detail, warnings, planned)
             SELECT seq, replay, position, is_superseded <> 0, request_id, part_id, ended_at, state, subscription,
                    action, reason, detail, warnings, planned
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
                 u (seq, replay, position, is_superseded, request_id, part_id, ended_at, state, subscription, action,
                    reason, detail, warnings, planned)",
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
        )],
        Part::Requests => &[(
            "INSERT INTO @requests (id, seqs, parts, merged_into, attempts, is_merged, created_at, first_attempt_at,
                                    next_attempt_at, expires_at, state, destination, path, idempotency_key, body)
             SELECT id, seqs::bigint[], parts::bigint[], merged_into, attempts, is_merged <> 0, created_at,
                    first_attempt_at, next_attempt_at, expires_at, state, destination, path, idempotency_key, body
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
                 u (id, seqs, parts, merged_into, attempts, is_merged, created_at, first_attempt_at, next_attempt_at,
                    expires_at, state, destination, path, idempotency_key, body)",
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
        )],
        Part::Attempts => &[(
            "INSERT INTO @attempts (request_id, number, started_at, duration_ms, status, outcome, excerpt)
             SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)",
            &[0, 1, 2, 3, 4, 5, 6],
        )],
        Part::Replays => &[(
            "INSERT INTO @replays (seq, number, first_seq, only_subscription) SELECT * FROM unnest($1, $2, $3, $4)",
            &[0, 1, 2, 3],
        )],
        Part::Deletions => &[(
            "INSERT INTO @deletions (seq, lane, destination, accepted) SELECT * FROM unnest($1, $2, $3, $4)",
            &[0, 1, 2, 3],
        )],
        Part::Erasures => &[(
            "INSERT INTO @erasures (seq, lane, destination) SELECT * FROM unnest($1, $2, $3)",
            &[0, 1, 2],
        )],
        // Rows get new ids, in the same order.
        Part::LoopsEvents => &[(
            "INSERT INTO @loops_events (received_at, at, person, email, forward_at, forward_tries, destination,
                                        webhook_id, event, contact_id, origin, origin_id, origin_name, email_id,
                                        forward_timestamp, forward_signature, forward_body)
             SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        )],
        // Rows get new ids, in the same order.
        Part::Audit => &[(
            "INSERT INTO @audit (at, role, session, process, action, arguments, result)
             SELECT at, role, session, process, action, arguments, result
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
                 u (id, at, role, session, process, action, arguments, result)
             ORDER BY id",
            &[0, 1, 2, 3, 4, 5, 6, 7],
        )],
        Part::Contacts => &[(
            "INSERT INTO @contacts (contact, email, lane, reported_at, known_at, changed_day, is_shared, destination,
                                    properties)
             SELECT contact, email, lane, reported_at, known_at, changed_day::integer, is_shared <> 0, destination, ''
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
                 u (contact, email, lane, reported_at, known_at, changed_day, is_shared, destination)",
            &[0, 1, 2, 3, 4, 5, 6, 7],
        )],
        Part::Receipts => &[(
            "INSERT INTO @receipts (message_hash, person, asked_at, request_id, deleted_at, confirmed_at, erased_at,
                                    messages, feedback, contacts, opt_outs, status, receipt, destination, source,
                                    problem)
             SELECT message_hash, person, asked_at, request_id, deleted_at, confirmed_at, erased_at, messages, feedback,
                    contacts, opt_outs, status::smallint, receipt, destination, source, problem
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
                 u (message_hash, person, asked_at, request_id, deleted_at, confirmed_at, erased_at, messages, feedback,
                    contacts, opt_outs, status, receipt, destination, source, problem)",
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        )],
        Part::OptOuts => &[(
            "INSERT INTO @opt_outs (person, email, at, is_lifted, destination, list, event)
             SELECT person, email, at, is_lifted <> 0, destination, list, event
             FROM unnest($1, $2, $3, $4, $5, $6, $7) u (person, email, at, is_lifted, destination, list, event)",
            &[0, 1, 2, 3, 4, 5, 6],
        )],
        Part::Held => &[(
            "INSERT INTO @held (seq, lane, contact, email, since, is_due, destination, reason)
             SELECT seq, lane, contact, email, since, is_due <> 0, destination, reason
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
                 u (seq, lane, contact, email, since, is_due, destination, reason)",
            &[0, 1, 2, 3, 4, 5, 6, 7],
        )],
        Part::Creating => &[(
            "INSERT INTO @creating (seq, contact, email, destination) SELECT * FROM unnest($1, $2, $3, $4)",
            &[0, 1, 2, 3],
        )],
        Part::Awaiting => &[(
            "INSERT INTO @awaiting (seq, lane, until, is_due, subscription, destination)
             SELECT seq, lane, until, is_due <> 0, subscription, destination
             FROM unnest($1, $2, $3, $4, $5, $6) u (seq, lane, until, is_due, subscription, destination)",
            &[0, 1, 2, 3, 4, 5],
        )],
        Part::NewContactDays => &[(
            "INSERT INTO @new_contact_days (destination, day, released, discarded)
             SELECT * FROM unnest($1, $2, $3, $4)",
            &[0, 1, 2, 3],
        )],
    }
}

/// What was found at the target.
pub(in crate::store) enum Found {
    /// No schema, or an empty one.
    Nothing,
    /// A schema that was made for a move.
    Move(Begun),
    /// Anything else.
    Used,
}

/// A move, as its target knows it.
pub(in crate::store) struct Begun {
    pub(in crate::store) id: String,
    pub(in crate::store) cursor: Cursor,
    pub(in crate::store) is_finished: bool,
    pub(in crate::store) installation_key: [u8; 32],
}

impl Begun {
    /// Whether nothing has been copied yet.
    pub(in crate::store) fn is_unused(&self) -> bool {
        !self.is_finished && self.cursor == Cursor::default()
    }

    /// Whether the move was undone, so that the copied rows must be removed.
    pub(in crate::store) fn is_given_up(&self) -> bool {
        self.cursor.part < 0
    }
}

/// The schema to which a queue is moved.
pub(in crate::store) struct Target {
    options: PostgresOptions,
    connection: Connection,
    /// Host, port, database and schema.
    place: String,
    /// The days that are known to have partitions.
    days: BTreeSet<i32>,
}

impl Target {
    /// Connects to the configured database. Changes nothing there.
    pub(in crate::store) async fn connect(
        config: &StoreConfig,
        url: &str,
    ) -> Result<Self, MoveError> {
        let opened = async { Self::open(options(config, url)?).await };
        opened.await.map_err(|error: OpenError| MoveError::Target(Box::new(error)))
    }

    pub(in crate::store::postgres) async fn open(
        options: PostgresOptions,
    ) -> Result<Self, OpenError> {
        let config = &options.target.config;
        let address = address(config);
        let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
        let place = format!("{address}, database {database}, schema {}", options.schema);
        let connector = Connector::new(options.target.clone(), &options.schema);
        let connection = connector.connect().await.map_err(|fault| match fault {
            Fault::Connect { source, .. } => {
                OpenError::Connect { address: address.clone(), source: Box::new(source) }
            }
            other => OpenError::Open { address: address.clone(), source: other.into() },
        })?;
        startup::check(&connection, &address).await?;
        Ok(Self { options, connection, place, days: BTreeSet::new() })
    }

    pub(in crate::store) async fn close(self) {
        self.connection.close().await;
    }

    /// Returns the address of the target, for people.
    pub(in crate::store) fn place(&self) -> &str {
        &self.place
    }

    /// Returns the error for a target that is already in use.
    pub(in crate::store) fn is_used(&self) -> MoveError {
        MoveError::Used { place: self.place.clone() }
    }

    pub(in crate::store) async fn find(&self) -> Result<Found, MoveError> {
        let there = schema::look(&self.connection, &self.options).await.map_err(failed)?;
        let meta = match there {
            schema::Found::Nothing { .. } => return Ok(Found::Nothing),
            schema::Found::Foreign => return Ok(Found::Used),
            schema::Found::Meta(meta) => meta,
        };
        if meta.usable_from > schema::version_of(self.options.migrations) {
            return Err(MoveError::Target(Box::new(OpenError::Later {
                address: address(&self.options.target.config),
                schema: self.options.schema.clone(),
                version: meta.version,
            })));
        }
        let found = self.connection.query_opt(MOVE, params![]).await.map_err(failed)?;
        let Some(row) = found else { return Ok(Found::Used) };
        let begun = || {
            let (part, through, rows) = (get(&row, 1)?, get(&row, 2)?, get(&row, 3)?);
            Ok(Begun {
                id: get(&row, 0)?,
                cursor: Cursor { part, through, rows },
                is_finished: get(&row, 4)?,
                installation_key: meta.installation_key,
            })
        };
        begun().map(Found::Move).map_err(failed)
    }

    /// Returns the move for which the schema was made.
    pub(in crate::store) async fn begun(&self) -> Result<Begun, MoveError> {
        match self.find().await? {
            Found::Move(begun) => Ok(begun),
            Found::Nothing | Found::Used => Err(MoveError::Twice),
        }
    }

    /// Makes the schema for a move.
    pub(in crate::store) async fn create(
        &mut self,
        id: &str,
        began_at: i64,
        installation_key: [u8; 32],
    ) -> Result<(), MoveError> {
        self.options.installation_key = Some(installation_key);
        let there = schema::look(&self.connection, &self.options).await.map_err(failed)?;
        let schema::Found::Nothing { has_schema } = there else { return Err(self.is_used()) };
        // The id is generated by this program, so it has no quote.
        let row = format!("INSERT INTO @moves (id, began_at) VALUES ('{id}', {began_at});");
        crate::crash::point("commit.before");
        let created = schema::create(&self.connection, &self.options, has_schema, &row).await;
        created.map_err(|fault| {
            let address = address(&self.options.target.config);
            MoveError::Target(Box::new(OpenError::Open { address, source: fault.into() }))
        })?;
        crate::crash::point("commit.after");
        Ok(())
    }

    /// Migrates the schema, if an earlier version began the move.
    pub(in crate::store) async fn migrate(&self) -> Result<(), MoveError> {
        schema::migrate(&self.connection, self.options.migrations).await.map_err(failed)
    }

    /// Writes the batch after a cursor.
    pub(in crate::store) async fn write(
        &mut self,
        id: &str,
        mut batch: Batch,
        behind: Cursor,
    ) -> Result<(), MoveError> {
        make_storable(&mut batch.columns);
        let written = async {
            if matches!(batch.part, Part::Messages | Part::Requests) {
                self.make_days(&batch.columns).await?;
            }
            self.connection.begin().await?;
            for (text, of) in writes(batch.part) {
                let params: Vec<Param<'_>> =
                    of.iter().filter_map(|index| batch.columns.get(*index)).map(as_param).collect();
                self.connection.execute(text, &params).await?;
            }
            let is_noted = self.note(id, behind, batch.cursor).await?;
            if is_noted {
                crate::crash::point("commit.before");
                self.connection.batch("COMMIT").await?;
                crate::crash::point("commit.after");
            }
            Ok::<bool, Fault>(is_noted)
        };
        match written.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(MoveError::Twice),
            Err(fault) if fault.is_broken() => {
                Err(MoveError::Row { table: batch.part.table(), source: Box::new(fault) })
            }
            Err(fault) => Err(failed(fault)),
        }
    }

    /// Records that everything is copied.
    pub(in crate::store) async fn end(&self, id: &str, behind: Cursor) -> Result<(), MoveError> {
        let part = i32::try_from(Part::ALL.len()).unwrap_or(i32::MAX);
        let end = Cursor { part, through: 0, ..behind };
        match self.note(id, behind, end).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(MoveError::Twice),
            Err(fault) => Err(failed(fault)),
        }
    }

    /// Updates the progress; returns whether the old one was as expected.
    async fn note(&self, id: &str, behind: Cursor, at: Cursor) -> Result<bool, Fault> {
        let params = params![id, behind.part, behind.through, at.part, at.through, at.rows];
        Ok(self.connection.execute(NOTE, params).await? == 1)
    }

    /// Makes the partitions for rows whose first column is a number.
    async fn make_days(&mut self, columns: &[Column]) -> Result<(), Fault> {
        let Some(Column::Numbers(numbers)) = columns.first() else { return Ok(()) };
        let days: BTreeSet<i32> =
            numbers.iter().flatten().map(|number| numbers::day(*number)).collect();
        let missing: Vec<i32> = days.difference(&self.days).copied().collect();
        if !missing.is_empty() {
            partitions::make(&self.connection, missing).await?;
            self.days.extend(days);
        }
        Ok(())
    }

    pub(in crate::store) async fn analyze(&self) -> Result<(), MoveError> {
        self.connection.batch(ANALYZE).await.map_err(failed)
    }

    /// Lets processes use the schema.
    pub(in crate::store) async fn finish(&self, id: &str, now: Timestamp) -> Result<(), MoveError> {
        crate::crash::point("commit.before");
        let now = to_ms(now);
        self.connection.execute(FINISH, params![id, now]).await.map_err(failed)?;
        crate::crash::point("commit.after");
        Ok(())
    }

    /// Bars processes from using the schema. Fails if one has used it.
    pub(in crate::store) async fn give_up(&self, id: &str) -> Result<(), MoveError> {
        crate::crash::point("commit.before");
        if self.connection.execute(GIVE_UP, params![id]).await.map_err(failed)? == 0 {
            return Err(MoveError::Opened { place: self.place.clone() });
        }
        crate::crash::point("commit.after");
        Ok(())
    }

    /// Removes the copied rows, one day at a time, since the server has room for only a few thousand locks.
    pub(in crate::store) async fn remove(&self) -> Result<(), MoveError> {
        self.try_to_remove().await.map_err(failed)
    }

    async fn try_to_remove(&self) -> Result<(), Fault> {
        for day in partitions::days(&self.connection).await? {
            let partitions =
                partitions::TABLES.map(|table| format!("@{}", partitions::name(table, day.day)));
            self.connection
                .batch(&format!("DROP TABLE IF EXISTS {}", partitions.join(", ")))
                .await?;
        }
        let of_kind = |kind: &'static str| {
            let lines = self.options.migrations.iter().flat_map(|migration| migration.sql.lines());
            let names =
                lines.filter_map(|line| line.strip_prefix(kind)?.split([' ', ';', '(']).next());
            names.collect::<Vec<_>>().join(", ")
        };
        let (tables, sequences) = (of_kind("CREATE TABLE "), of_kind("CREATE SEQUENCE "));
        let functions = of_kind("CREATE FUNCTION ");
        let drop = format!(
            "DROP TABLE IF EXISTS {tables}; DROP SEQUENCE IF EXISTS {sequences}; DROP FUNCTION IF EXISTS {functions}"
        );
        self.connection.batch(&format!("BEGIN; {drop}; COMMIT")).await
    }
}

/// Returns a column as the parameter of a statement.
fn as_param(column: &Column) -> Param<'_> {
    match column {
        Column::Numbers(values) => (values, Type::INT8_ARRAY),
        Column::Texts(values) => (values, Type::TEXT_ARRAY),
        Column::Bytes(values) => (values, Type::BYTEA_ARRAY),
    }
}

/// Replaces characters that the database's strings cannot hold.
fn make_storable(columns: &mut [Column]) {
    for column in columns {
        let Column::Texts(values) = column else { continue };
        for value in values.iter_mut().flatten() {
            if let Cow::Owned(storable) = text(value) {
                *value = storable;
            }
        }
    }
}

pub(super) fn failed(fault: Fault) -> MoveError {
    MoveError::Copy(Box::new(fault))
}
