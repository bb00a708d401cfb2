//! The process in numbers, from `/proc/self`. What cannot be read is left out.

use std::fs;

use super::text::Text;

/// Ticks per second in `/proc/*/stat`: fixed by Linux's interface to user space.
const TICKS: f64 = 100.0;

pub(super) fn render(text: &mut Text) {
    // The second field is the name in parentheses and may hold anything; the third follows it.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok());
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let seconds = (user + system) / TICKS;
        text.counter("process_cpu_seconds_total", "User and system CPU time in seconds.", seconds);
    }
    if let (Some(start), Some(boot)) = (field(22), boot_time()) {
        let seconds = boot + start / TICKS;
        text.gauge("process_start_time_seconds", "Start time since the Unix epoch in seconds.", seconds);
    }
    if let Some(bytes) = field(23) {
        text.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", bytes);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kibibytes) = number(&status, "VmRSS:") {
        text.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", kibibytes * 1024.0);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "Number of open file descriptors.", open.count());
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(most) = number(&limits, "Max open files") {
        text.gauge("process_max_fds", "Maximum number of open file descriptors.", most);
    }
}

fn boot_time() -> Option<f64> {
    number(&fs::read_to_string("/proc/stat").ok()?, "btime")
}

/// The first number in the line that begins with `name`.
fn number(file: &str, name: &str) -> Option<f64> {
    let line = file.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
