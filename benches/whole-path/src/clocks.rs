//! The time of day and the time on the processors.

use crate::Failure;

/// Microseconds of the epoch.
pub(crate) fn now() -> u64 {
    u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or_default()
}

/// User and system time of this process so far, in seconds. Linux counts it in hundredths (`USER_HZ`), whatever the
/// kernel was built with.
pub(crate) fn processor_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name in parentheses and may hold anything; utime and stime are 14 and 15.
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat has another form")?;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / 100.0)
}
