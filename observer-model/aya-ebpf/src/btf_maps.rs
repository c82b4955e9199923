//! Maps: each static is a name, and the memory is the world's.

use std::{
    borrow::Borrow,
    ffi::c_void,
    marker::PhantomData,
    ptr::{self, NonNull},
    slice,
};

use crate::{
    host::{self, Values},
    programs::EbpfContext,
};

macro_rules! maps {
    ($($(#[$meta:meta])* $name:ident<$($of:ident),*>;)+) => {
        $(
            $(#[$meta])*
            #[derive(Debug)]
            pub struct $name<$($of,)* const MAX_ENTRIES: usize, const FLAGS: usize = 0> {
                // Not of size zero: the address tells maps apart.
                _address: u8,
                of: PhantomData<fn($($of),*)>,
            }

            impl<$($of,)* const MAX_ENTRIES: usize, const FLAGS: usize> $name<$($of,)* MAX_ENTRIES, FLAGS> {
                #[must_use]
                #[expect(clippy::new_without_default, reason = "aya's have none")]
                pub const fn new() -> Self {
                    Self { _address: 0, of: PhantomData }
                }
            }
        )+
    };
}

maps! {
    Array<T>;
    PerCpuArray<T>;
    Queue<T>;
    HashMap<K, V>;
    LruHashMap<K, V>;
    RingBuf<T>;
    ProgramArray<>;
}

impl<T, const MAX_ENTRIES: usize, const FLAGS: usize> Array<T, MAX_ENTRIES, FLAGS> {
    fn element(&self, index: u32) -> Option<NonNull<T>> {
        if index as usize >= MAX_ENTRIES {
            return None;
        }
        let all = host::world(|world| {
            world.values(ptr::from_ref(self).addr(), size_of::<T>() * MAX_ENTRIES)
        });
        // SAFETY: within the allocation, which has room for as many.
        NonNull::new(unsafe { all.cast::<T>().add(index as usize) })
    }

    pub fn get(&self, index: u32) -> Option<&T> {
        host::point();
        // SAFETY: zeroes are a value of whatever is in a map; the world outlives the program.
        self.element(index).map(|element| unsafe { element.as_ref() })
    }

    pub fn get_ptr(&self, index: u32) -> Option<*const T> {
        self.element(index).map(|element| element.as_ptr().cast_const())
    }

    pub fn get_ptr_mut(&self, index: u32) -> Option<*mut T> {
        self.element(index).map(NonNull::as_ptr)
    }
}

impl<T, const MAX_ENTRIES: usize, const FLAGS: usize> PerCpuArray<T, MAX_ENTRIES, FLAGS> {
    pub fn get_ptr_mut(&self, index: u32) -> Option<*mut T> {
        if index as usize >= MAX_ENTRIES {
            return None;
        }
        let place = host::processor() * MAX_ENTRIES + index as usize;
        let bytes = size_of::<T>() * MAX_ENTRIES * host::PROCESSORS;
        let all = host::world(|world| world.values(ptr::from_ref(self).addr(), bytes));
        // SAFETY: within the allocation, which has room for as many.
        Some(unsafe { all.cast::<T>().add(place) })
    }
}

impl<T: Copy, const MAX_ENTRIES: usize, const FLAGS: usize> Queue<T, MAX_ENTRIES, FLAGS> {
    pub fn push(&self, value: impl Borrow<T>, _: u64) -> Result<(), i32> {
        host::point();
        let value: *const u32 = ptr::from_ref(value.borrow()).cast();
        const { assert!(size_of::<T>() == 4) };
        // SAFETY: as long as that.
        let value = unsafe { value.read() };
        host::world(|world| {
            let queue = world.queue(ptr::from_ref(self).addr());
            if queue.len() == MAX_ENTRIES {
                return Err(-7);
            }
            queue.push_back(value);
            Ok(())
        })
    }

    pub fn pop(&self) -> Result<Option<T>, i32> {
        host::point();
        const { assert!(size_of::<T>() == 4) };
        // SAFETY: as long as that, and some plain number.
        let value = |value: u32| unsafe { ptr::from_ref(&value).cast::<T>().read() };
        Ok(host::world(|world| world.queue(ptr::from_ref(self).addr()).pop_front()).map(value))
    }

    /// What is in the queue.
    #[must_use]
    pub fn len(&self) -> usize {
        host::world(|world| world.queue(ptr::from_ref(self).addr()).len())
    }

    /// Whether nothing is in the queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Copy, V: Copy, const MAX_ENTRIES: usize, const FLAGS: usize>
    HashMap<K, V, MAX_ENTRIES, FLAGS>
{
    fn key(key: &K) -> Vec<u8> {
        // SAFETY: keys have no padding, or the kernel would not find them.
        unsafe { slice::from_raw_parts(ptr::from_ref(key).cast::<u8>(), size_of::<K>()) }.to_vec()
    }

    pub unsafe fn get(&self, key: impl Borrow<K>) -> Option<&V> {
        // SAFETY: values of this type were put in; the world outlives the program.
        self.get_ptr_mut(key).map(|value| unsafe { &*value })
    }

    pub fn get_ptr_mut(&self, key: impl Borrow<K>) -> Option<*mut V> {
        host::point();
        let key = Self::key(key.borrow());
        host::world(|world| {
            world.hash(ptr::from_ref(self).addr()).get_mut(&key).map(|v| v.as_ptr().cast())
        })
    }

    pub fn insert(&self, key: impl Borrow<K>, value: impl Borrow<V>, _: u64) -> Result<(), i32> {
        host::point();
        let key = Self::key(key.borrow());
        host::world(|world| {
            let all = world.hash(ptr::from_ref(self).addr());
            if all.len() == MAX_ENTRIES || all.contains_key(&key) {
                return Err(-17);
            }
            let room = Values::new(size_of::<V>());
            // SAFETY: as large.
            unsafe { room.as_ptr().cast::<V>().write(*value.borrow()) };
            all.insert(key, room);
            Ok(())
        })
    }
}

/// Nothing stays in it: that is allowed.
impl<K, V, const MAX_ENTRIES: usize, const FLAGS: usize> LruHashMap<K, V, MAX_ENTRIES, FLAGS> {
    pub unsafe fn get(&self, _: impl Borrow<K>) -> Option<&V> {
        None
    }

    pub fn insert(&self, _: impl Borrow<K>, _: impl Borrow<V>, _: u64) -> Result<(), i32> {
        Ok(())
    }

    pub fn remove(&self, _: impl Borrow<K>) -> Result<(), i32> {
        Err(-2)
    }
}

/// An entry of a ring buffer; nobody reads it.
#[derive(Debug)]
pub struct RingBufEntry<T>(PhantomData<T>);

impl<T> RingBufEntry<T> {
    pub fn write(&mut self, _: T) {}

    pub fn submit(self, _: u64) {}
}

impl<T, const MAX_ENTRIES: usize, const FLAGS: usize> RingBuf<T, MAX_ENTRIES, FLAGS> {
    pub fn reserve(&self, _: u64) -> Option<RingBufEntry<T>> {
        Some(RingBufEntry(PhantomData))
    }
}

impl<const MAX_ENTRIES: usize, const FLAGS: usize> ProgramArray<MAX_ENTRIES, FLAGS> {
    pub unsafe fn tail_call<C: EbpfContext>(&self, ctx: &C, index: u32) {
        let _: *mut c_void = ctx.as_ptr();
        host::tail_call(index);
    }
}
