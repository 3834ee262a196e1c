//! The catalogue of a destination: which contact properties, mailing lists and event names the team at Loops has. A pure
//! value, as subscriptions are: it is read elsewhere, and a plan depends on it.

mod missing;
mod names;
mod options;
mod review;

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use missing::Missing;
use names::Names;
pub use options::{CatalogueOptions, UnknownProperties, WrongTypes};
pub(super) use review::Review;

use crate::loops::{ContactProperty, MailingList, PropertyType};

/// The most entries of a part of the catalogue that are kept. A part that has more is incomplete: nothing is unknown.
pub const ENTRIES_MAX: usize = 10_000;

/// The most bytes of a name that is kept.
const NAME_BYTES_MAX: usize = 500;

/// How many former names of a mailing list are kept.
const FORMER_NAMES_MAX: usize = 5;

/// How many properties may be created within [`CREATED_WITHIN`].
pub const CREATED_MAX: usize = 20;

/// The time within which only [`CREATED_MAX`] properties are created, and none twice.
pub const CREATED_WITHIN: SignedDuration = SignedDuration::from_hours(24);

/// What was read from Loops, as it is stored. A part that is `None` was never read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CatalogueRecord {
    /// The contact properties.
    pub properties: Option<Part<ContactProperty>>,
    /// The mailing lists.
    pub lists: Option<Part<KnownList>>,
    /// The names of events.
    pub events: Option<Part<String>>,
    /// The properties that were created lately, or that Loops refused to create.
    #[serde(default)]
    pub created: Vec<CreatedProperty>,
}

/// A part of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part<T> {
    /// Its entries, at most [`ENTRIES_MAX`].
    pub entries: Vec<T>,
    /// Whether these are all.
    pub is_complete: bool,
    /// When it was read.
    pub read_at: Timestamp,
}

/// A mailing list, with the names that it had before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownList {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its former names, the last one first, so that a mapping that spells one of them keeps working.
    #[serde(default)]
    pub former: Vec<String>,
}

/// A property that was created, or that Loops refused to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedProperty {
    /// Its name.
    pub name: String,
    /// When.
    pub at: Timestamp,
}

/// A catalogue, indexed.
///
/// ```
/// use jiff::Timestamp;
/// use segment_loops::destination::{Catalogue, CatalogueRecord, FoundList};
/// use segment_loops::loops::{ContactProperty, MailingList, PropertyType};
///
/// let mut record = CatalogueRecord::default();
/// // Nothing was read yet, so nothing is known to be missing.
/// assert!(!Catalogue::new(record.clone()).lacks_property("planName"));
///
/// let plan = ContactProperty { name: "planName".to_owned(), kind: Some(PropertyType::String) };
/// record.set_properties(vec![plan], Timestamp::UNIX_EPOCH);
/// let news = MailingList { id: "cm06f5v0e45nf0ml5754o9cix".to_owned(), name: "News".to_owned() };
/// record.set_lists(vec![news], Timestamp::UNIX_EPOCH);
/// let catalogue = Catalogue::new(record);
/// assert!(catalogue.lacks_property("planname"));
/// assert_eq!(catalogue.property_like("planname"), Some("planName"));
/// assert_eq!(catalogue.list("cm06f5v0e45nf0ml5754o9cix", true), FoundList::Id);
/// assert!(matches!(catalogue.list("News", true), FoundList::Named(list) if list.name == "News"));
/// assert_eq!(catalogue.list("Offers", true), FoundList::Unknown);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    record: CatalogueRecord,
    properties: HashMap<String, Option<PropertyType>>,
    property_names: Names,
    list_names: Names,
    event_names: Names,
}

impl<T> Part<T> {
    /// A part of the catalogue, cut to what is kept.
    fn new(
        entries: Vec<T>,
        is_complete: bool,
        name: impl Fn(&T) -> &str,
        read_at: Timestamp,
    ) -> Self {
        let count = entries.len();
        let fits = |entry: &T| name(entry).len() <= NAME_BYTES_MAX;
        let entries: Vec<T> = entries.into_iter().filter(fits).take(ENTRIES_MAX).collect();
        Self { is_complete: is_complete && entries.len() == count, entries, read_at }
    }
}

impl CatalogueRecord {
    /// Replaces the contact properties.
    pub fn set_properties(&mut self, read: Vec<ContactProperty>, at: Timestamp) {
        self.properties = Some(Part::new(read, true, |one| one.name.as_str(), at));
    }

    /// Replaces the mailing lists. A list that has another name now keeps the former one, unless another list has it.
    pub fn set_lists(&mut self, read: Vec<MailingList>, at: Timestamp) {
        let mut before: HashMap<String, KnownList> = HashMap::new();
        for known in self.lists.take().into_iter().flat_map(|part| part.entries) {
            before.insert(known.id.clone(), known);
        }
        let known = |list: MailingList| {
            let mut former = Vec::new();
            if let Some(known) = before.remove(&list.id) {
                former.push(known.name);
                former.extend(known.former);
                former.retain(|name| *name != list.name);
                former.truncate(FORMER_NAMES_MAX);
            }
            KnownList { id: list.id, name: list.name, former }
        };
        let lists: Vec<KnownList> = read.into_iter().map(known).collect();
        self.lists = Some(Part::new(lists, true, |one| one.name.as_str(), at));
    }

    /// Replaces the names of events.
    pub fn set_events(&mut self, read: Vec<String>, is_complete: bool, at: Timestamp) {
        self.events = Some(Part::new(read, is_complete, String::as_str, at));
    }

    /// Whether a property may be created now.
    pub fn may_create(&self, name: &str, now: Timestamp) -> bool {
        let mut lately = self.created_lately(now);
        lately.clone().count() < CREATED_MAX && lately.all(|one| one.name != name)
    }

