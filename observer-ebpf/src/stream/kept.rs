//! Kept segments: entries and blocks taken and freed, lists, and their bytes as a [`Source`].

use core::ptr;

use aya_ebpf::{bindings::__sk_buff, btf_maps::Queue};
use observer_common::{
    CHUNK,
    source::Source,
    stream::program,
    wire::kept::{COUNTED, Kept, LARGE, LARGE_BYTES, PER_STREAM, SMALL, SMALL_BYTES, UNCOUNTED},
};

use super::{claim::Claimed, job::Job, packet, scratch::Scratches};
use crate::{
    maps::{
        GRAVES, KEPT, KEPT_FREE, LARGE_BLOCKS, LARGE_FREE, PENDING, SMALL_BLOCKS, SMALL_FREE,
        Scratch,
    },
    memory::{atomic, registers},
};

/// The entry of an index plus one.
#[inline(always)]
pub(crate) fn entry(index: u32) -> Option<*mut Kept> {
    KEPT.get_ptr_mut(index.wrapping_sub(1))
}

/// Whether any segment of any connection is kept.
#[inline(always)]
pub(crate) fn is_any() -> bool {
    PENDING.get(0).is_some_and(|kept| *kept != 0)
}

/// Takes an entry; its index plus one.
#[inline(always)]
pub(crate) fn take() -> Option<(u32, *mut Kept)> {
    let index = pop(&KEPT_FREE)?;
    let entry = entry(index)?;
    if let Some(pending) = PENDING.get_ptr_mut(0) {
        // SAFETY: an aligned word of a map value.
        unsafe { atomic::add(pending, 1) };
    }
    Some((index, entry))
}

/// Frees an entry, its index plus one, and its block.
#[inline(always)]
pub(crate) fn free(index: u32) {
    let Some(entry) = entry(index) else { return };
    // SAFETY: an entry that is in no list.
    free_block(unsafe { (*entry).block });
    let _ = KEPT_FREE.push(index, 0);
    if let Some(pending) = PENDING.get_ptr_mut(0) {
        // SAFETY: an aligned word of a map value.
        unsafe { atomic::add(pending, u64::MAX) };
    }
}

#[inline(always)]
fn free_block(block: u32) {
    if block & LARGE != 0 {
        let _ = LARGE_FREE.push(block & !LARGE, 0);
    } else if block != 0 {
        let _ = SMALL_FREE.push(block, 0);
    }
}

#[inline(always)]
fn pop<const N: usize>(queue: &Queue<u32, N>) -> Option<u32> {
    queue.pop().ok().flatten()
}

/// Copies so many of the job's bytes, at least one and no more than a large block holds, into a block, and says which; `None` if
/// there is no room or they cannot be read.
#[inline(always)]
pub(crate) fn copy(skb: *mut __sk_buff, length: u32) -> Option<u32> {
    let offset = Job::offset(skb);
    if length as usize <= SMALL
        && let Some(block) = pop(&SMALL_FREE)
    {
        let room = SMALL_BLOCKS.get_ptr_mut(block.wrapping_sub(1))?;
        // SAFETY: the block has as many bytes.
        if unsafe {
            packet::load::<{ SMALL as u32 }>(skb, offset, (&raw mut (*room).bytes).cast(), length)
        } {
            return Some(block);
        }
        free_block(block);
        return None;
    }
    let block = pop(&LARGE_FREE)?;
    let room = LARGE_BLOCKS.get_ptr_mut(block.wrapping_sub(1))?;
    // SAFETY: the block has as many bytes.
    if unsafe {
        packet::load::<{ LARGE_BYTES as u32 }>(skb, offset, (&raw mut (*room).bytes).cast(), length)
    } {
        return Some(block | LARGE);
    }
    free_block(block | LARGE);
    None
}

/// Copies the job's bytes behind those of an entry in a small block; false if they do not fit.
#[inline(always)]
pub(crate) fn append(skb: *mut __sk_buff, entry: *mut Kept) -> bool {
    // SAFETY: an entry of a list that the claim makes exclusive.
    let (block, used) = unsafe { ((*entry).block, (*entry).from.wrapping_add((*entry).len)) };
    let (offset, length) = (Job::offset(skb), Job::left(skb));
    if block & LARGE != 0 || used as usize >= SMALL || length as usize > SMALL {
        return false;
    }
    let Some(room) = SMALL_BLOCKS.get_ptr_mut(block.wrapping_sub(1)) else { return false };
    // SAFETY: the block has room for the largest of both.
    unsafe {
        let behind = (&raw mut (*room).bytes)
            .cast::<u8>()
            .add(registers::masked::<SMALL>(u64::from(used)) as usize);
        packet::load::<{ SMALL as u32 }>(skb, offset, behind, length)
    }
}

