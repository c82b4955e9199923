//! What this process costs the node, by the names that Prometheus' client libraries use.

use procfs::{
    ProcResult,
    process::{LimitValue, Process},
};

use observer_common::counters::Level;

use super::family::{Family, Kind, Samples};

/// One reading of `/proc/self`, in the units of the families.
#[derive(Debug)]
pub(super) struct Reading {
    cpu_seconds: f64,
    start_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    open_fds: f64,
    max_fds: f64,
}

impl Reading {
    pub(super) fn take() -> ProcResult<Self> {
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

macro_rules! family {
    ($name:literal, $kind:ident, $help:literal, $field:ident) => {
        Family {
            name: $name,
            kind: Kind::$kind,
            help: $help,
            level: Level::Core,
            samples: Samples::Own(|out, own| {
                if let Some(reading) = &own.process {
                    out.own(&[], reading.$field);
                }
            }),
        }
    };
}

/// The families; without values where `/proc` cannot be read.
pub(super) static FAMILIES: &[Family] = &[
    family!(
        "process_cpu_seconds",
        Counter,
        "Processor time of this process, user and system.",
        cpu_seconds
    ),
    family!(
        "process_start_time_seconds",
        Gauge,
        "When this process started, as Unix time.",
        start_seconds
    ),
    family!(
        "process_resident_memory_bytes",
        Gauge,
        "Resident memory of this process.",
        resident_bytes
    ),
    family!(
        "process_virtual_memory_bytes",
        Gauge,
        "Virtual memory of this process.",
        virtual_bytes
    ),
    family!("process_open_fds", Gauge, "File descriptors that this process holds.", open_fds),
    family!("process_max_fds", Gauge, "File descriptors that this process may hold.", max_fds),
];

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
