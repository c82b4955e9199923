//! Commands of `bpf(2)` that aya does not offer, or not as they are needed here.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// enum bpf_cmd, linux/bpf.h.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
/// `BPF_TRACE_ITER` of `enum bpf_attach_type`.
const TRACE_ITER: u32 = 28;

/// What `BPF_OBJ_GET` reads of `union bpf_attr`.
#[repr(C)]
struct Pinned {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// What `BPF_LINK_CREATE` reads of it for an iterator.
#[repr(C)]
struct IteratorLink {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    zero: u32,
}

/// What `BPF_ITER_CREATE` reads of it.
#[repr(C)]
struct Iterator {
    link_fd: u32,
    flags: u32,
}

/// Opens what is pinned at `path` as what it is, a descriptor that is closed on `exec`.
///
/// aya opens the kernel's type information along with a pinned tracing program, by its number. That takes
/// `CAP_SYS_ADMIN`, which an observer that takes over its predecessor's programs has no other use for.
///
/// # Errors
/// What the kernel says.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Pinned { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the kernel reads a string that ends with a zero; it outlives the call.
    unsafe { bpf(BPF_OBJ_GET, &attributes) }
}

/// A run of an iterator over the elements of a map (5.9): it takes place when the file is read. aya's iterators know no
/// map.
///
/// # Errors
/// What the kernel says.
pub(super) fn iterate(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<File> {
    // The first member of `union bpf_iter_link_info`.
    let of = map.as_raw_fd() as u32;
    let attributes = IteratorLink {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        iter_info: &raw const of as u64,
        iter_info_len: size_of_val(&of) as u32,
        zero: 0,
    };
    // SAFETY: the kernel reads the four bytes of `of`, which outlives the call.
    let link = unsafe { bpf(BPF_LINK_CREATE, &attributes) }?;
    let attributes = Iterator { link_fd: link.as_raw_fd() as u32, flags: 0 };
    // SAFETY: no addresses.
    let run = unsafe { bpf(BPF_ITER_CREATE, &attributes) }?;
    Ok(run.into())
}

/// A command that makes a descriptor.
///
/// # Safety
/// `T` is laid out as `union bpf_attr` for this command, and the addresses in it are of memory that the kernel may read.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes as it is told `attributes` has, and keeps no reference to them.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
