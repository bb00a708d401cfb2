//! What a process has used, as the system tells.

use std::time::Duration;

use super::Failure;

/// User and system time a process has used (`self`: this one), by its CPU clock: to the nanosecond where
/// `/proc/PID/stat` counts ticks of 10 ms, of which a short sample has too few.
pub(crate) fn cpu_time(pid: &str) -> Result<Duration, Failure> {
    let id = if pid == "self" { std::process::id() } else { pid.parse()? };
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` lives through the call.
    let error = unsafe { libc::clock_getcpuclockid(libc::pid_t::try_from(id)?, &mut clock) };
    if error != 0 {
        return Err(format!("process {pid}: {}", std::io::Error::from_raw_os_error(error)).into());
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives through the call.
    if unsafe { libc::clock_gettime(clock, &mut now) } != 0 {
        return Err(format!("CPU time of process {pid}: {}", std::io::Error::last_os_error()).into());
    }
    Ok(Duration::new(u64::try_from(now.tv_sec)?, u32::try_from(now.tv_nsec)?))
}

/// Resident memory of a process, bytes.
pub(crate) fn resident(pid: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS in status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
