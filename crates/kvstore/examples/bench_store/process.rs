//! What a process has used, from `/proc`.

use std::time::Duration;

use super::Failure;

/// CPU time in `/proc/PID/stat` is in ticks of `sysconf(_SC_CLK_TCK)`, which is 100 on Linux.
const TICK: Duration = Duration::from_millis(10);

/// User and system time a process has used. Fields 14 and 15 of `stat`, counted after the name,
/// which may hold anything.
pub(crate) fn cpu_time(pid: &str) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(')').ok_or("no process name in stat")?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || -> Result<u32, Failure> { Ok(fields.next().ok_or("stat is too short")?.parse()?) };
    Ok(TICK * (ticks()? + ticks()?))
}

/// Resident memory of a process, bytes.
pub(crate) fn resident(pid: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS in status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
