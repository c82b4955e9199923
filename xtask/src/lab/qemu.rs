//! One guest: QEMU without network and without KVM, bounded in time, its console watched for panics and stalls.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::architecture::Architecture;
use super::kernels::Kernel;
use crate::cmd;

const MEMORY_MIB: u32 = 1024;

/// What the console must not show. TCG is slow, but not so slow that the kernel's watchdogs bark.
const ALARMS: &[&str] = &[
    "Kernel panic",
    "Oops",
    "BUG:",
    "WARNING: CPU",
    "general protection fault",
    "detected stall",
    "soft lockup",
    "blocked for more than",
    "Out of memory",
];

/// What to boot.
pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    pub(super) processors: u32,
    /// Steps of `lab/steps`.
    pub(super) steps: &'a [&'a str],
    /// Whether the kernel is locked down as far as it goes, as a host that booted by Secure Boot may be.
    pub(super) locked: bool,
    /// A hook that observer must pretend not to find.
    pub(super) lacking: Option<&'a str>,
    /// Wall-clock time after which the guest is killed.
    pub(super) limit: Duration,
    /// Where console and report are kept.
    pub(super) directory: PathBuf,
}

/// How a guest went.
pub(super) struct Ended {
    /// What the steps printed.
    pub(super) report: String,
    /// What is wrong with the guest itself.
    pub(super) trouble: Vec<String>,
    pub(super) took: Duration,
}

impl Guest<'_> {
    pub(super) fn boot(&self) -> Result<Ended> {
        fs::create_dir_all(&self.directory)?;
        let [console, report] = ["console.log", "report.log"].map(|name| self.directory.join(name));
        let Architecture { emulator, machine, line, .. } = self.kernel.architecture;
        let mut qemu = cmd::command(emulator);
        qemu.args(*machine).args(["-nodefaults", "-no-reboot"]);
        qemu.args(["-display", "none", "-monitor", "none"]);
        qemu.args(["-m", &MEMORY_MIB.to_string(), "-smp", &self.processors.to_string()]);
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        qemu.args(["-append", &self.command_line()]);
        qemu.args(["-serial", &format!("file:{}", console.display())]);
        // Here a comma would begin the next property.
        let file = report.display().to_string().replace(',', ",,");
        qemu.args(["-chardev", &format!("file,id=report,path={file}")]);
        qemu.args(["-device", &format!("{},chardev=report", line.0)]);
        let started = Instant::now();
        let child = qemu.stdin(Stdio::null()).spawn().context("starting QEMU")?;
        let in_time = Running(child).wait(self.limit)?;
        let took = started.elapsed();
        let [console, report] = [console, report].map(|log| text(&log));
        let mut trouble = alarms(&console);
        if !in_time {
            trouble.push(format!("did not power off within {} s", self.limit.as_secs()));
        }
        Ok(Ended { report, trouble, took })
    }

    /// What looks like no option of the kernel's is the environment of `init`. No huge pages: the thread that collects
    /// them waits for minutes in a busy guest of one processor, and its kernel takes that for a stall.
    fn command_line(&self) -> String {
        let lacking = self.lacking.map(|hook| format!(" OBSERVER_SIMULATE_LACKING={hook}"));
        let (steps, lacking) = (self.steps.join(","), lacking.unwrap_or_default());
        let Architecture { console, line: (_, line), .. } = self.kernel.architecture;
        let slabs = if self.kernel.nolock { " slab_debug=F,kmalloc*" } else { "" };
        let lockdown = if self.locked { " lockdown=confidentiality" } else { "" };
        format!(
            "console={console} panic=-1 oops=panic transparent_hugepage=never{slabs}{lockdown} \
             LAB_LINE={line} LAB_STEPS={steps}{lacking}"
        )
    }
}

/// QEMU, killed when dropped.
struct Running(Child);

impl Running {
    /// Whether it ended in time.
    fn wait(mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            match self.0.try_wait()? {
                Some(status) if status.success() => return Ok(true),
                Some(status) => bail!("QEMU itself failed: {status}"),
                None if Instant::now() > deadline => return Ok(false),
                None => sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A log as text, whatever is in it.
fn text(log: &Path) -> String {
    fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The lines of a console that tell of trouble.
fn alarms(console: &str) -> Vec<String> {
    let lines = console.lines().map(str::trim);
    lines
        .filter(|line| ALARMS.iter().any(|alarm| line.contains(alarm)))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_seen_on_the_console() {
        let console = "[    0.0] Linux version 6.1\r\n[    0.1] Booting paravirtualized kernel\r\n";
        assert!(alarms(console).is_empty());
        let console = "[    2.8] Kernel panic - not syncing: sysrq triggered crash\r\n\
                       [   61.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\r\n";
        assert_eq!(alarms(console).len(), 2);
    }
}
