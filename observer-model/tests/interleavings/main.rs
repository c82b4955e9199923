//! Every received byte, exactly: the receive path of the kernel programs, driven by two processors that interfere with each
//! other at every point at which they can. Small cases in every interleaving with at most two switches away from a processor
//! that could go on; large ones, over a network that loses, doubles and reorders, at random.

mod cases;
mod network;

use cases::{Case, Step, every_interleaving, stream};
use observer_model::{
    fault::{self, Fault},
    processors::Random,
    world::{REQUEST, Room},
};

/// A stream of few frames, and where its frames start and it ends, the FIN included.
fn few() -> (Vec<u8>, u64, usize, usize) {
    let (bytes, messages) = stream([3, 0, 10, 200]);
    let end = bytes.len() + 1;
    (bytes, messages, REQUEST.len(), end)
}

fn case(segments: [Vec<Step>; 2]) -> Case {
    let (bytes, messages, start, _) = few();
    let before = vec![Step::Deliver(0, start)];
    Case { bytes, messages, before, steps: segments, ..Case::new() }
}

#[test]
fn segments_on_two_processors() {
    use Step::Deliver;
    let (_, _, start, end) = few();
    // In a header, in a frame, at the end of one.
    for (one, other) in [(start + 4, start + 30), (start + 9, start + 15), (start + 40, start + 41)]
    {
        every_interleaving(|| {
            case([vec![Deliver(start, one)], vec![Deliver(one, other), Deliver(other, end)]])
        });
        every_interleaving(|| {
            case([vec![Deliver(other, end)], vec![Deliver(start, one), Deliver(one, other)]])
        });
        // Overlapping, and sent again.
        every_interleaving(|| {
            case([vec![Deliver(start, other)], vec![Deliver(one, end), Deliver(start, one)]])
        });
    }
}

#[test]
fn a_request_and_what_comes_with_it() {
    use Step::Deliver;
    let (_, _, start, end) = few();
    for cut in [start - 10, start, start + 5] {
        every_interleaving(|| Case {
            before: Vec::new(),
            ..case([vec![Deliver(0, cut)], vec![Deliver(cut, end)]])
        });
    }
}

#[test]
fn what_completes_the_handshake() {
    use Step::{Deliver, Establish};
    let (_, _, start, end) = few();
    for first in [start, start + 5] {
        every_interleaving(|| Case {
            before: Vec::new(),
            first: Some(first),
            ..case([vec![Establish(first)], vec![Deliver(first, end)]])
        });
    }
}

#[test]
fn both_directions() {
    use Step::{Deliver, Send};
    let (_, _, start, end) = few();
    every_interleaving(|| {
        case([vec![Deliver(start + 4, end)], vec![Deliver(start, start + 4), Send(vec![0, 200])]])
    });
    every_interleaving(|| case([vec![Deliver(start, end)], vec![Send(vec![1]), Send(vec![2, 3])]]));
}

/// What the tests above find if a claim is given up blindly, or taken twice.
#[test]
fn faults_are_found() {
    use Step::Deliver;
    let (_, _, start, end) = few();
    for fault in [Fault::BlindRelease, Fault::SharedClaim] {
        fault::set(Some(fault));
        let found = cases::first_failure(|| {
            case([vec![Deliver(start, start + 4)], vec![Deliver(start + 4, end)]])
        });
        fault::set(None);
        assert!(found.is_some(), "{fault:?} is not found");
    }
}

/// Runs random cases; `exact`: none may lose track.
fn fuzz(count: u64, processors: bool, loss: f64, exact: bool) {
    // Another part of the cases in each run, unless one is asked for.
    let chosen = std::env::var("OBSERVER_MODEL_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = chosen.unwrap_or_else(|| fastrand::u64(..));
    let count = if chosen.is_some() { 1 } else { count };
    let mut failures = Vec::new();
    for seed in (0..count).map(|number| first.wrapping_add(number)) {
        let mut random = fastrand::Rng::with_seed(seed);
        let room = if exact { Room::ALL } else { Room { entries: 12, small: 6, large: 1 } };
        let case = network::case(&mut random, room, processors, loss, exact);
        if let Err(error) = case.run(&mut Random::new(seed, random.u32(1..40))) {
            failures.push(format!("OBSERVER_MODEL_SEED={seed}: {error}"));
        }
    }
    let few: Vec<_> = failures.iter().take(5).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} of {count} failed:\n{}", failures.len(), few.join("\n"));
}

#[test]
fn one_processor_over_a_faulty_network() {
    fuzz(500, false, 0.05, true);
}

#[test]
fn two_processors_over_a_sound_network() {
    fuzz(500, true, 0.0, true);
}

#[test]
fn two_processors_over_a_faulty_network() {
    fuzz(500, true, 0.05, true);
}

/// Streams lose track, but no byte is wrong, and no error invented.
#[test]
fn without_room() {
    fuzz(500, true, 0.2, false);
}
