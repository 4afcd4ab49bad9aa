//! The size of the server's compact encoding of a list in bytes. Only the size matters here: it decides after how many
//! entries a stream begins a new node, and so how much an approximate trim leaves.

use super::number;

/// The header and the end mark of an empty list.
pub(super) const EMPTY: usize = 7;

/// The size of a string; a string that parses as an integer is stored as one.
pub(super) fn string(bytes: &[u8]) -> usize {
    let short_enough = bytes.len() <= 20;
    if let Some(number) = short_enough.then(|| number::integer(bytes).ok()).flatten() {
        return integer(number);
    }
    let length = bytes.len();
    let head = match length {
        0..64 => 1,
        64..4096 => 2,
        _ => 5,
    };
    with_back_length(head + length)
}

/// The size of an integer.
pub(super) fn integer(number: i64) -> usize {
    with_back_length(match number {
        0..=127 => 1,
        -4096..=4095 => 2,
        -32_768..=32_767 => 3,
        -8_388_608..=8_388_607 => 4,
        -2_147_483_648..=2_147_483_647 => 5,
        _ => 9,
    })
}

/// Every element is followed by its own length, so that the list can be walked backwards.
const fn with_back_length(length: usize) -> usize {
    length
        + match length {
            0..=127 => 1,
            128..16_383 => 2,
            16_383..2_097_151 => 3,
            2_097_151..268_435_455 => 4,
            _ => 5,
        }
}
