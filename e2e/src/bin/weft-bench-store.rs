//! `weft-bench-store`: the store that a controller serves, beside etcd on the same disk.
//!
//! Both run at the same time; rounds alternate between them, so that a machine that slows down slows both. Everything is
//! asked over loopback by the same client.

use std::{
    fs,
    io::{self, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use etcd_client::{Client, GetOptions, Txn, TxnOp, WatchOptions};
use serde::Serialize;
use tokio::{task::JoinSet, time::sleep};

const VALUE_BYTES: usize = 256;
const LARGEST_ANSWER: usize = 256 << 20;
const CLIENTS: usize = 64;
const WATCHERS: usize = 200;
const WATCHED_PUTS: usize = 500;
const ROUNDS: usize = 5;
/// A list takes a moment only, and whatever else the machine does shows in it.
const LIST_ROUNDS: usize = 15;
const READY: Duration = Duration::from_secs(20);

/// Measure the store that a controller serves, beside etcd.
#[derive(Debug, Parser)]
#[command(name = "weft-bench-store", version)]
struct Cli {
    /// Directory on the disk to measure on; both stores make and remove a directory of their own in it.
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
    /// The weft binary; by default the one beside this program.
    #[arg(long, env = "WEFT_BIN", value_name = "FILE")]
    weft: Option<PathBuf>,
    /// Keys of the large list.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    keys: usize,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One figure of both.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    unit: &'static str,
    /// Whether more is better.
    more: bool,
    ours: f64,
    etcd: f64,
}

#[expect(clippy::print_stderr, reason = "a program reports its failure here")]
fn main() -> ExitCode {
    match measure(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-bench-store: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cli: &Cli) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let figures = runtime.block_on(figures(cli))?;
    let text = if cli.json {
        serde_json::to_string_pretty(&figures).context("encoding the figures")? + "\n"
    } else {
        table(&figures)
    };
    io::stdout().lock().write_all(text.as_bytes()).context("printing the figures")
}

async fn figures(cli: &Cli) -> Result<Vec<Figure>> {
    let pair = [Server::ours(cli)?, Server::etcd(&cli.data_dir)?];
    for server in &pair {
        server.wait().await?;
    }
    let mut figures = Vec::new();
    let mut put =
        |what: String, unit, more, [ours, etcd]: [f64; 2]| figures.push(Figure { what, unit, more, ours, etcd });
    let mut latencies = [Vec::new(), Vec::new()];
    let mut rates = [Vec::new(), Vec::new()];
    let mut fan_outs = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (number, server) in pair.iter().enumerate() {
            latencies[number].push(one_by_one(server, 200).await?);
            rates[number].push(at_once(server, Duration::from_secs(2)).await?);
            fan_outs[number].push(fan_out(server).await?);
        }
    }
    put("a put after another, median".to_owned(), "ms", false, latencies.map(median));
    put(format!("puts of {CLIENTS} clients"), "/s", true, rates.map(median));
    put(format!("events to {WATCHERS} watchers"), "/s", true, fan_outs.map(median));
    let mut lists = [Vec::new(), Vec::new()];
    for server in &pair {
        fill(server, cli.keys).await?;
    }
    for _ in 0..LIST_ROUNDS {
        for (number, server) in pair.iter().enumerate() {
            lists[number].push(list(server, cli.keys).await?);
        }
    }
    put(format!("list of {} keys, median", cli.keys), "ms", false, lists.map(median));
    let fresh = [Server::ours(cli)?, Server::etcd(&cli.data_dir)?];
    for server in &fresh {
        server.wait().await?;
        fill(server, cli.keys).await?;
    }
    put(format!("memory with {} keys", cli.keys), "MB", false, [fresh[0].memory()?, fresh[1].memory()?]);
    Ok(figures)
}

/// Milliseconds of one put, the median of so many.
async fn one_by_one(server: &Server, count: usize) -> Result<f64> {
    let mut client = server.client().await?;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let began = Instant::now();
        client.put(format!("/one/{number}"), vec![b'x'; VALUE_BYTES], None).await.context("putting")?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(median(times))
}

/// Puts a second of many clients, each with a connection of its own.
async fn at_once(server: &Server, time: Duration) -> Result<f64> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.client().await?);
    }
    let began = Instant::now();
    let until = began + time;
    let mut tasks = JoinSet::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut done: u32 = 0;
            while Instant::now() < until {
                client.put(format!("/many/{number}/{}", done % 100), vec![b'x'; VALUE_BYTES], None).await?;
                done += 1;
            }
            Ok::<_, etcd_client::Error>(done)
        });
    }
    let mut done = 0;
    while let Some(task) = tasks.join_next().await {
        done += task.context("a client of many")?.context("putting")?;
    }
    Ok(f64::from(done) / began.elapsed().as_secs_f64())
}

