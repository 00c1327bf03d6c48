//! A store on its own, for tests that kill it: serves a directory and says on standard output where.

use std::process::ExitCode;

use weft_embedded_store::{EmbeddedStore, StoreOptions};

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(error.as_ref()),
    }
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(listen)) = (arguments.next(), arguments.next()) else {
        return Err("usage: weft-store-serve DIRECTORY ADDRESS:PORT".into());
    };
    let store = EmbeddedStore::open(StoreOptions::new(directory, listen.parse()?)).await?;
    announce(&store.address()?.to_string());
    store.serve(std::future::pending()).await?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "whoever started this program reads the address here")]
fn announce(address: &str) {
    println!("{address}");
}

#[expect(clippy::print_stderr, reason = "a program reports its failure here")]
fn report(error: &dyn std::error::Error) -> ExitCode {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    eprintln!("weft-store-serve: {error}{cause}");
    ExitCode::FAILURE
}
