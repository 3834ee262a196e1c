//! Sorts the values into tables, in the order of the documentation.

use std::collections::BTreeMap;

use toml::Table;

use super::documented::{fixed_tables, named_table};
use super::hiding::{HIDDEN, SECRETS, shown, subscriptions};
use super::values::{Keys, Misplaced, Path, Shown, is_of_tables, names};

/// The keys of `[sources.NAME]` without a default.
pub(super) const SOURCE_UNSET: [&str; 6] =
    ["write_keys", "webhook_secrets", "webhook_tokens", "destination", "origins", "silent_after_s"];

/// The keys that only browser sources may have.
const OF_BROWSERS: [&str; 3] = ["address_requests_max", "address_bytes_max", "allow_delete"];

/// The keys of `[destinations.NAME]` without a default.
pub(super) const DESTINATION_UNSET: [&str; 7] = [
    "api_key",
    "rate",
    "loops_webhook_secrets",
    "loops_webhook_forward",
    "consent_categories",
    "subscriptions_files",
    "subscriptions",
];

/// Sorts the values into their tables, adds the keys that are not set, and hides the secrets. Also returns the keys that
/// have no place among them.
pub(super) fn tables(mut values: BTreeMap<Path, Shown>) -> (Vec<(Path, Keys)>, Vec<Misplaced>) {
    let mut tables: Vec<(Path, Keys)> = Vec::new();
    let documented = fixed_tables();
    for (name, documented) in &documented {
        tables.push((vec![name.clone()], take(&mut values, &[name], documented, &[])));
    }
    let destinations = names(&values, "destinations");
    for name in names(&values, "sources") {
        let path = ["sources", name.as_str()];
        let is_browser = values
            .get(&[path[0], path[1], "browser"].map(str::to_owned)[..])
            .is_some_and(|shown| ["true", "\"true\""].contains(&&*shown.value.to_string()));
        let mut documented = named_table("sources");
        documented.retain(|key, _| is_browser || !OF_BROWSERS.contains(&key));
        let mut unset = SOURCE_UNSET.to_vec();
        if let [only] = destinations.iter().collect::<Vec<_>>()[..] {
            documented.insert("destination".to_owned(), only.clone().into());
            unset.retain(|key| *key != "destination");
        }
        tables.push((
            path.map(str::to_owned).to_vec(),
            take(&mut values, &path, &documented, &unset),
        ));
    }
    for name in &destinations {
        let path = ["destinations", name.as_str()];
        let documented = named_table("destinations");
        let keys = take(&mut values, &path, &documented, &DESTINATION_UNSET);
        tables.push((path.map(str::to_owned).to_vec(), keys));
    }
    if let Some(shown) = values.remove(&["subscriptions".to_owned()][..]) {
        let shown = Shown { value: subscriptions(shown.value), ..shown };
        tables.push((Vec::new(), vec![("subscriptions".to_owned(), Some(shown))]));
    }
    // Keys that the program does not know.
    let mut misplaced = Vec::new();
    for (mut path, shown) in values {
        if !has_place(&mut tables, &path) {
            misplaced.push((path, shown.origin));
            continue;
        }
        let Some(key) = path.pop() else { continue };
        let shown = Some(Shown { value: HIDDEN.into(), ..shown });
        let has_arrays = |keys: &Keys| keys.iter().any(|(_, shown)| is_of_tables(shown.as_ref()));
        // Values without a table do not fit behind arrays of tables.
        let fits = |(table, keys): &&mut (Path, Keys)| {
            *table == path && !(table.is_empty() && has_arrays(keys))
        };
        match tables.iter_mut().find(fits) {
            Some((_, keys)) => keys.push((key, shown)),
            None => tables.push((path, vec![(key, shown)])),
        }
    }
    // TOML requires values without a table to come first. Arrays of tables come last.
    tables.sort_by_key(|(path, keys)| match path.as_slice() {
        [] if keys.iter().any(|(_, shown)| is_of_tables(shown.as_ref())) => 2,
        [] => 0,
        _ => 1,
    });
    (tables, misplaced)
}

/// Returns whether an unknown key is neither a table nor below a value. A known key above it that is not set gives way.
fn has_place(tables: &mut [(Path, Keys)], path: &Path) -> bool {
    if tables.iter().any(|(table, _)| table.starts_with(path)) {
        return false;
    }
    for (table, keys) in tables {
        let Some([key, _, ..]) = path.strip_prefix(table.as_slice()) else { continue };
        if keys.iter().any(|(known, shown)| known == key && shown.is_some()) {
            return false;
        }
        keys.retain(|(known, _)| known != key);
    }
    true
}

/// Takes the values of a table out of `values`, in the order of the documentation. For the keys in `unset`, the
/// documented value is only an example.
fn take(
    values: &mut BTreeMap<Path, Shown>,
    table: &[&str],
    documented: &Table,
    unset: &[&str],
) -> Keys {
    let path =
        |key: &str| -> Path { table.iter().copied().chain([key]).map(str::to_owned).collect() };
    let mut keys = Vec::new();
    for (key, example) in documented {
        let (mut is_set, is_secret) = (false, SECRETS.contains(&key.as_str()));
        // A secret may also be written as a single value or in a file.
        let single = key.strip_suffix('s').filter(|_| is_secret && key != "write_keys");
        let spellings = single.into_iter().chain([key.as_str()]);
        let spellings: Vec<String> = match is_secret {
            true => spellings.flat_map(|key| [key.to_owned(), format!("{key}_file")]).collect(),
            false => spellings.map(str::to_owned).collect(),
        };
        for key in spellings {
            let Some(Shown { value, origin }) = values.remove(&path(&key)) else { continue };
            is_set = true;
            keys.push((key.clone(), Some(Shown { value: shown(&key, value, example), origin })));
        }
        if !is_set {
            // The defaults of all other tables are in the compiled-in layer.
            let default = table.len() > 1 && !unset.contains(&key.as_str());
            let shown = default.then(|| Shown { value: example.clone(), origin: None });
            keys.push((key.clone(), shown));
        }
    }
    keys
}
