//! Runs the suite again, with PgBouncer in transaction mode between the stores and the server: each transaction of a
//! connection may use another server connection.

use tokio_postgres::SimpleQueryMessage;

use super::server::pooler;
use super::*;

store_suite!(Pooled);

/// A schema that the stores reach through the pooler.
struct Pooled(Schema);

impl Fixture for Pooled {
    async fn empty() -> Self {
        Pooled(Schema::empty().await)
    }

    async fn open(&self) -> Arc<dyn Store> {
        let name = &self.0.0;
        let mut target = Target::parse("store.url", &pooler().url()).unwrap();
        target.config.application_name(name);
        let options = PostgresOptions { target, ..options(name) };
        Arc::new(PostgresStore::open(options).await.unwrap())
    }

    /// Closed stores leave no connection to the pooler, whose own connections to the server stay. The pooler needs a
    /// moment to notice.
    fn left_behind(&self) -> Vec<String> {
        let name = self.0.0.clone();
        let look = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let console = Target::parse("store.url", &pooler().console()).unwrap();
                let (console, driver) = console.config.connect(console.tls).await.unwrap();
                tokio::spawn(driver);
                let is_of_store = |message: &SimpleQueryMessage| {
                    let SimpleQueryMessage::Row(row) = message else { return false };
                    row.get("application_name") == Some(&name)
                };
                let gone = async {
                    while console
                        .simple_query("SHOW CLIENTS")
                        .await
                        .unwrap()
                        .iter()
                        .any(is_of_store)
                    {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(30), gone).await.is_ok()
            })
        };
        match std::thread::spawn(look).join() {
            Ok(true) => Vec::new(),
            _ => vec!["a connection".to_owned()],
        }
    }
}
