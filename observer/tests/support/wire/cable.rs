//! A cable between two namespaces, with a thread in the middle that decides what arrives.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    faults::{Faults, Network},
    tun::{LEFT_V4, LEFT_V6, MTU, RIGHT_V4, RIGHT_V6, Tun},
};
use crate::support::{netns::NetnsPair, poll::poll};

/// Between two looks at the devices when nothing came: far below TCP's shortest timer.
const PAUSE: Duration = Duration::from_micros(200);

/// An acknowledgement is delayed by less, and a retransmission comes sooner (`TCP_DELACK_MAX`, `TCP_RTO_MIN`).
const QUIET: Duration = Duration::from_millis(300);
/// How long it may take until all is acknowledged.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the cable does to packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Condition {
    /// All arrive.
    Sound,
    /// None arrives.
    Cut,
    /// None arrives now; all do, in order, when the condition changes.
    Held,
    /// Some are lost, come twice, or late.
    Faulty(Faults),
}

/// The cable. It goes, with its devices, when dropped.
pub(crate) struct Cable {
    condition: Arc<Mutex<Condition>>,
    last: Arc<Mutex<Instant>>,
    over: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Cable {
    /// Joins `tun0` of the two namespaces, whose addresses are `LEFT_…` in `a` and `RIGHT_…` in `b`.
    pub(crate) fn new(namespaces: &NetnsPair) -> Self {
        Self::with_mtu(namespaces, MTU)
    }

    /// As [`Self::new`], for packets of that size.
    pub(crate) fn with_mtu(namespaces: &NetnsPair, mtu: usize) -> Self {
        let ends = [
            Tun::with(&namespaces.a, LEFT_V4, LEFT_V6, mtu),
            Tun::with(&namespaces.b, RIGHT_V4, RIGHT_V6, mtu),
        ];
        let condition = Arc::new(Mutex::new(Condition::Sound));
        let over = Arc::new(AtomicBool::new(false));
        let last = Arc::new(Mutex::new(Instant::now()));
        let carrier = thread::spawn({
            let (condition, last) = (Arc::clone(&condition), Arc::clone(&last));
            let over = Arc::clone(&over);
            move || carry(&ends, &condition, &last, &over)
        });
        Self { condition, last, over, carrier: Some(carrier) }
    }

    /// Waits until nothing is under way any more, acknowledgements included.
    pub(crate) fn rest(&self) -> Result<()> {
        let quiet = || {
            let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
            (last.elapsed() > QUIET).then_some(())
        };
        poll(PATIENCE, quiet).context("the cable does not come to rest")
    }

    /// From now on.
    pub(crate) fn set(&self, condition: Condition) {
        *self.condition.lock().unwrap_or_else(PoisonError::into_inner) = condition;
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

fn carry(ends: &[Tun; 2], condition: &Mutex<Condition>, last: &Mutex<Instant>, over: &AtomicBool) {
    // What comes from each end.
    let mut held: [Vec<Vec<u8>>; 2] = Default::default();
    let mut networks = [Network::new(0), Network::new(1)];
    let now = || *condition.lock().unwrap_or_else(PoisonError::into_inner);
    while !over.load(Ordering::Relaxed) {
        let mut idle = true;
        for from in 0..2 {
            let condition = now();
            let to = &ends[1 - from];
            // A packet that the device refuses is lost, as on any cable.
            let put = |packet: &[u8]| drop(to.put(packet));
            if condition != Condition::Held {
                for packet in &mem::take(&mut held[from]) {
                    put(packet);
                }
            }
            if !matches!(condition, Condition::Faulty(_)) {
                networks[from].rest(put);
            }
            let Some(packet) = ends[from].next() else {
                networks[from].rest(put);
                continue;
            };
            idle = false;
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            // As it is now: what was sent after a change meets that.
            match now() {
                Condition::Sound => put(&packet),
                Condition::Cut => {}
                Condition::Held => held[from].push(packet),
                Condition::Faulty(faults) => networks[from].pass(faults, packet, put),
            }
        }
        if idle {
            thread::sleep(PAUSE);
        }
    }
}
