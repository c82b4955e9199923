//! What a faulty network does to packets.

use std::collections::HashMap;

use super::packet::{RST, SYN, parse};

/// Shares of the packets of each connection that meet a fault. Handshakes and resets pass: their loss is a scenario of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Faults {
    pub(crate) lost: f64,
    pub(crate) doubled: f64,
    pub(crate) late: f64,
    /// Packets of the same connection that overtake a late one at most.
    pub(crate) overtaken_by: u8,
}

impl Faults {
    /// Some of each.
    pub(crate) const SOME: Self =
        Self { lost: 1.0 / 31.0, doubled: 1.0 / 17.0, late: 1.0 / 7.0, overtaken_by: 1 };

    /// The usual disorder, with this share of loss.
    pub(crate) const fn losing(lost: f64) -> Self {
        Self { lost, doubled: 0.02, late: 0.1, overtaken_by: 8 }
    }
}

/// One direction of a faulty network.
#[derive(Default)]
pub(super) struct Network {
    random: fastrand::Rng,
    /// By ports.
    late: HashMap<(u16, u16), Vec<Late>>,
}

struct Late {
    packet: Vec<u8>,
    /// Packets that will still overtake it.
    by: u8,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), late: HashMap::new() }
    }

    /// Lets a packet pass, or not.
    pub(super) fn pass(&mut self, faults: Faults, packet: Vec<u8>, mut put: impl FnMut(&[u8])) {
        let random = &mut self.random;
        let fragile = parse(&packet).filter(|segment| segment.flags & (SYN | RST) == 0);
        let Some(ports) = fragile.map(|segment| (segment.source.1, segment.target.1)) else {
            return put(&packet);
        };
        if random.f64() < faults.lost {
            return;
        }
        if random.f64() < faults.late {
            let by = random.u8(1..=faults.overtaken_by);
            return self.late.entry(ports).or_default().push(Late { packet, by });
        }
        put(&packet);
        if random.f64() < faults.doubled {
            put(&packet);
        }
        let Some(late) = self.late.get_mut(&ports) else { return };
        for late in &mut *late {
            late.by -= 1;
        }
        late.extract_if(.., |late| late.by == 0).for_each(|late| put(&late.packet));
        if late.is_empty() {
            self.late.remove(&ports);
        }
    }

    /// Lets everything pass that is late: nothing comes any more that could overtake it.
    pub(super) fn rest(&mut self, mut put: impl FnMut(&[u8])) {
        for (_, late) in self.late.drain() {
            for Late { packet, .. } in late {
                put(&packet);
            }
        }
    }
}
