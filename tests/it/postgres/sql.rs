//! A direct connection to the database, as another program would use it.

use tokio_postgres::{Client, NoTls, Row};

pub struct Sql(Client);

impl Sql {
    pub async fn connect(url: &str) -> Self {
        let (client, driver) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(driver);
        Sql(client)
    }

    pub async fn rows(&self, text: &str) -> Vec<Row> {
        self.0.query(text, &[]).await.unwrap()
    }
}
