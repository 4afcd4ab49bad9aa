//! One handler per kind of work, over types of serde, with shared state and errors by `?`.

use std::{collections::HashMap, error::Error};

use flowfabric::{
    Engine, ExecutionSpec, FlowSubmission, HandlerError, Namespace, WaitOptions, WorkContext, Worker, prelude::*,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    item: String,
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct Receipt {
    cents: u64,
}

/// What all handlers share.
struct Prices(HashMap<&'static str, u64>);

async fn charge(work: WorkContext, order: Order) -> Result<Receipt, HandlerError> {
    let prices = work.state::<Prices>()?;
    let price = prices.0.get(order.item.as_str());
    let price = price.ok_or_else(|| HandlerError::permanent(format!("there is no item `{}`", order.item)))?;
    Ok(Receipt { cents: price * order.count })
}

async fn ship(_: WorkContext, house_number: String) -> Result<String, HandlerError> {
    // No retry repairs an address, so the error is marked as permanent. A plain `?` allows retries.
    let number = house_number.parse::<u32>().permanent()?;
    Ok(format!("sent to number {number}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = flowfabric::connect("embedded:").await?;
    let _engine = Engine::builder(backend.clone()).start().await?;
    let prices = Prices(HashMap::from([("book", 1_250)]));
    let worker = Worker::builder().state(prices).on("charge", charge).on("ship", ship).build(backend.clone())?;
    let worker = worker.start();

    let order = Order { item: "book".into(), count: 2 };
    // The kind chooses the handler where the name is another one.
    let charge = ExecutionSpec::new("charge-17").kind("charge")?.payload_json(&order)?;
    let ship = ExecutionSpec::new("ship").needs(["charge-17"]).payload_json("12")?;
    let flow = FlowSubmission::new(Namespace::new("shop")?).execution(charge).execution(ship);
    let submitted = backend.submit_flow(&flow).await?;
    let ids: Vec<_> = submitted.ids().collect();
    let ended = backend.wait_for_all(&ids, &WaitOptions::default()).await?;
    println!("charged {} cents, {}", ended[0].result_json::<Receipt>()?.cents, ended[1].result_json::<String>()?);
    worker.shutdown().await?;
    Ok(())
}