    /// Notes that a property is being created.
    pub fn note_created(&mut self, name: &str, now: Timestamp) {
        self.created = self.created_lately(now).cloned().collect();
        self.created.push(CreatedProperty { name: name.to_owned(), at: now });
    }

    fn created_lately(&self, now: Timestamp) -> impl Iterator<Item = &CreatedProperty> + Clone {
        self.created.iter().filter(move |one| now.duration_since(one.at) < CREATED_WITHIN)
    }

    /// When its oldest part was read; `None`: none was.
    pub fn read_at(&self) -> Option<Timestamp> {
        self.times().min()
    }

    /// When its newest part was read.
    pub fn newest(&self) -> Option<Timestamp> {
        self.times().max()
    }

    fn times(&self) -> impl Iterator<Item = Timestamp> {
        let properties = self.properties.as_ref().map(|part| part.read_at);
        let lists = self.lists.as_ref().map(|part| part.read_at);
        let events = self.events.as_ref().map(|part| part.read_at);
        [properties, lists, events].into_iter().flatten()
    }
}

impl Catalogue {
    /// Indexes what was read.
    pub fn new(record: CatalogueRecord) -> Self {
        let properties = record.properties.iter().flat_map(|part| &part.entries);
        let properties: HashMap<_, _> =
            properties.map(|one| (one.name.clone(), one.kind)).collect();
        let property_names = Names::new(properties.keys().map(String::as_str));
        let lists = record.lists.iter().flat_map(|part| &part.entries);
        let list_names = Names::new(lists.map(|list| list.name.as_str()));
        let events = record.events.iter().flat_map(|part| &part.entries);
        let event_names = Names::new(events.map(String::as_str));
        Self { record, properties, property_names, list_names, event_names }
    }

    /// What was read.
    pub fn record(&self) -> &CatalogueRecord {
        &self.record
    }

    /// Whether Loops certainly has no contact property of this name.
    pub fn lacks_property(&self, name: &str) -> bool {
        let is_complete = self.record.properties.as_ref().is_some_and(|part| part.is_complete);
        is_complete && !self.properties.contains_key(name) && !is_standard(name)
    }

    /// The type of a contact property, if Loops has it.
    fn type_of(&self, name: &str) -> Option<PropertyType> {
        *self.properties.get(name)?
    }

    /// The contact property that was probably meant by a name that Loops does not know.
    pub fn property_like(&self, name: &str) -> Option<&str> {
        self.property_names.like(name)
    }

    /// The mailing list that a key of `mailingLists` names: by its id; or, if `by_name`, by its name or a former one.
    pub fn list(&self, key: &str, by_name: bool) -> FoundList<'_> {
        let Some(part) = &self.record.lists else { return FoundList::Unsure };
        if part.entries.iter().any(|list| list.id == key) {
            return FoundList::Id;
        }
        if by_name {
            let with = |is: &dyn Fn(&KnownList) -> bool| {
                let mut found = part.entries.iter().filter(|list| is(list));
                found.next().map(|first| (first, found.count()))
            };
            let found = with(&|list| list.name == key)
                .or_else(|| with(&|list| list.former.iter().any(|name| name == key)));
            match found {
                Some((list, 0)) => return FoundList::Named(list),
                Some((_, others)) => return FoundList::Ambiguous(others + 1),
                None => {}
            }
        }
        match part.is_complete {
            true => FoundList::Unknown,
            false => FoundList::Unsure,
        }
    }

    /// The mailing list that was probably meant by a key that is neither an id nor, as it is, a name.
    pub fn list_like(&self, key: &str) -> Option<&KnownList> {
        let lists = || self.record.lists.iter().flat_map(|part| &part.entries);
        let named = |name: &str| lists().find(|list| list.name == name);
        named(key).or_else(|| named(self.list_names.like(key)?))
    }

    /// Whether Loops certainly has no event of this name yet.
    pub fn lacks_event(&self, name: &str) -> bool {
        let is_complete = self.record.events.as_ref().is_some_and(|part| part.is_complete);
        is_complete && !self.event_names.contains(name)
    }

    /// The event that was probably meant by a name that Loops does not know.
    pub fn event_like(&self, name: &str) -> Option<&str> {
        self.event_names.like(name)
    }
}

/// What the catalogue says of a key of `mailingLists`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundList<'a> {
    /// It is the id of a list.
    Id,
    /// It is the name of this list.
    Named(&'a KnownList),
    /// So many lists have this name.
    Ambiguous(usize),
    /// No list has it.
    Unknown,
    /// The lists were not read, or not all of them.
    Unsure,
}

/// The contact properties and fields that every team has, by Loops' contract, and names that a request uses itself.
const STANDARD: [&str; 13] = [
    "id",
    "email",
    "userId",
    "firstName",
    "lastName",
    "source",
    "subscribed",
    "userGroup",
    "createdAt",
    "mailingLists",
    "optInStatus",
    "eventName",
    "eventProperties",
];

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name)
}

/// Whether Loops may be asked to create a contact property of this name: one in camelCase, as its contract wants.
pub fn can_be_created(name: &str) -> bool {
    let is_camel_case = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    is_camel_case && name.len() <= 100 && !is_standard(name)
}

/// Whether a key of `mailingLists` in a mapping looks like the id of a list rather than a name.
///
/// ```
/// use segment_loops::destination::is_like_list_id;
///
/// assert!(is_like_list_id("cm06f5v0e45nf0ml5754o9cix"));
/// assert!(!is_like_list_id("Newsletter"));
/// ```
pub fn is_like_list_id(key: &str) -> bool {
    key.len() >= 20 && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
