//! `observer detach`: removes what a daemon with `--pin` has left in the kernel.

use crate::{bpf::Pins, cli::DetachArgs, exit::Code, preflight};

/// Removes it, and says what it did.
///
/// # Errors
/// If an observer runs with the pins, or the kernel refuses.
pub fn detach(args: &DetachArgs) -> anyhow::Result<Code> {
    preflight::privileges()?;
    let directory = args.pin.display();
    if !args.pin.exists() {
        println!("nothing is pinned in {directory}");
        return Ok(Code::Success);
    }
    if Pins::open(&args.pin, false)?.remove()? {
        println!("detached what was pinned in {directory}");
    } else {
        println!("nothing was pinned in {directory}");
    }
    Ok(Code::Success)
}
