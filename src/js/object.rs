//! Objects as JavaScript holds them: keys keep the order in which they first appeared.
//!
//! Nearly every object of a message has a handful of keys. For so few, a list that is searched from its start
//! is smaller and faster than a hash table, whose hash must also withstand keys chosen to collide. So a table
//! takes over only where a search would become long.

use indexmap::IndexMap;

/// An object with more keys is looked up by hash.
const LISTED_MAX: usize = 16;

/// The keys and values of an object; of a key given twice, the last value.
#[derive(Debug, Clone)]
pub struct Map<V>(Entries<V>);

#[derive(Debug, Clone)]
enum Entries<V> {
    /// At most [`LISTED_MAX`] of them.
    Listed(Vec<(String, V)>),
    /// Boxed, because it is larger than all other kinds of values.
    Hashed(Box<IndexMap<String, V>>),
}

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self(Entries::Listed(Vec::new()))
    }
}

impl<V> Map<V> {
    /// Makes an empty object.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&V> {
        match &self.0 {
            Entries::Listed(list) => {
                list.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            Entries::Hashed(map) => map.get(key),
        }
    }

    /// Returns the value of `key`, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut V> {
        match &mut self.0 {
            Entries::Listed(list) => {
                list.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            Entries::Hashed(map) => map.get_mut(key),
        }
    }

    /// Whether `key` is there, whatever its value.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets `key`; a new key goes to the end, a known one keeps its position.
    pub fn insert(&mut self, key: impl AsRef<str> + Into<String>, value: V) {
        if let Some(known) = self.get_mut(key.as_ref()) {
            *known = value;
            return;
        }
        match &mut self.0 {
            Entries::Listed(list) if list.len() < LISTED_MAX => list.push((key.into(), value)),
            Entries::Listed(list) => {
                let mut map: IndexMap<String, V> = std::mem::take(list).into_iter().collect();
                map.insert(key.into(), value);
                self.0 = Entries::Hashed(Box::new(map));
            }
            Entries::Hashed(map) => {
                map.insert(key.into(), value);
            }
        }
    }

    /// Removes `key` and returns its value; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<V> {
        match &mut self.0 {
            Entries::Listed(list) => {
                let index = list.iter().position(|(name, _)| name == key)?;
                Some(list.remove(index).1)
            }
            Entries::Hashed(map) => map.shift_remove(key),
        }
    }

    /// Keeps the entries for which `keep` returns true, in one pass.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut V) -> bool) {
        match &mut self.0 {
            Entries::Listed(list) => list.retain_mut(|(key, value)| keep(key, value)),
            Entries::Hashed(map) => map.retain(|key, value| keep(key, value)),
        }
    }

    /// Frees unused capacity.
    pub(super) fn shrink_to_fit(&mut self) {
        match &mut self.0 {
            Entries::Listed(list) => list.shrink_to_fit(),
            Entries::Hashed(map) => map.shrink_to_fit(),
        }
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        match &self.0 {
            Entries::Listed(list) => list.len(),
            Entries::Hashed(map) => map.len(),
        }
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Iterates over the entries in the order in which JavaScript lists them: array indices first, by number,
    /// then all other keys in the order in which they first appeared.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        if self.keys().any(|key| array_index(key).is_some()) {
            let mut sorted: Vec<(&str, &V)> = self.unsorted().collect();
            sort_entries(&mut sorted);
            return Iter::Sorted(sorted.into_iter());
        }
        self.unsorted()
    }

    /// Iterates over the keys in the order in which they first appeared.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.unsorted().map(|(key, _)| key)
    }

    /// Returns the entries in the order in which JavaScript lists them.
    pub fn into_entries(self) -> Vec<(String, V)> {
        let mut entries = match self.0 {
            Entries::Listed(list) => list,
            Entries::Hashed(map) => map.into_iter().collect(),
        };
        sort_entries(&mut entries);
        entries
    }

    fn unsorted(&self) -> Iter<'_, V> {
        match &self.0 {
            Entries::Listed(list) => Iter::Listed(list.iter()),
            Entries::Hashed(map) => Iter::Hashed(map.iter()),
        }
    }
}

impl<V> FromIterator<(String, V)> for Map<V> {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(entries: I) -> Self {
        let mut object = Self::new();
        for (key, value) in entries {
            object.insert(key, value);
        }
        object
    }
}

