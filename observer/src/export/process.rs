//! What this process costs the node, by the names that Prometheus' client libraries use.

use std::fmt;

use procfs::{
    ProcResult,
    process::{LimitValue, Process},
};
use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

/// One reading of `/proc/self`, in the units of the families.
struct Reading {
    cpu_seconds: f64,
    start_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    open_fds: f64,
    max_fds: f64,
}

impl Reading {
    fn take() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        let max_fds = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Unlimited => f64::INFINITY,
            LimitValue::Value(limit) => limit as f64,
        };
        Ok(Self {
            cpu_seconds: seconds(stat.utime + stat.stime),
            start_seconds: procfs::boot_time_secs()? as f64 + seconds(stat.starttime),
            resident_bytes: (stat.rss * procfs::page_size()) as f64,
            virtual_bytes: stat.vsize as f64,
            open_fds: process.fd_count()? as f64,
            max_fds,
        })
    }
}

/// A family: name, help, and its value in a reading.
type Family = (&'static str, &'static str, fn(&Reading) -> f64);

const GAUGES: [Family; 5] = [
    ("process_start_time_seconds", "When this process started, as Unix time.", |r| r.start_seconds),
    ("process_resident_memory_bytes", "Resident memory of this process.", |r| r.resident_bytes),
    ("process_virtual_memory_bytes", "Virtual memory of this process.", |r| r.virtual_bytes),
    ("process_open_fds", "File descriptors that this process holds.", |r| r.open_fds),
    ("process_max_fds", "File descriptors that this process may hold.", |r| r.max_fds),
];

/// Encodes the families; without values where `/proc` cannot be read.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let reading = Reading::take().ok();
    let mut metric = encoder.encode_descriptor(
        "process_cpu_seconds",
        "Processor time of this process, user and system.",
        None,
        MetricType::Counter,
    )?;
    if let Some(reading) = &reading {
        metric.encode_counter::<[(&str, &str); 0], f64, f64>(&reading.cpu_seconds, None)?;
    }
    for (name, help, value) in GAUGES {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        if let Some(reading) = &reading {
            metric.encode_gauge(&value(reading))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Reading;

    #[test]
    fn a_reading_is_in_the_units_that_the_names_say() {
        let reading = Reading::take().expect("/proc is mounted");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.expect("after 1970").as_secs_f64();
        assert!((now - 86_400.0..=now + 1.0).contains(&reading.start_seconds));
        assert!((0.0..3_600.0).contains(&reading.cpu_seconds));
        assert!(reading.resident_bytes > 1e5 && reading.resident_bytes < reading.virtual_bytes);
        assert!(reading.open_fds >= 3.0 && reading.open_fds <= reading.max_fds);
    }
}
