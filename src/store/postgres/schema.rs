//! The schema: made by the first process that finds none, and checked by all others.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::connection::Connection;
use super::error::OpenError;
use super::params::params;
use super::rows::get;
use super::{Fault, PostgresOptions};
use crate::segment::Digests;

const SCHEMA: &str = include_str!("schema.sql");

/// The version of the schema. A schema that was released is never edited: the next one has a higher version, and a
/// migration that leads to it.
pub(super) const SCHEMA_VERSION: i32 = 1;

/// $1 name of the schema.
const IS_THERE: &str = "
    SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1),
           EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = $1 AND c.relname = 'meta')";
const META: &str = "SELECT version, installation_key FROM @meta";

/// A random key, from three of the server's strong random numbers.
const RANDOM_KEY: &str = "sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))";

/// How often to look again if other processes make the schema at the same time.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the schema if there is none, and returns the digests of the installation.
pub(super) async fn open(
    connection: &Connection,
    options: &PostgresOptions,
    address: &str,
) -> Result<Digests, OpenError> {
    let failed =
        |fault: Fault| OpenError::Open { address: address.to_owned(), source: fault.into() };
    let foreign =
        || OpenError::Foreign { address: address.to_owned(), schema: options.schema.clone() };
    for _ in 0..TRIES_MAX {
        let there = connection.query_one(IS_THERE, params![options.schema.as_str()]).await;
        let there = there.map_err(failed)?;
        let (has_schema, has_meta) =
            (get(&there, 0).map_err(failed)?, get(&there, 1).map_err(failed)?);
        if has_meta {
            let meta = connection.query_opt(META, params![]).await.map_err(|_| foreign())?;
            let meta = meta.ok_or_else(foreign)?;
            let version: i32 = get(&meta, 0).map_err(|_| foreign())?;
            let key: Vec<u8> = get(&meta, 1).map_err(|_| foreign())?;
            return match version {
                SCHEMA_VERSION => {
                    Ok(Digests::new(&key.try_into().map_err(|_: Vec<u8>| foreign())?))
                }
                version if version > SCHEMA_VERSION => Err(OpenError::Later {
                    address: address.to_owned(),
                    schema: options.schema.clone(),
                    version,
                }),
                _ => Err(foreign()),
            };
        }
        match create(connection, options, has_schema).await {
            Ok(()) => {}
            // Another process makes it, or there are tables under the names of ours.
            Err(fault) if is_taken(&fault) => tokio::time::sleep(PAUSE).await,
            Err(fault) => return Err(failed(fault)),
        }
    }
    Err(foreign())
}

/// Makes the schema in one transaction.
async fn create(
    connection: &Connection,
    options: &PostgresOptions,
    has_schema: bool,
) -> Result<(), Fault> {
    let key = match &options.installation_key {
        Some(key) => {
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("decode('{hex}', 'hex')")
        }
        None => RANDOM_KEY.to_owned(),
    };
    let mut text = String::from("BEGIN;\n");
    if !has_schema {
        // Not `IF NOT EXISTS`, for which the user needs a right on the database even if the schema is there.
        let name = options.schema.replace('"', "\"\"");
        text += &format!("CREATE SCHEMA \"{name}\";\n");
    }
    text += SCHEMA;
    text += &format!(
        "INSERT INTO @meta (version, installation_key) VALUES ({SCHEMA_VERSION}, {key});\nCOMMIT"
    );
    let created = connection.batch(&text).await;
    if created.is_err() {
        connection.batch("ROLLBACK").await?;
    }
    created
}

/// Whether something of this name is there already.
fn is_taken(fault: &Fault) -> bool {
    let Fault::Database { source } = fault else { return false };
    source.code().is_some_and(|code| {
        [
            SqlState::UNIQUE_VIOLATION,
            SqlState::DUPLICATE_TABLE,
            SqlState::DUPLICATE_SCHEMA,
            SqlState::DUPLICATE_OBJECT,
        ]
        .contains(code)
    })
}

/// Fails unless the schema is that of this release.
pub(super) async fn check(connection: &Connection) -> Result<(), Fault> {
    match connection.query_opt(META, params![]).await? {
        Some(meta) if get::<i32>(&meta, 0)? == SCHEMA_VERSION => Ok(()),
        _ => Err(Fault::Schema),
    }
}
