//! The schema. The first process that finds none makes it, and all others check it.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tracing::info;

use super::connection::Connection;
use super::error::{Fault, OpenError};
use super::migrations::{MIGRATIONS, Migration};
use super::moved;
use super::options::PostgresOptions;
use super::params::{Array, params};
use super::rows::get;
use crate::segment::Digests;
use crate::store::schema::Schema;

/// $1 name of the schema.
const IS_THERE: &str = "
    SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1),
           EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = $1 AND c.relname = 'meta')";
const META: &str = "SELECT version, usable_from, installation_key FROM @meta";
const LOCK_META: &str = "SELECT version FROM @meta FOR UPDATE";
/// $1 name of the schema, $2 names of tables, indices, sequences and functions.
const MISSING: &str = "
    SELECT string_agg(name, ', ' ORDER BY name) FROM unnest($2) AS name
    WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE n.nspname = $1 AND c.relname = name)
      AND NOT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                      WHERE n.nspname = $1 AND p.proname = name)";

/// A random key, from three of the server's strong random numbers.
const RANDOM_KEY: &str = "sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))";

/// Changing a table waits for everyone who uses it, and blocks everyone who comes later, so the wait is short.
const BEGIN_MIGRATION: &str = "BEGIN; SET LOCAL lock_timeout = 2000";

/// How often to retry if other processes make the schema at the same time, or keep it from being changed.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the schema if there is none, migrates an older one, and returns the digests of the installation. If several
/// processes start together, only one does the work.
pub(super) async fn open(
    connection: &Connection,
    options: &PostgresOptions,
    address: &str,
) -> Result<Digests, OpenError> {
    let (address, schema) = (address.to_owned(), options.schema.clone());
    let version = version_of(options.migrations);
    let mut contended = None;
    for _ in 0..TRIES_MAX {
        let found = look(connection, options).await;
        let tried = match found {
            Ok(Found::Nothing { has_schema }) => create(connection, options, has_schema, "").await,
            Ok(Found::Meta(meta)) if meta.version < version => {
                // A schema to which a queue is being moved belongs to the version that moves it.
                moved::may_admit(connection, &address, &schema).await?;
                migrate(connection, options.migrations).await
            }
            Ok(Found::Meta(meta)) if meta.usable_from > version => {
                return Err(OpenError::Later { address, schema, version: meta.version });
            }
            Ok(Found::Meta(meta)) => {
                return match missing(connection, &schema, options.migrations).await {
                    Ok(None) => {
                        moved::admit(connection, &address, &schema).await?;
                        Ok(Digests::new(&meta.installation_key))
                    }
                    Ok(Some(missing)) => Err(OpenError::NotWhole { address, schema, missing }),
                    Err(fault) => Err(OpenError::Open { address, source: fault.into() }),
                };
            }
            Ok(Found::Foreign) => return Err(OpenError::Foreign { address, schema }),
            Err(fault) => Err(fault),
        };
        match tried {
            Ok(()) => {}
            // Another process does the same, or foreign tables have the names of ours.
            Err(fault) if is_taken(&fault) => tokio::time::sleep(PAUSE).await,
            Err(fault) if is_contended(&fault) => contended = Some(fault),
            Err(fault) => return Err(OpenError::Open { address, source: fault.into() }),
        }
    }
    Err(match contended {
        Some(fault) => OpenError::Open { address, source: fault.into() },
        None => OpenError::Foreign { address, schema },
    })
}

/// Compares the schema with that of this program. The error says why [`open`] would refuse it.
pub(super) async fn state(
    connection: &Connection,
    options: &PostgresOptions,
    address: &str,
) -> Result<Schema, OpenError> {
    let (address, schema) = (address.to_owned(), options.schema.clone());
    let current = version_of(options.migrations);
    let meta = match look(connection, options).await {
        Ok(Found::Nothing { .. }) => return Ok(Schema::Missing),
        Ok(Found::Foreign) => return Err(OpenError::Foreign { address, schema }),
        Ok(Found::Meta(meta)) => meta,
        Err(fault) => return Err(OpenError::Open { address, source: fault.into() }),
    };
    let version = meta.version;
    if meta.usable_from > current {
        return Err(OpenError::Later { address, schema, version });
    }
    let made = usize::try_from(version).ok().and_then(|count| options.migrations.get(..count));
    match missing(connection, &schema, made.unwrap_or(options.migrations)).await {
        Ok(None) => {}
        Ok(Some(missing)) => return Err(OpenError::NotWhole { address, schema, missing }),
        Err(fault) => return Err(OpenError::Open { address, source: fault.into() }),
    }
    moved::may_admit(connection, &address, &schema).await?;
    Ok(match version {
        version if version < current => Schema::Older { version, current },
        version if version == current => Schema::Current { version },
        version => Schema::Newer { version, current },
    })
}

/// Returns the version to which migrations lead.
pub(super) fn version_of(migrations: &[Migration]) -> i32 {
    i32::try_from(migrations.len()).unwrap_or(i32::MAX)
}

/// What was found under the name of the schema.
pub(super) enum Found {
    Nothing { has_schema: bool },
    Meta(Meta),
    Foreign,
}

pub(super) struct Meta {
    pub(super) version: i32,
    pub(super) usable_from: i32,
    pub(super) installation_key: [u8; 32],
}

