//! What the system says of the process.

use std::fs;
use std::sync::Mutex;

use prometheus::{Counter, Gauge, IntGauge};

use super::family::{Catalogue, lock, single};

/// Figures about the process, read from `/proc` when scraped; absent where there is no `/proc`.
pub(super) struct ProcessMetrics {
    cpu_seconds: Mutex<Counter>,
    open_fds: IntGauge,
    max_fds: IntGauge,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
}

/// The unit of times in `/proc/*/stat`: Linux shows user space 100 ticks per second on every architecture in use.
pub(super) const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

impl ProcessMetrics {
    pub(super) fn register(catalogue: &mut Catalogue) -> Option<Self> {
        let stat = ProcessStat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
        if let Some(boot) = boot_time(&fs::read_to_string("/proc/stat").ok()?) {
            let start: Gauge = single(
                catalogue,
                "process_start_time_seconds",
                "seconds",
                "When the process started, in seconds since the Unix epoch.",
            );
            start.set(boot + stat.start_ticks / CLOCK_TICKS_PER_SECOND);
        }
        Some(Self {
            cpu_seconds: Mutex::new(single(
                catalogue,
                "process_cpu_seconds_total",
                "seconds",
                "User and system CPU time spent, in seconds.",
            )),
            open_fds: single(catalogue, "process_open_fds", "descriptors", "Open file descriptors, in descriptors."),
            max_fds: single(
                catalogue,
                "process_max_fds",
                "descriptors",
                "The most file descriptors allowed, in descriptors.",
            ),
            resident_bytes: single(catalogue, "process_resident_memory_bytes", "bytes", "Resident memory, in bytes."),
            virtual_bytes: single(catalogue, "process_virtual_memory_bytes", "bytes", "Virtual memory, in bytes."),
        })
    }

    pub(super) fn refresh(&self) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| ProcessStat::parse(&text)) {
            let cpu = lock(&self.cpu_seconds);
            // A counter cannot be set; the lock keeps two scrapes from adding the same difference twice.
            cpu.inc_by((stat.cpu_ticks / CLOCK_TICKS_PER_SECOND - cpu.get()).max(0.0));
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory itself, open for this very count.
            self.open_fds.set(i64::try_from(fds.count().saturating_sub(1)).unwrap_or(i64::MAX));
        }
        if let Some(max) = fs::read_to_string("/proc/self/limits").ok().and_then(|text| max_fds(&text)) {
            self.max_fds.set(max);
        }
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            for (key, gauge) in [("VmRSS:", &self.resident_bytes), ("VmSize:", &self.virtual_bytes)] {
                if let Some(bytes) = status_bytes(&status, key) {
                    gauge.set(bytes);
                }
            }
        }
    }
}

/// Fields of `/proc/self/stat` (proc_pid_stat(5)), in clock ticks.
#[derive(Debug, PartialEq)]
struct ProcessStat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl ProcessStat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in brackets and may hold anything, so count from its end.
        let (_, fields) = text.rsplit_once(") ")?;
        let field = |number: usize| fields.split_ascii_whitespace().nth(number - 3)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
    }
}

fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The soft limit of open files; `None` also where it is `unlimited`.
fn max_fds(limits: &str) -> Option<i64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn status_bytes(status: &str, key: &str) -> Option<i64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: i64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_their_manual_says() {
        let stat = "7 (a) (b c) ) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 8 9 20 0 3 0 12345 100 200 18446744073709551615";
        assert_eq!(ProcessStat::parse(stat), Some(ProcessStat { cpu_ticks: 300.0, start_ticks: 12345.0 }));
        assert_eq!(ProcessStat::parse("7 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        let limits = |soft| format!("Limit  Soft\nMax open files            {soft}                524288   files\n");
        assert_eq!(max_fds(&limits("1024")), Some(1024));
        assert_eq!(max_fds(&limits("unlimited")), None);
        assert_eq!(status_bytes("VmSize:\t  10 kB\nVmRSS:\t     3 kB\n", "VmRSS:"), Some(3072));
        assert_eq!(status_bytes("VmRSS: many kB\n", "VmRSS:"), None);
    }
}
