//! Which endpoint takes the next request.
//!
//! Owns the choice and nothing else: pure, from loads to an index. A load of `None` is that of an endpoint that takes no
//! new work.

/// The index in `0..count` with the least load, and that load.
///
/// Ties go to the first at or behind `turn` (modulo `count`): a caller that counts `turn` up spreads them evenly.
pub(crate) fn least_loaded<L: Ord>(
    count: usize,
    turn: usize,
    load: impl Fn(usize) -> Option<L>,
) -> Option<(usize, L)> {
    let start = turn.checked_rem(count)?;
    let mut best: Option<(usize, L)> = None;
    for index in (start..count).chain(0..start) {
        if let Some(load) = load(index)
            && best.as_ref().is_none_or(|(_, least)| load < *least)
        {
            best = Some((index, load));
        }
    }
    best
}

/// The less loaded of two in `0..count` that `turn` picks as if by chance, or of all, where there are no more than two or
/// neither of the two takes work.
///
/// Nearly as even as the least loaded of all, but two loads are read and not `count`; and callers that look at the same
/// moment do not all run to the same one.
pub(crate) fn less_loaded_of_two<L: Ord>(
    count: usize,
    turn: usize,
    load: impl Fn(usize) -> Option<L>,
) -> Option<(usize, L)> {
    if count > 2 {
        let (one, other) = pair(count, turn);
        let best = match (load(one), load(other)) {
            (Some(load), Some(less)) if less < load => Some((other, less)),
            (Some(load), _) => Some((one, load)),
            (None, load) => load.map(|load| (other, load)),
        };
        if best.is_some() {
            return best;
        }
    }
    least_loaded(count, turn, load)
}

/// The index in `0..count` of the greatest weight.
pub(crate) fn heaviest(count: usize, weight: impl Fn(usize) -> Option<u64>) -> Option<usize> {
    (0..count).filter_map(|index| Some((weight(index)?, index))).max().map(|(_, index)| index)
}

/// Two different indices in `0..count`; `count` is at least 2.
fn pair(count: usize, turn: usize) -> (usize, usize) {
    let random = mix(turn as u64);
    // The upper half of the product of a number below 2³² with `n` is evenly spread below `n`.
    let below = |random: u64, n: usize| (((random & 0xffff_ffff) * n as u64) >> 32) as usize;
    let one = below(random >> 32, count);
    let other = (one + 1 + below(random, count - 1)) % count;
    (one, other)
}

/// Makes successive numbers look random (the finish of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(turn: usize, loads: &[Option<usize>]) -> Option<usize> {
        least_loaded(loads.len(), turn, |index| loads[index]).map(|(index, _)| index)
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

    #[test]
    fn two_are_two_different_ones_and_each_is_as_likely() {
        for count in 3..20 {
            let mut taken = vec![0_usize; count];
            for turn in 0..count * 1_000 {
                let (one, other) = pair(count, turn);
                assert_ne!(one, other);
                taken[one] += 1;
                taken[other] += 1;
            }
            assert!(taken.iter().all(|taken| (1_850..2_150).contains(taken)), "{taken:?}");
        }
    }

    #[test]
    fn the_less_loaded_of_two_is_near_the_least_loaded_of_all() {
        let mut loads = [0_usize; 16];
        for turn in 0..16_000 {
            let (index, load) = less_loaded_of_two(loads.len(), turn, |index| Some(loads[index])).unwrap();
            assert_eq!(load, loads[index]);
            loads[index] += 1;
        }
        assert!(loads.iter().all(|load| load.abs_diff(1_000) <= 5), "{loads:?}");
    }

    #[test]
    fn the_only_endpoint_that_takes_work_is_always_found() {
        for count in 1..9 {
            for free in 0..count {
                for turn in 0..50 {
                    let load = |index| (index == free).then_some(7);
                    assert_eq!(less_loaded_of_two(count, turn, load), Some((free, 7)));
                    assert_eq!(heaviest(count, load), Some(free));
                }
            }
            assert_eq!(less_loaded_of_two(count, 3, |_| None::<usize>), None);
        }
    }
}
