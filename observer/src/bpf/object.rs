//! Opening a pinned object as what it is: a descriptor, and nothing else.
//!
//! aya opens the kernel's type information along with a pinned tracing program, by its number. That takes
//! `CAP_SYS_ADMIN`, which an observer that takes over its predecessor's programs has no other use for.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// The command of `bpf(2)`.
const BPF_OBJ_GET: libc::c_int = 7;

/// What the command reads of `union bpf_attr`, `linux/bpf.h`.
#[repr(C)]
struct Attributes {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens what is pinned at `path`; the descriptor is closed on `exec`.
///
/// # Errors
/// What the kernel says.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the kernel reads as many bytes as it is told `attributes` has, and in them the address of a string that ends
    // with a zero; both outlive the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attributes, size_of::<Attributes>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
