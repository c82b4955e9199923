//! Commands of `bpf(2)` that aya does not offer, or not as they are needed here.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// enum bpf_cmd, linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_ITER_CREATE: libc::c_int = 33;
/// `BPF_TRACE_ITER` of `enum bpf_attach_type`.
const TRACE_ITER: u32 = 28;
// enum bpf_map_type.
const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;

/// What `BPF_OBJ_PIN` and `BPF_OBJ_GET` read of `union bpf_attr`.
#[repr(C)]
struct Pinned {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// What `BPF_LINK_CREATE` reads of it; the last three are for iterators.
#[repr(C)]
struct NewLink {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    zero: u32,
}

/// What `BPF_LINK_UPDATE` reads of it.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// What `BPF_RAW_TRACEPOINT_OPEN` reads of it.
#[repr(C)]
struct RawTracepoint {
    name: u64,
    prog_fd: u32,
    zero: u32,
}

/// What `BPF_ITER_CREATE` reads of it.
#[repr(C)]
struct Iterator {
    link_fd: u32,
    flags: u32,
}

/// What `BPF_MAP_CREATE` reads of it for an array of one word.
#[repr(C)]
struct NewMap {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// What `BPF_MAP_UPDATE_ELEM` reads of it.
#[repr(C)]
struct Element {
    map_fd: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Pins what the descriptor is of, at `path`.
///
/// # Errors
/// What the kernel says.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let bpf_fd = object.as_raw_fd() as u32;
    let attributes = Pinned { pathname: path.as_ptr() as u64, bpf_fd, file_flags: 0 };
    // SAFETY: the kernel reads a string that ends with a zero; it outlives the call.
    unsafe { call(BPF_OBJ_PIN, &attributes) }.map(drop)
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
    unsafe { descriptor(BPF_OBJ_GET, &attributes) }
}

/// Attaches a program to a cgroup, at a place of `enum bpf_attach_type`; the link shares it with others by nature.
///
/// # Errors
/// What the kernel says.
pub(super) fn attach_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let (prog_fd, target_fd) = (program.as_raw_fd() as u32, cgroup.as_raw_fd() as u32);
    let attributes = NewLink {
        prog_fd,
        target_fd,
        attach_type,
        flags: 0,
        iter_info: 0,
        iter_info_len: 0,
        zero: 0,
    };
    // SAFETY: no addresses.
    unsafe { descriptor(BPF_LINK_CREATE, &attributes) }
}

/// Attaches a program to the tracepoint that it was loaded for.
///
/// # Errors
/// What the kernel says.
pub(super) fn attach_to_tracepoint(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attributes = RawTracepoint { name: 0, prog_fd: program.as_raw_fd() as u32, zero: 0 };
    // SAFETY: no addresses.
    unsafe { descriptor(BPF_RAW_TRACEPOINT_OPEN, &attributes) }
}

/// Replaces the program of a cgroup's link (5.7): each packet is seen by the one before or by this one.
///
/// # Errors
/// What the kernel says.
pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link_fd, new_prog_fd) = (link.as_raw_fd() as u32, program.as_raw_fd() as u32);
    let attributes = LinkUpdate { link_fd, new_prog_fd, flags: 0, old_prog_fd: 0 };
    // SAFETY: no addresses.
    unsafe { call(BPF_LINK_UPDATE, &attributes) }.map(drop)
}

/// Stores a program, or another map, in an array of them, atomically.
///
/// # Errors
/// What the kernel says.
pub(super) fn store(array: BorrowedFd<'_>, place: u32, what: BorrowedFd<'_>) -> io::Result<()> {
    let what = what.as_raw_fd() as u32;
    let attributes = Element {
        map_fd: array.as_raw_fd() as u32,
        zero: 0,
        key: &raw const place as u64,
        value: &raw const what as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads the four bytes of `place` and of `what`, which outlive the call.
    unsafe { call(BPF_MAP_UPDATE_ELEM, &attributes) }.map(drop)
}

/// Returns when all programs have ended that run now.
///
/// That is what the kernel promises of a change to an array of maps (`maybe_wait_bpf_programs`, since 4.20). `membarrier(2)`
/// does it as well, but not on processors that are kept free of ticks.
///
/// # Errors
/// What the kernel says.
pub(super) fn wait_for_programs() -> io::Result<()> {
    let array = |map_type, inner_map_fd| {
        let attributes = NewMap {
            map_type,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            map_flags: 0,
            inner_map_fd,
        };
        // SAFETY: no addresses.
        unsafe { descriptor(BPF_MAP_CREATE, &attributes) }
    };
    let inner = array(ARRAY, 0)?;
    let outer = array(ARRAY_OF_MAPS, inner.as_raw_fd() as u32)?;
    store(outer.as_fd(), 0, inner.as_fd())
}

/// A run of an iterator over the elements of a map (5.9): it takes place when the file is read. aya's iterators know no
/// map.
///
/// # Errors
/// What the kernel says.
pub(super) fn iterate(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<File> {
    // The first member of `union bpf_iter_link_info`.
    let of = map.as_raw_fd() as u32;
    let attributes = NewLink {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        iter_info: &raw const of as u64,
        iter_info_len: size_of_val(&of) as u32,
        zero: 0,
    };
    // SAFETY: the kernel reads the four bytes of `of`, which outlives the call.
    let link = unsafe { descriptor(BPF_LINK_CREATE, &attributes) }?;
    let attributes = Iterator { link_fd: link.as_raw_fd() as u32, flags: 0 };
    // SAFETY: no addresses.
    let run = unsafe { descriptor(BPF_ITER_CREATE, &attributes) }?;
    Ok(run.into())
}

/// A command that makes a descriptor.
///
/// # Safety
/// As [`call`].
unsafe fn descriptor<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A command.
///
/// # Safety
/// `T` is laid out as `union bpf_attr` for this command, and the addresses in it are of memory that the kernel may read.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads as many bytes as it is told `attributes` has, and keeps no reference to them.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}
