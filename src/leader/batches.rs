//! Work cut into batches that one frame of the wire and one lock can bear.

/// Cuts items into batches of up to `most` items and of up to `most_bytes` bytes, in their order. An item of more bytes
/// than that is a batch of its own.
pub(super) fn batches<T>(
    items: impl IntoIterator<Item = T>,
    most: usize,
    most_bytes: u64,
    bytes_of: impl Fn(&T) -> u64,
) -> Vec<Vec<T>> {
    let mut all: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let length = bytes_of(&item);
        match all.last_mut() {
            Some(last) if last.len() < most && length <= most_bytes.saturating_sub(bytes) => {
                bytes += length;
                last.push(item);
            }
            _ => {
                bytes = length;
                all.push(vec![item]);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_items_and_bytes() {
        let cut = |lengths: &[u64], most| batches(lengths.iter().copied(), most, 10, |length| *length);
        assert_eq!(cut(&[], 2), Vec::<Vec<u64>>::new());
        assert_eq!(cut(&[1, 2, 3, 4, 5], 2), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(cut(&[12, 1, 9, 1, 1], 9), [vec![12], vec![1, 9], vec![1, 1]]);
        assert_eq!(cut(&[u64::MAX, u64::MAX], 9), [vec![u64::MAX], vec![u64::MAX]]);
    }
}
