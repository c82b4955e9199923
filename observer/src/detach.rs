//! `observer detach`: removes what a daemon with `--pin` has left in the kernel.

use crate::{
    bpf::{PinError, Pins},
    cli::DetachArgs,
    exit::Code,
    output, preflight,
};

/// Removes it, and says what it did.
///
/// # Errors
/// If there is no such directory, it holds anything else, an observer runs with the pins, or the kernel refuses.
pub fn detach(args: &DetachArgs) -> anyhow::Result<Code> {
    preflight::privileges()?;
    let directory = args.pin.display();
    let pins = match Pins::existing(&args.pin) {
        Err(PinError::Missing(_)) if args.ignore_not_found => {
            output::line(format_args!("nothing is pinned in {directory}: it does not exist"))?;
            return Ok(Code::Success);
        }
        pins => pins?,
    };
    if pins.remove()? {
        output::line(format_args!("detached what was pinned in {directory}"))?;
    } else {
        output::line(format_args!("nothing was pinned in {directory}"))?;
    }
    Ok(Code::Success)
}