/// Events a second that watchers get, each on a stream of its own, while eight clients write.
async fn fan_out(server: &Server) -> Result<f64> {
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS / 10 {
        let client = server.client().await?;
        for _ in 0..10 {
            let mut client = client.clone();
            let mut stream =
                client.watch("/fan/", Some(WatchOptions::new().with_prefix())).await.context("watching")?;
            stream.message().await.context("watching")?;
            watchers.spawn(async move {
                let mut seen = 0;
                while seen < WATCHED_PUTS {
                    seen += stream.message().await?.map_or(WATCHED_PUTS, |message| message.events().len());
                }
                Ok::<_, etcd_client::Error>(())
            });
        }
    }
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let mut client = server.client().await?;
        writers.spawn(async move {
            for number in (writer..WATCHED_PUTS).step_by(8) {
                client.put(format!("/fan/{number}"), vec![b'x'; VALUE_BYTES], None).await?;
            }
            Ok::<_, etcd_client::Error>(())
        });
    }
    for set in [&mut writers, &mut watchers] {
        while let Some(task) = set.join_next().await {
            task.context("a client of the fan-out")?.context("writing or watching")?;
        }
    }
    let events = u32::try_from(WATCHERS * WATCHED_PUTS).context("counting events")?;
    Ok(f64::from(events) / began.elapsed().as_secs_f64())
}

async fn fill(server: &Server, keys: usize) -> Result<()> {
    let mut client = server.client().await?;
    let numbers: Vec<usize> = (0..keys).collect();
    for chunk in numbers.chunks(100) {
        let put = |number: &usize| TxnOp::put(format!("/list/{number:08}"), vec![b'x'; VALUE_BYTES], None);
        client.txn(Txn::new().and_then(chunk.iter().map(put).collect::<Vec<_>>())).await.context("filling")?;
    }
    Ok(())
}

/// Milliseconds of one list of all keys.
async fn list(server: &Server, keys: usize) -> Result<f64> {
    let client = server.client().await?;
    let mut kv = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
    let began = Instant::now();
    let got = kv.get("/list/", Some(GetOptions::new().with_prefix())).await.context("listing")?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    if got.kvs().len() != keys {
        bail!("{} lists {} keys of {keys}", server.url, got.kvs().len());
    }
    Ok(took)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn table(figures: &[Figure]) -> String {
    let mut text = format!("{:36} {:>10} {:>10}  {}\n", "", "weft", "etcd", "");
    for figure in figures {
        let better = if figure.more { figure.ours >= figure.etcd } else { figure.ours <= figure.etcd };
        let verdict = if better { "as fast or better" } else { "behind" };
        let what = format!("{}, {}", figure.what, figure.unit);
        text += &format!("{what:36} {:>10.2} {:>10.2}  {verdict}\n", figure.ours, figure.etcd);
    }
    text
}

/// A store in a process of its own, ended and removed with this value.
struct Server {
    url: String,
    child: Child,
    directory: PathBuf,
}

impl Server {
    fn ours(cli: &Cli) -> Result<Self> {
        let beside = || Ok::<_, io::Error>(std::env::current_exe()?.with_file_name("weft"));
        let weft = cli.weft.clone().map_or_else(beside, Ok).context("finding weft")?;
        let (directory, port) = (scratch(&cli.data_dir, "weft")?, free_port()?);
        let mut command = Command::new(weft);
        command.args(["controller", "--log", "warn", "--listen"]).arg(format!("127.0.0.1:{port}"));
        command.arg("--data-dir").arg(&directory);
        Self::start(command, port, directory)
    }

    fn etcd(parent: &Path) -> Result<Self> {
        let (directory, port, peers) = (scratch(parent, "etcd")?, free_port()?, free_port()?);
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(&directory);
        for option in ["--listen-client-urls", "--advertise-client-urls"] {
            command.arg(option).arg(format!("http://127.0.0.1:{port}"));
        }
        command.arg("--listen-peer-urls").arg(format!("http://127.0.0.1:{peers}"));
        command.args(["--logger=zap", "--log-level=error", "--log-outputs=stderr"]);
        Self::start(command, port, directory)
    }

    fn start(mut command: Command, port: u16, directory: PathBuf) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), child, directory })
    }

    async fn client(&self) -> Result<Client> {
        Client::connect([&self.url], None).await.context("connecting")
    }

    async fn wait(&self) -> Result<()> {
        let began = Instant::now();
        while let Err(error) = self.client().await?.status().await {
            if began.elapsed() > READY {
                return Err(error).with_context(|| format!("waiting for {}", self.url));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Megabytes that the process has in memory, without the pages of files that it maps: those are the kernel's.
    fn memory(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("finding RssAnon")?;
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().context("reading RssAnon")?;
        Ok(kilobytes / 1000.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Neither failure leaves anything that a next run would meet.
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.directory).ok();
    }
}

fn scratch(parent: &Path, name: &str) -> Result<PathBuf> {
    let directory = parent.join(format!("weft-bench-{name}-{}-{}", std::process::id(), free_port()?));
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    Ok(directory)
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
    Ok(listener.local_addr().context("finding a free port")?.port())
}
