//! CPU time of what a benchmark does in its own process.

use std::time::Duration;

/// CPU time of this thread: what others do on the machine meanwhile does not count.
pub(crate) fn time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    assert_eq!(result, 0, "every Linux has this clock");
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// Median, microseconds.
pub(crate) fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
