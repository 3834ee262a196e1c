//! What opening a store refuses, and with which advice.

use super::*;

/// Returns the message with which a database is refused.
async fn refusal(url: &str, schema: &str) -> String {
    let target = Target::parse("store.url", url).unwrap();
    let options = PostgresOptions { target, ..options(schema) };
    PostgresStore::open(options).await.map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn a_server_that_would_lose_messages_is_refused() {
    let url = server().url();
    for (option, words) in [
        ("synchronous_commit=off", ["synchronous_commit = off", "on for this server"]),
        ("default_transaction_read_only=on", ["read-only", "store.url"]),
    ] {
        let (name, value) = option.split_once('=').unwrap();
        let text = refusal(&format!("{url}?options=-c%20{name}%3D{value}"), "refused").await;
        assert!(words.iter().all(|word| text.contains(word)), "{option}: {text}");
    }
    let careless = Server::start("fsync=off");
    let text = refusal(&careless.url(), "refused").await;
    assert!(text.contains("fsync = off"), "{text}");
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_string_is_refused() {
    let target = Target::parse("store.url", &server().url()).unwrap();
    let raw = Connector::new(target, "any").connect().await.unwrap();
    let made =
        "CREATE DATABASE latin1 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    raw.batch(made).await.unwrap();
    let url = server().url().strip_suffix("postgres").unwrap().to_owned() + "latin1";
    let text = refusal(&url, "refused").await;
    assert!(text.contains("encoding LATIN1") && text.contains("UTF8"), "{text}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_the_password() {
    let text = refusal("postgres://ada:secret@127.0.0.1:1/loops", "refused").await;
    assert!(text.contains("127.0.0.1:1") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_schema_that_this_version_cannot_use_is_refused() {
    let schema = Schema::empty().await;
    open(&schema).await.close().await;
    let raw = raw(&schema).await;
    for (change, words) in [
        ("UPDATE @meta SET version = 99, usable_from = 98", "(schema version 99)"),
        (
            "UPDATE @meta SET version = 1, usable_from = 1; DROP INDEX @messages_email",
            "lacks messages_email",
        ),
        ("DROP SEQUENCE @request_numbers", "lacks messages_email, request_numbers."),
        ("DROP TABLE @erasures", "lacks erasures, erasures_lane, messages_email"),
        ("DROP FUNCTION @accept_1", "lacks accept_1, erasures, erasures_lane, messages_email"),
        ("DELETE FROM @meta", "not whole"),
    ] {
        raw.batch(change).await.unwrap();
        let text = refusal(&server().url(), &schema.0).await;
        assert!(text.contains(words), "{change}: {text}");
    }
}

#[tokio::test]
async fn tables_of_another_program_are_left_alone() {
    let schema = Schema::empty().await;
    let raw = raw(&schema).await;
    let name = schema.0.replace('"', "\"\"");
    let text = format!("CREATE SCHEMA \"{name}\"; CREATE TABLE @messages (theirs text)");
    raw.batch(&text).await.unwrap();
    let text = refusal(&server().url(), &schema.0).await;
    assert!(text.contains("another program"), "{text}");
    assert_eq!(raw.query("SELECT theirs FROM @messages", &[]).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_store_notices_that_the_schema_was_changed() {
    let schema = Schema::empty().await;
    let store = open(&schema).await;
    crate::queue::Log::ready(&store).await.unwrap();
    raw(&schema).await.batch("UPDATE @meta SET version = 99").await.unwrap();
    crate::queue::Log::ready(&store).await.unwrap();
    raw(&schema).await.batch("UPDATE @meta SET usable_from = 99").await.unwrap();
    crate::queue::Log::ready(&store).await.unwrap_err();
}

#[tokio::test]
async fn a_certificate_is_verified_as_far_as_the_url_says() {
    let server = Server::start("ssl=on");
    let roots = server.folder().join("ca.crt").display().to_string().replace('/', "%2F");
    let cases = [
        ("localhost", "sslmode=disable".to_owned(), Some(false)),
        ("localhost", "".to_owned(), Some(true)),
        ("127.0.0.1", "sslmode=require".to_owned(), Some(true)),
        ("localhost", format!("sslmode=verify-full&sslrootcert={roots}"), Some(true)),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={roots}"), None),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={roots}"), Some(true)),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={roots}"), Some(true)),
        ("localhost", "sslmode=verify-full".to_owned(), None),
        ("localhost", "sslmode=verify-ca".to_owned(), None),
    ];
    for (host, query, is_encrypted) in cases {
        let url = format!("postgres://postgres@{host}:{}/postgres?{query}", server.port());
        let connector = Connector::new(Target::parse("store.url", &url).unwrap(), "any");
        let found = match connector.connect().await {
            Ok(connection) => {
                let text = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                let row = connection.query_one(text, &[]).await.unwrap();
                Some(rows::get::<bool>(&row, 0).unwrap())
            }
            Err(_) => None,
        };
        assert_eq!(found, is_encrypted, "{host} {query}");
    }
}
