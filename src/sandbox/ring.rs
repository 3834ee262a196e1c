//! Keeps the latest items, bounded in number and in bytes, so that a long run cannot use up the memory.

use std::collections::VecDeque;

/// The most items that are kept.
const ITEMS_MAX: usize = 100_000;
/// The most bytes of bodies that are kept, whatever their number.
const BYTES_MAX: usize = 128 * 1024 * 1024;

/// The latest items that were pushed.
#[derive(Debug)]
pub(super) struct Ring<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
}

impl<T> Ring<T> {
    pub(super) fn new() -> Self {
        Self { items: VecDeque::new(), bytes: 0 }
    }

    /// Adds an item that takes about `bytes`, and drops the oldest items if there are too many.
    pub(super) fn push(&mut self, item: T, bytes: usize) {
        self.items.push_back((bytes, item));
        self.bytes = self.bytes.saturating_add(bytes);
        while self.items.len() > ITEMS_MAX || self.bytes > BYTES_MAX {
            let Some((gone, _)) = self.items.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }

    /// Returns the latest item for which `is_it` is true, searching from the newest.
    pub(super) fn find_mut(&mut self, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        self.items.iter_mut().rev().map(|(_, item)| item).find(|item| is_it(item))
    }

    /// Returns the items, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|(_, item)| item)
    }
}

impl<T: Clone> Ring<T> {
    pub(super) fn to_vec(&self) -> Vec<T> {
        self.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_latest_within_both_bounds() {
        let mut by_number = Ring::new();
        for n in 0..=ITEMS_MAX {
            by_number.push(n, 1);
        }
        assert_eq!(by_number.iter().count(), ITEMS_MAX);
        assert_eq!(by_number.iter().next(), Some(&1));

        let mut by_bytes = Ring::new();
        for n in 0..4 {
            by_bytes.push(n, BYTES_MAX / 3);
        }
        assert_eq!(by_bytes.to_vec(), [1, 2, 3]);
    }
}