pub(super) async fn look(
    connection: &Connection,
    options: &PostgresOptions,
) -> Result<Found, Fault> {
    let there = connection.query_one(IS_THERE, params![options.schema.as_str()]).await?;
    if !get(&there, 1)? {
        return Ok(Found::Nothing { has_schema: get(&there, 0)? });
    }
    let row = match connection.query_opt(META, params![]).await {
        Ok(Some(row)) => row,
        Ok(None) => return Ok(Found::Foreign),
        Err(fault) if is_foreign(&fault) => return Ok(Found::Foreign),
        Err(fault) => return Err(fault),
    };
    let meta = || -> Option<Meta> {
        let installation_key = get::<Vec<u8>>(&row, 2).ok()?.try_into().ok()?;
        Some(Meta {
            version: get(&row, 0).ok()?,
            usable_from: get(&row, 1).ok()?,
            installation_key,
        })
    };
    Ok(meta().map_or(Found::Foreign, Found::Meta))
}

/// Makes the schema of the first version and runs `rows`, in one transaction.
pub(super) async fn create(
    connection: &Connection,
    options: &PostgresOptions,
    has_schema: bool,
    rows: &str,
) -> Result<(), Fault> {
    let key = match &options.installation_key {
        Some(key) => {
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("decode('{hex}', 'hex')")
        }
        None => RANDOM_KEY.to_owned(),
    };
    let mut text = String::new();
    if !has_schema {
        // Not `IF NOT EXISTS`, which needs a privilege on the database even if the schema exists.
        let name = options.schema.replace('"', "\"\"");
        text += &format!("CREATE SCHEMA \"{name}\";\n");
    }
    let Some(Migration { sql, usable_from }) = options.migrations.first() else { return Ok(()) };
    text += sql;
    text += &format!(
        "INSERT INTO @meta (version, usable_from, installation_key) VALUES (1, {usable_from}, {key});\n{rows}"
    );
    connection.batch("BEGIN").await?;
    end(connection, connection.batch(&text).await).await
}

/// Migrates the schema to this version in one transaction, unless another process has done so.
pub(super) async fn migrate(
    connection: &Connection,
    migrations: &[Migration],
) -> Result<(), Fault> {
    connection.batch(BEGIN_MIGRATION).await?;
    let migrated = async {
        let meta = connection.query_one(LOCK_META, params![]).await?;
        let version: i32 = get(&meta, 0)?;
        let done = usize::try_from(version).unwrap_or_default();
        for Migration { sql, usable_from } in migrations.iter().skip(done) {
            connection.batch(sql).await?;
            let step = "UPDATE @meta SET version = version + 1, usable_from = $1";
            connection.execute(step, params![*usable_from]).await?;
        }
        Ok((version, migrations.get(done..).and_then(<[_]>::last)))
    };
    let (from, last) = end(connection, migrated.await).await?;
    if let Some(Migration { usable_from, .. }) = last {
        let to = version_of(migrations);
        info!(from, to, usable_from, "the schema of the database was migrated");
    }
    Ok(())
}

/// Commits, or rolls back and returns why.
async fn end<T>(connection: &Connection, written: Result<T, Fault>) -> Result<T, Fault> {
    match written {
        Ok(result) => connection.batch("COMMIT").await.map(|()| result),
        Err(fault) => {
            connection.batch("ROLLBACK").await?;
            Err(fault)
        }
    }
}

/// Returns the tables, indices, sequences and functions of these migrations that are missing. Some may be missing after
/// a partial restore of a backup.
async fn missing(
    connection: &Connection,
    schema: &str,
    migrations: &[Migration],
) -> Result<Option<String>, Fault> {
    let names: Array<&str> =
        migrations.iter().flat_map(|migration| made_by(migration.sql)).collect();
    get(&connection.query_one(MISSING, params![schema, names]).await?, 0)
}

/// Returns the names of the tables, indices, sequences and functions that statements make.
fn made_by(sql: &str) -> impl Iterator<Item = &str> {
    sql.lines().filter_map(|line| {
        let made = line.strip_prefix("CREATE ")?;
        let made = made.strip_prefix("UNIQUE ").unwrap_or(made);
        let (_, name) = ["TABLE @", "INDEX ", "SEQUENCE @", "FUNCTION @"]
            .iter()
            .find_map(|kind| Some((kind, made.strip_prefix(kind)?)))?;
        name.split([' ', ';', '(']).next()
    })
}

/// Whether a table is not one of ours.
fn is_foreign(fault: &Fault) -> bool {
    fault.is_one_of(&[
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_TABLE,
        SqlState::WRONG_OBJECT_TYPE,
    ])
}

/// Whether an object of this name already exists.
fn is_taken(fault: &Fault) -> bool {
    fault.is_one_of(&[
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_SCHEMA,
        SqlState::DUPLICATE_OBJECT,
    ])
}

/// Whether others used the tables for too long.
fn is_contended(fault: &Fault) -> bool {
    fault.is_one_of(&[SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED])
}

/// Fails unless programs of this version work with the schema.
pub(super) async fn check(connection: &Connection) -> Result<(), Fault> {
    let version = version_of(MIGRATIONS);
    match connection.query_opt(META, params![]).await? {
        Some(meta) if get::<i32>(&meta, 0)? >= version && get::<i32>(&meta, 1)? <= version => {
            Ok(())
        }
        _ => Err(Fault::Schema),
    }
}
