//! Which endpoint takes the next request.
//!
//! Owns the choice and nothing else: pure, from loads to an index.

/// The index in `0..count` with the least load; `load` gives `None` for an endpoint that takes no new work.
///
/// Ties go to the first at or behind `turn` (modulo `count`): a caller that counts `turn` up spreads them evenly.
pub(crate) fn least_loaded(
    count: usize,
    turn: usize,
    load: impl Fn(usize) -> Option<usize>,
) -> Option<usize> {
    let start = turn.checked_rem(count)?;
    let mut best: Option<(usize, usize)> = None;
    for index in (start..count).chain(0..start) {
        match load(index) {
            Some(0) => return Some(index),
            Some(load) if best.is_none_or(|(least, _)| load < least) => best = Some((load, index)),
            _ => {}
        }
    }
    best.map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(turn: usize, loads: &[Option<usize>]) -> Option<usize> {
        least_loaded(loads.len(), turn, |index| loads[index])
    }

    #[test]
    fn the_least_loaded_endpoint_is_chosen_and_a_draining_one_never() {
        for (turn, loads, chosen) in [
            (0, &[][..], None),
            (7, &[Some(3)][..], Some(0)),
            (0, &[Some(2), Some(1), Some(3)], Some(1)),
            (2, &[Some(2), Some(1), Some(3)], Some(1)),
            (0, &[None, Some(9)], Some(1)),
            (1, &[None, None], None),
            (0, &[None, Some(0), Some(0)], Some(1)),
            (2, &[None, Some(0), Some(0)], Some(2)),
        ] {
            assert_eq!(choose(turn, loads), chosen, "turn {turn}, {loads:?}");
        }
    }

    #[test]
    fn ties_are_spread_evenly() {
        for load in [0, 5] {
            let mut taken = [0; 3];
            for turn in 0..300 {
                taken[choose(turn, &[Some(load); 3]).unwrap()] += 1;
            }
            assert_eq!(taken, [100; 3]);
        }
    }
}
