//! Tests of the connection: when it is left, and that what is left is not asked.

use std::rc::Rc;

use serde_json::json;
use tokio::task::LocalSet;

use super::agreeing::Agreeing;
use super::*;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Pools;

fn plan(url: &str) -> Arc<Settings> {
    Arc::new(serde_json::from_value(json!({"url": url, "timeout": "5s"})).unwrap())
}

/// A client that is about to open a connection.
fn at_work(server: &Agreeing) -> Arc<Client> {
    let client = Arc::new(Client::new("tests", Metrics::new().limit_store()));
    let wheel = Wheel::new();
    let desk = Desk { pools: Rc::new(Pools::new(wheel.clone(), 1)), wheel };
    client.follow(&plan(&server.url()));
    tokio::task::spawn_local(Client::work(Arc::downgrade(&client), desk));
    client
}

async fn asked(client: &Client) -> Result<String, Away> {
    let ask = async |connection: &mut MultiplexedConnection| {
        redis::cmd("EVALSHA").query_async::<(String, u64, Vec<u32>)>(connection).await
    };
    client.ask(&Wheel::new(), ask).await.map(|(life, ..)| life)
}

#[tokio::test]
async fn a_connection_is_left_at_once_when_a_reload_names_another_server() {
    let test = async {
        let (first, second) = (Agreeing::start().await, Agreeing::start().await);
        let client = at_work(&first);
        first.until_up(&client).await;
        assert!(asked(&client).await.is_ok());
        client.follow(&plan(&first.url()));
        assert!(client.is_up(), "the same plan changes nothing");
        // Rung without a reason, it goes on.
        client.bell.notify_one();

        client.follow(&plan(&second.url()));

        assert_eq!((client.is_up(), asked(&client).await), (false, Err(Away)));
        assert!(client.leave().is_some() && client.leave().is_none(), "who has a last word gets it");
        second.until_up(&client).await;
        assert!(asked(&client).await.is_ok());
        assert_eq!((first.told(), second.told()), (1, 1));
        assert!(client.leave().is_some(), "the server is the same");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_server_that_refuses_transactions_is_answered_by_an_error_and_goes_on() {
    let test = async {
        let server = Agreeing::start().await;
        let client = at_work(&server);
        server.until_up(&client).await;
        let mut pipe = transaction();
        pipe.cmd("SET").arg("a").arg("b").ignore().cmd("EXEC");

        let ask = async |connection: &mut MultiplexedConnection| pipe.query_async::<()>(connection).await;
        assert_eq!(client.ask(&Wheel::new(), ask).await, Err(Away));

        assert!(asked(&client).await.is_ok(), "by the same connection");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_connection_that_opens_after_another_server_was_named_is_not_used() {
    let test = async {
        let (first, second) = (Agreeing::start().await, Agreeing::start().await);
        let client = at_work(&first);
        first.until_asked().await;
        assert!(!client.is_up());
        client.follow(&plan(&second.url()));
        second.until_up(&client).await;
        assert!(asked(&client).await.is_ok());
        assert_eq!((first.told(), second.told()), (0, 1));
    };
    LocalSet::new().run_until(test).await;
}