/// Two objects are equal if they have equal values under the same keys, in whatever order.
impl<V: PartialEq> PartialEq for Map<V> {
    fn eq(&self, other: &Self) -> bool {
        let is_in_other = |(key, value)| other.get(key) == Some(value);
        self.len() == other.len() && self.unsorted().all(is_in_other)
    }
}

enum Iter<'a, V> {
    Listed(std::slice::Iter<'a, (String, V)>),
    Hashed(indexmap::map::Iter<'a, String, V>),
    Sorted(std::vec::IntoIter<(&'a str, &'a V)>),
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a str, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Iter::Listed(list) => list.next().map(|(key, value)| (key.as_str(), value)),
            Iter::Hashed(map) => map.next().map(|(key, value)| (key.as_str(), value)),
            Iter::Sorted(sorted) => sorted.next(),
        }
    }
}

/// Brings entries into the order in which JavaScript lists them: array indices first, by number, all others in
/// the order in which they first appeared.
pub fn sort_entries<K: AsRef<str>, V>(entries: &mut [(K, V)]) {
    if entries.iter().any(|(key, _)| array_index(key.as_ref()).is_some()) {
        // Stable, and `None` must come last: hence the pair of "has no index" and the index.
        entries.sort_by_key(|(key, _)| {
            array_index(key.as_ref()).map_or((true, 0), |index| (false, index))
        });
    }
}

/// Returns the index that a key is: 0 to 4294967294 in its shortest form, `1` and not `01`.
pub fn array_index(key: &str) -> Option<usize> {
    let bytes = key.as_bytes();
    let shortest = match bytes {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => bytes.len() <= 10 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !shortest {
        return None;
    }
    let index = key.parse::<u32>().ok().filter(|index| *index != u32::MAX)?;
    usize::try_from(index).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::js::{Object, Value};

    #[test]
    fn whole_number_keys_come_first() {
        let object: Object = ["b", "10", "2", "01", "a", "4294967295"]
            .into_iter()
            .map(|key| (key.to_owned(), Value::Null))
            .collect();
        let keys: Vec<&str> = object.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["2", "10", "b", "01", "a", "4294967295"]);
    }

    #[derive(Debug, Clone)]
    enum Change {
        Insert(u8, u8),
        Remove(u8),
        RetainBelow(u8),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        // More keys than are listed, so that both forms and the passage between them are seen.
        let key = 0..40_u8;
        let change = prop_oneof![
            20 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Change::Insert(key, value)),
            5 => key.clone().prop_map(Change::Remove),
            1 => key.prop_map(Change::RetainBelow),
        ];
        proptest::collection::vec(change, 0..100)
    }

    proptest! {
        #[test]
        fn an_object_of_any_size_keeps_its_keys_in_order(changes in changes()) {
            let name = |key: u8| format!("k{key}");
            let number = |value: u8| Value::Number(f64::from(value));
            let mut object = Object::new();
            let mut model: Vec<(u8, u8)> = Vec::new();
            for change in changes {
                match change {
                    Change::Insert(key, value) => {
                        object.insert(name(key), number(value));
                        match model.iter_mut().find(|(known, _)| *known == key) {
                            Some(known) => known.1 = value,
                            None => model.push((key, value)),
                        }
                    }
                    Change::Remove(key) => {
                        let index = model.iter().position(|(known, _)| *known == key);
                        let removed = index.map(|index| number(model.remove(index).1));
                        prop_assert_eq!(object.remove(&name(key)), removed);
                    }
                    Change::RetainBelow(limit) => {
                        object.retain(|key, _| key[1..].parse::<u8>().unwrap() < limit);
                        model.retain(|(key, _)| *key < limit);
                    }
                }
                prop_assert_eq!(object.len(), model.len());
            }
            for key in 0..40 {
                let known = model.iter().find(|(known, _)| *known == key);
                let value = known.map(|(_, value)| number(*value));
                prop_assert_eq!(object.get(&name(key)), value.as_ref());
                prop_assert_eq!(object.get_mut(&name(key)).map(|value| value.clone()), value);
            }
            let entries: Vec<(String, Value)> =
                model.iter().map(|(key, value)| (name(*key), number(*value))).collect();
            let listed: Vec<(String, Value)> =
                object.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
            prop_assert_eq!(&listed, &entries);
            let backwards: Object = entries.iter().rev().cloned().collect();
            prop_assert_eq!(&object, &backwards);
            prop_assert_eq!(object.into_entries(), entries);
        }
    }
}
