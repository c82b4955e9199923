//! What the daemon tells the kernel programs of cgroups: which pod or container each belongs to, as a number.

/// Cgroups that are told.
pub const KNOWN_CGROUPS: usize = 1 << 16;

/// Of the number of a cgroup that is in no pod and no container.
pub const NONE: u64 = 0;
/// Bit of the number of what is in a pod.
pub const IS_POD: u64 = 1;
/// Bit of every number but [`NONE`].
pub const IS_ANY: u64 = 2;

/// The last four bytes of source and target address, and the ports, as a packet has them: what the programs tell each other by
/// of a SYN.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ends {
    /// Of the source address.
    pub source: u32,
    /// Of the target address.
    pub target: u32,
    /// Both ports.
    pub ports: u32,
}

/// What the numbers mean.
pub(crate) const fn meaning(hash: crate::meaning::Meaning) -> crate::meaning::Meaning {
    hash.numbers(&[KNOWN_CGROUPS as u64, NONE, IS_POD, IS_ANY, size_of::<Ends>() as u64])
}
