//! Prints how long a server takes to start and to stop on this machine.

use std::time::Instant;

use ff_testserver::TestServer;

#[tokio::main]
async fn main() -> Result<(), ff_testserver::Error> {
    for _ in 0..5 {
        let begun = Instant::now();
        let server = TestServer::start().await?;
        let (provider, started) = (server.provider(), begun.elapsed());
        let begun = Instant::now();
        drop(server);
        println!("{provider}: started in {started:.0?}, stopped in {:.0?}", begun.elapsed());
    }
    Ok(())
}
