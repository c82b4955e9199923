//! `observer detach`: removes what a daemon with `--pin` has left in the kernel.

use crate::{bpf::Pins, cli::DetachArgs, exit::Code, output, preflight};

/// Removes it, and says what it did.
///
/// # Errors
/// If an observer runs with the pins, or the kernel refuses.
pub fn detach(args: &DetachArgs) -> anyhow::Result<Code> {
    preflight::privileges()?;
    let directory = args.pin.display();
    if !args.pin.exists() {
        output::line(format_args!("nothing is pinned in {directory}"))?;
        return Ok(Code::Success);
    }
    if Pins::open(&args.pin, false)?.remove()? {
        output::line(format_args!("detached what was pinned in {directory}"))?;
    } else {
        output::line(format_args!("nothing was pinned in {directory}"))?;
    }
    Ok(Code::Success)
}
