//! A network that loses, doubles and delays, and a client that sends again what was lost.

use observer_model::world::{REQUEST, Room};

use crate::cases::{Case, Step, stream};

/// Segments in the order in which they arrive.
fn arrivals(
    random: &mut fastrand::Rng,
    start: usize,
    length: usize,
    largest: usize,
    loss: f64,
    overtaken_by: u64,
) -> Vec<(usize, usize)> {
    let mut under_way: Vec<(u64, (usize, usize))> = Vec::new();
    let (mut at, mut time) = (start, 0);
    while at <= length {
        let to = (at + random.usize(1..=largest)).min(length + 1);
        let mut when = time;
        // Each try takes a while.
        while random.f64() < loss {
            when += random.u64(3..60);
        }
        let late = if random.u8(0..7) == 0 { random.u64(0..=overtaken_by) } else { 0 };
        under_way.push((2 * (when + late), (at, to)));
        if random.u8(0..17) == 0 {
            // Doubled, or sent again without need, in other pieces.
            let back = random.usize(0..=largest - (to - at));
            let from = at.saturating_sub(back).max(start);
            under_way.push((2 * (when + random.u64(0..9)) + 1, (from, to)));
        }
        at = to;
        time += 1;
    }
    under_way.sort_by_key(|(when, _)| *when);
    under_way.into_iter().map(|(_, segment)| segment).collect()
}

/// A connection over it. Without `exact` there may not be room for what comes early.
pub(crate) fn case(
    random: &mut fastrand::Rng,
    room: Room,
    processors: bool,
    loss: f64,
    exact: bool,
) -> Case {
    let largest = [20, 300, 1_500, 20_000][random.usize(0..4)];
    let segment = [60, 1_448, 65_483][random.usize(0..3)];
    // No more than there is room for if all of it comes early.
    let segments = if segment > 2_000 { 15 } else { 100 };
    let count = random.usize(1..=200.min(segments * segment / (largest + 6)).max(1));
    let (bytes, messages) = stream((0..count).map(|_| random.usize(0..=largest)));
    let overtaken_by = random.u64(0..=8);
    // Now and then the first segment, of whatever size, completes the handshake.
    let first = (random.u8(0..4) == 0)
        .then(|| bytes.len().min(REQUEST.len() + random.usize(0..=segment.min(65_000))));
    let start = first.unwrap_or(REQUEST.len());
    let mut steps = [Vec::new(), Vec::new()];
    let mut on = 0;
    for (from, to) in arrivals(random, start, bytes.len(), segment, loss, overtaken_by) {
        if processors && random.u8(0..4) == 0 {
            on = 1 - on;
        }
        steps[on].push(Step::Deliver(from, to));
        if random.u8(0..8) == 0 {
            steps[on]
                .push(Step::Send((0..random.usize(1..9)).map(|_| random.usize(0..300)).collect()));
        }
    }
    Case {
        room,
        bytes,
        messages,
        before: vec![first.map_or(Step::Deliver(0, start), Step::Establish)],
        first,
        steps,
        acknowledge: random.bool(),
        exact,
        prompt: false,
    }
}
