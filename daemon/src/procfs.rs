//! What `/proc` tells of processes: the few numbers that are asked for.
//!
//! Owns the reading of these files. Blocks, as short as memory takes: nothing here waits for a disk.

use std::time::Duration;
use std::{fs, io};

/// The kernel's unit of time in `/proc`, on every machine that Linux tells it to user space for.
const TICKS_PER_SECOND: u64 = 100;

/// What a process takes, and when it began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// When it began, in seconds since the host did.
    pub began: f64,
    /// Memory that it has mapped, in bytes.
    pub virtual_bytes: u64,
    /// Memory that is resident, in bytes.
    pub resident_bytes: u64,
    /// Files it has open, connections too.
    pub open_files: u64,
    /// How many it may have open.
    pub max_files: Option<u64>,
}

/// This process.
///
/// # Errors
/// When a file cannot be read, or is not as it should be.
pub fn own() -> io::Result<Process> {
    let Stat { cpu_ticks, began_ticks, virtual_bytes } = stat("self")?;
    let status = fs::read_to_string("/proc/self/status")?;
    let limits = fs::read_to_string("/proc/self/limits")?;
    let open_files = fs::read_dir("/proc/self/fd")?.count() as u64;
    Ok(Process {
        cpu_seconds: seconds(cpu_ticks),
        began: seconds(began_ticks),
        virtual_bytes,
        resident_bytes: resident(&status).ok_or_else(malformed)?,
        // The directory itself was open meanwhile.
        open_files: open_files.saturating_sub(1),
        max_files: max_files(&limits),
    })
}

/// The memory of the host, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What could be used without swapping.
    pub available: u64,
}

/// The memory of the host.
///
/// # Errors
/// When the file cannot be read, or is not as it should be.
pub fn memory() -> io::Result<Memory> {
    memory_of(&fs::read_to_string("/proc/meminfo")?).ok_or_else(malformed)
}

fn memory_of(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kibibytes << 10)
    };
    Some(Memory { total: bytes("MemTotal")?, available: bytes("MemAvailable")? })
}

/// How long ago a process began.
///
/// # Errors
/// When there is no such process, or its file is not as it should be.
pub fn age(pid: u32) -> io::Result<Duration> {
    let began = seconds(stat(&pid.to_string())?.began_ticks);
    let uptime = fs::read_to_string("/proc/uptime")?;
    let now: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).ok_or_else(malformed)?;
    Ok(Duration::from_secs_f64((now - began).max(0.0)))
}

/// When the host began, in seconds of Unix time.
///
/// # Errors
/// When the file cannot be read, or is not as it should be.
pub fn host_began() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok()).ok_or_else(malformed)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    began_ticks: u64,
    virtual_bytes: u64,
}

fn stat(process: &str) -> io::Result<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{process}/stat"))?).ok_or_else(malformed)
}

/// The name of the program may hold anything, so fields are counted from behind it: the first is the third.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat { cpu_ticks: field(14)? + field(15)?, began_ticks: field(22)?, virtual_bytes: field(23)? })
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// `None` also when there is no limit.
fn max_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND as f64
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a file of /proc is not as it should be")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let stat = "42 (a) S (b 1) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0 12345 1048576 300 rest";
        assert_eq!(
            parse_stat(stat),
            Some(Stat { cpu_ticks: 200, began_ticks: 12345, virtual_bytes: 1_048_576 })
        );
        for bad in ["", "42 (a) S 1", "42 a"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn limits_and_memory_are_read_by_name() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1234 kB\nRssAnon:\t 1 kB\n"), Some(1234 * 1024));
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files     \n";
        assert_eq!(max_files(limits), Some(1024));
        assert_eq!(max_files("Max open files  unlimited unlimited files\n"), None);
    }

    #[test]
    fn this_process_is_found() {
        let own = own().unwrap();
        assert!(own.resident_bytes > 100_000 && own.virtual_bytes >= own.resident_bytes, "{own:?}");
        assert!(own.open_files >= 3, "{own:?}");
        assert!(own.began > 0.0, "{own:?}");
        let age = age(std::process::id()).unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
        assert!(host_began().unwrap() > 1_600_000_000);
        assert_eq!(super::age(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
