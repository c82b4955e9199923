//! The allocator's memory, given back to the system when it is no longer needed: loading the programs takes several times
//! what running takes, for the kernel's type information and the object.

/// Makes all threads share one heap, before there is a second thread: what each of many heaps keeps for later adds up,
/// and here hardly ever two threads allocate at once.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no other thread runs yet; the function changes nothing but the allocator's settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives free memory back.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function locks the heap it works on, and takes only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
