//! Prints the device limit of a directory, every method at every depth:
//!
//! ```text
//! cargo run --release -p seawall-limit --example limit -- [DIR] [SECONDS] [RECORDSxBYTES ...]
//! ```

use std::error::Error;
use std::time::Duration;

use seawall_limit::{Limit, Load, Options};

const FILE_BYTES: u64 = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| ".".into());
    let seconds: f64 = arguments.next().map_or(Ok(1.0), |text| text.parse())?;
    let mut loads = arguments.map(|text| parse_load(&text)).collect::<Result<Vec<_>, _>>()?;
    if loads.is_empty() {
        loads = [(1, 1 << 10), (8, 1 << 10), (64, 1 << 10), (1, 1 << 20), (8, 1 << 20)]
            .map(|(outstanding, record_bytes)| Load { record_bytes, outstanding })
            .to_vec();
    }

    let mut limit = Limit::prepare(&Options { dir: dir.into(), file_bytes: FILE_BYTES, files: 1 })?;
    if !limit.direct_io() {
        println!("O_DIRECT is refused here: buffered writes with fdatasync");
    }
    if let Some(error) = limit.uring_refused() {
        println!("io_uring is refused here ({error}): pwrite threads");
    }
    for load in loads {
        println!("\n{} outstanding x {} bytes", load.outstanding, load.record_bytes);
        println!(
            "  {:<18} {:>5} {:>11} {:>9} {:>9} {:>9} {:>8} {:>9}",
            "method", "depth", "records/s", "p50 us", "p99 us", "MB/s", "writes", "CPU us/r"
        );
        let cells = limit.measure(load, Duration::from_secs_f64(seconds))?;
        let best = cells.iter().map(|cell| cell.records_per_second).fold(0.0, f64::max);
        for cell in cells {
            println!(
                "{} {:<18} {:>5} {:>11.0} {:>9.1} {:>9.1} {:>9.1} {:>8} {:>9.2}",
                if cell.records_per_second == best { '*' } else { ' ' },
                cell.method,
                cell.depth,
                cell.records_per_second,
                cell.p50_us,
                cell.p99_us,
                cell.bytes_per_second / 1e6,
                cell.writes,
                cell.cpu_us_per_record,
            );
        }
    }
    Ok(())
}

fn parse_load(text: &str) -> Result<Load, Box<dyn Error>> {
    let (outstanding, record_bytes) = text.split_once('x').ok_or("RECORDSxBYTES, as in 64x1024")?;
    Ok(Load { record_bytes: record_bytes.parse()?, outstanding: outstanding.parse()? })
}
