//! The masking of what a client sends.

/// Takes the masking off `bytes`, the first of which `key` begins with; or puts it on.
pub(super) fn apply(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    // Word by word: the compiler makes vectors of it.
    let (words, rest) = bytes.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The key as it begins `taken` bytes later.
pub(super) fn advance(mut key: [u8; 4], taken: usize) -> [u8; 4] {
    key.rotate_left(taken % 4);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_byte_meets_its_byte_of_the_key_wherever_the_payload_is_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            key in any::<[u8; 4]>(),
            cut in 0_usize..100,
        ) {
            let expected: Vec<u8> = bytes.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            let mut masked = bytes.clone();
            let (first, second) = masked.split_at_mut(cut.min(bytes.len()));
            apply(first, key);
            apply(second, advance(key, first.len()));
            prop_assert_eq!(masked, expected);
        }
    }
}