/// Puts an entry before the stream's others; false if the stream has as many as it may have.
#[inline(always)]
pub(crate) fn push(claimed: &mut Claimed, index: u32, entry: *mut Kept) -> bool {
    let count = claimed.conn().kept_count(claimed.is_request());
    // SAFETY: the claim makes the count exclusive, and the entry is in no list.
    unsafe {
        if *count >= PER_STREAM as u32 {
            return false;
        }
        *count += 1;
        (*entry).next = claimed.kept();
    }
    claimed.set_kept(index);
    true
}

/// The entry of the stream whose bytes come first.
pub(crate) struct First {
    pub(crate) index: u32,
    pub(crate) entry: *mut Kept,
    before: u32,
}

/// Looks for the entry of the stream whose bytes come first.
#[inline(always)]
pub(crate) fn first(claimed: &Claimed) -> Option<First> {
    let next_seq = claimed.next_seq();
    let (mut at, mut before) = (u64::from(claimed.kept()), 0_u64);
    let (mut found, mut found_before, mut nearest) = (0_u64, 0_u64, i64::from(i32::MAX));
    for _ in 0..PER_STREAM {
        let Some(entry) = entry(at as u32) else { break };
        // SAFETY: an entry of a list that the claim makes exclusive.
        let (seq, next) = unsafe { ((*entry).seq, (*entry).next) };
        let distance = i64::from(seq.wrapping_sub(next_seq).cast_signed());
        // All ones if it is nearer than those before. By arithmetic: the verifier would follow both ways of each turn.
        let nearer = (distance.wrapping_sub(nearest) >> 63).cast_unsigned();
        found ^= (found ^ at) & nearer;
        found_before ^= (found_before ^ before) & nearer;
        nearest ^= (nearest ^ distance) & nearer.cast_signed();
        before = at;
        at = u64::from(next);
    }
    let index = found as u32;
    Some(First { index, entry: entry(index)?, before: found_before as u32 })
}

/// Takes the entry out of the stream's list.
#[inline(always)]
pub(crate) fn unlink(claimed: &mut Claimed, first: &First) {
    // SAFETY: an entry of a list that the claim makes exclusive.
    let next = unsafe { (*first.entry).next };
    match entry(first.before) {
        // SAFETY: as above.
        Some(before) => unsafe { (*before).next = next },
        None => claimed.set_kept(next),
    }
    let count = claimed.conn().kept_count(claimed.is_request());
    // SAFETY: the claim makes it exclusive.
    unsafe { *count = (*count).saturating_sub(1) };
}

/// Leaves in the entry what is left of the job: bytes in sequence, and counted.
#[inline(always)]
pub(super) fn shorten(skb: *mut __sk_buff, entry: *mut Kept) {
    let job = Job::take(skb);
    // SAFETY: an entry that the claim makes exclusive.
    unsafe {
        (*entry).seq = job.seq;
        (*entry).len = job.left;
        (*entry).from = job.offset;
        (*entry).flags = COUNTED;
    }
}

/// Lets go of all of the stream's entries, and of what was handed over. The lists as they are go to where [`reclaim`] finds them:
/// to walk over them here would be a loop in each program that sees a connection's end.
#[inline(always)]
pub(crate) fn let_go(claimed: &mut Claimed) {
    let kept = claimed.kept();
    let_go_of(claimed.take_inbox().unwrap_or(0));
    if kept == 0 {
        return;
    }
    let _ = GRAVES.push(kept, 0);
    claimed.set_kept(0);
    let count = claimed.conn().kept_count(claimed.is_request());
    // SAFETY: the claim makes it exclusive; and an aligned word of a map value.
    unsafe {
        if let Some(pending) = PENDING.get_ptr_mut(0) {
            atomic::add(pending, u64::from(*count).wrapping_neg());
        }
        *count = 0;
    }
}

/// Lets go of a list that was handed over.
#[inline(always)]
pub(crate) fn let_go_of(inbox: u32) {
    if inbox != 0 {
        let _ = GRAVES.push(inbox | UNCOUNTED, 0);
    }
}

/// Frees one entry of a list that was let go.
#[inline(always)]
pub(crate) fn reclaim() {
    let Some(head) = pop(&GRAVES) else { return };
    let (index, uncounted) = (head & !UNCOUNTED, head & UNCOUNTED);
    let Some(entry) = entry(index) else { return };
    // SAFETY: an entry of a list that is nobody's.
    let (next, block) = unsafe { ((*entry).next, (*entry).block) };
    if next != 0 {
        let _ = GRAVES.push(next | uncounted, 0);
    }
    free_block(block);
    let _ = KEPT_FREE.push(index, 0);
    if uncounted != 0
        && let Some(pending) = PENDING.get_ptr_mut(0)
    {
        // SAFETY: an aligned word of a map value.
        unsafe { atomic::add(pending, u64::MAX) };
    }
}

/// A kept segment's bytes: from a block of `BYTES`, a power of two, the position being the job's in the control buffer.
pub(crate) struct KeptBytes<const BYTES: usize> {
    skb: *mut __sk_buff,
    block: *const u8,
}

/// The block of the kept segment of the job.
#[inline(always)]
pub(crate) fn block_of_job(skb: *mut __sk_buff) -> u32 {
    // SAFETY: an entry that the chain of this program works on.
    entry(Job::kept(skb)).map_or(0, |entry| unsafe { (*entry).block })
}

/// What is added to the number of a mode for its parser of bytes in this block: see [`program`].
#[inline(always)]
pub(crate) fn source_of(block: u32) -> u32 {
    if block & LARGE == 0 { program::OF_SMALL } else { program::OF_LARGE }
}

impl KeptBytes<SMALL_BYTES> {
    /// The bytes of the kept segment of the job, if they are in a small block.
    #[inline(always)]
    pub(crate) fn of_job(skb: *mut __sk_buff) -> Option<Self> {
        Self::of_block(skb, block_of_job(skb))
    }

    /// The bytes of the kept segment of the job, which are in this block, if that is a small one.
    #[inline(always)]
    pub(crate) fn of_block(skb: *mut __sk_buff, block: u32) -> Option<Self> {
        let block = SMALL_BLOCKS.get_ptr(block.wrapping_sub(1))?.cast();
        Some(Self { skb, block })
    }
}

impl KeptBytes<LARGE_BYTES> {
    /// The bytes of the kept segment of the job, if they are in a large block.
    #[inline(always)]
    pub(crate) fn of_job(skb: *mut __sk_buff) -> Option<Self> {
        let block = LARGE_BLOCKS.get_ptr((block_of_job(skb) & !LARGE).wrapping_sub(1))?.cast();
        Some(Self { skb, block })
    }
}

impl<const BYTES: usize> KeptBytes<BYTES> {
    /// Two words from `offset` on, whatever they are aligned to.
    #[inline(always)]
    fn words(&self, offset: u32) -> [u64; 2] {
        // SAFETY: the offset is masked to the block, behind which there are two more words.
        unsafe { registers::two_words(self.block, u64::from(offset) & (BYTES as u64 - 1)) }
    }
}

impl<const BYTES: usize> Source for KeptBytes<BYTES> {
    #[inline(always)]
    fn left(&self) -> u32 {
        Job::left(self.skb)
    }

    #[inline(always)]
    fn advance(&mut self, bytes: u32) {
        Job::advance(self.skb, bytes);
    }

    #[inline(always)]
    fn peek(&self, wanted: u32) -> Option<[u64; 2]> {
        let [low, high] = self.words(Job::offset(self.skb));
        // Nothing behind the last byte.
        let mask = |bytes: u32| {
            let bits = 8 * (bytes & 7);
            if bytes >= 8 { u64::MAX } else { (1 << bits) - 1 }
        };
        Some([low & mask(wanted), high & mask(wanted.saturating_sub(8))])
    }
}

impl<const BYTES: usize> Scratches for KeptBytes<BYTES> {
    #[inline(always)]
    fn fill(&self, scratch: *mut Scratch, _: u32) -> bool {
        let from = Job::offset(self.skb);
        for i in (0..CHUNK).step_by(16) {
            let words = self.words(from + i as u32);
            // SAFETY: within the array, whose length is a multiple of 16; the scratch is aligned to eight bytes.
            unsafe {
                let to: *mut u64 = (&raw mut (*scratch).bytes).cast::<u8>().add(i).cast();
                ptr::write_volatile(to, words[0]);
                ptr::write_volatile(to.add(1), words[1]);
            }
        }
        true
    }
}
