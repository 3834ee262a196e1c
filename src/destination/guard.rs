//! Keeps messages from a destination, apart from its triggers: those of people who did not consent, and
//! those with placeholder ids.

use std::time::Duration;

use super::catalogue::CatalogueOptions;
use super::unsupported::Unsupported;
use crate::js::{Value, is_space};
use crate::segment::{Message, MessageType};

/// Words that programs write when they have no user id, in lower case: those of JavaScript (`undefined`,
/// `NaN`, `[object Object]`), Python, Ruby, C and Objective-C, those of SDKs and content systems for
/// anonymous visitors (WordPress gives them the id 0), and the UUID of zeros. Two people with such an id
/// would become one contact, and the second one's address would replace the first one's.
pub const PLACEHOLDER_IDS_DEFAULT: [&str; 18] = [
    "undefined",
    "null",
    "nil",
    "none",
    "nan",
    "(null)",
    "<null>",
    "(nil)",
    "[object object]",
    "true",
    "false",
    "0",
    "-1",
    "anonymous",
    "guest",
    "unknown",
    "not_authenticated",
    "00000000-0000-0000-0000-000000000000",
];

/// The longest `erased_block_days`: receipts of erasures, which tell who was erased, are kept for that long.
pub const ERASED_BLOCK_DAYS_MAX: u16 = 400;

/// The options of a destination, apart from its subscriptions.
///
/// ```
/// use segment_loops::destination::{Destination, DestinationOptions, PlanFailureKind};
/// use segment_loops::js::decode::decode;
/// use segment_loops::segment::Message;
///
/// let subscriptions = Destination::default_subscriptions();
/// let options = DestinationOptions {
///     placeholder_ids: vec!["guest".to_owned()],
///     consent_categories: vec!["email".to_owned()],
///     ..DestinationOptions::default()
/// };
/// let destination = Destination::compile(&subscriptions, options).unwrap();
/// let guest = br#"{"type": "track", "messageId": "m1", "userId": "Guest", "event": "Signed Up"}"#;
/// let plan = destination.plan(&Message::from_stored(decode(guest)?)?);
/// assert_eq!(plan.deliveries[0].outcome.clone().unwrap_err().kind, PlanFailureKind::PlaceholderId);
/// let refused = br#"{"type": "track", "messageId": "m2", "userId": "u1", "event": "Signed Up",
///     "context": {"consent": {"categoryPreferences": {"email": false}}}}"#;
/// let plan = destination.plan(&Message::from_stored(decode(refused)?)?);
/// assert_eq!(plan.unmatched.unwrap().reason.as_str(), "consent");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationOptions {
    /// What to do with a value that Loops cannot hold.
    pub unsupported: Unsupported,
    /// User ids that mean "no id", in any casing of ASCII letters; with an empty list every id counts, even
    /// a blank one.
    pub placeholder_ids: Vec<String>,
    /// The categories of consent that the destination needs; empty: consent is ignored.
    pub consent_categories: Vec<String>,
    /// What happens to what may subscribe people again who left.
    pub consent: ConsentGuard,
    /// What is done with what the catalogue shows.
    pub catalogue: CatalogueOptions,
    /// What delivery does with what is known of contacts.
    pub contacts: ContactOptions,
    /// Whether requests are sent. Does not affect plans.
    pub mode: Mode,
}

/// Whether requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They are.
    #[default]
    Live,
    /// All is done but sending: each request ends as shadowed when its turn comes.
    Shadow,
}

/// What delivery does with what is known of the contacts at Loops. Does not affect plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactOptions {
    /// What happens to an upsert that would change nothing.
    pub skip_unchanged: SkipUnchanged,
    /// How long a value that Loops accepted counts as unchanged, give or take a tenth.
    pub skip_unchanged_ttl: Duration,
    /// What happens to an event with an address that its contact does not have.
    pub identity: IdentityGuard,
    /// A `userId` with more addresses than this on one day is shown as a conflict.
    pub identity_addresses_max: u32,
    /// What happens to values that are older than those that Loops has.
    pub stale: Stale,
    /// For how many days nothing is sent of people who were erased; 0: they may come back at once.
    pub erased_block_days: u16,
    /// How long an event waits for its contact if Loops refused it because that does not exist; zero: not at all.
    pub await_contact: Duration,
    /// How many contacts may be created in a day; zero: any number.
    pub new_contacts_per_day: u32,
    /// What happens to messages that would create a contact.
    pub new_contacts: NewContactsPolicy,
    /// Whether Loops is asked about a contact before it counts as new.
    pub verify_unknown: bool,
}

/// Implements `as_str` and `parse` with the word of each variant in the configuration.
macro_rules! words {
    ($($name:ident { $($variant:ident = $word:literal),+ })+) => {$(
        impl $name {
            /// Its word in the configuration.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Reads its word.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    )+};
}

words! {
    ConsentGuard { Guard = "guard", Pass = "pass" }
    SkipUnchanged { Off = "off", Observe = "observe", On = "on" }
    IdentityGuard { Off = "off", Observe = "observe", Guard = "guard", Link = "link" }
    Stale { Send = "send", Skip = "skip" }
    Mode { Live = "live", Shadow = "shadow" }
    NewContactsPolicy { Create = "create", KnownOnly = "known_only" }
}

/// A guard that may leave something out of a request, or keep it from being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// Against resubscribing people who unsubscribed: [`ConsentGuard`].
    Consent,
    /// Against the address of somebody else: [`IdentityGuard`].
    Identity,
    /// Against user ids that mean "no id".
    PlaceholderId,
    /// Against more new contacts than `new_contacts_per_day` allows.
    NewContactCap,
}

impl Guard {
    /// All of them.
    pub const ALL: [Guard; 4] =
        [Guard::Consent, Guard::Identity, Guard::PlaceholderId, Guard::NewContactCap];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Guard::Consent => "consent",
            Guard::Identity => "identity",
            Guard::PlaceholderId => "placeholder_id",
            Guard::NewContactCap => "new_contact_cap",
        }
    }
}

/// What happens to a request that may subscribe people again who have unsubscribed: by a `subscribed` that no mapping
/// names, or although Loops reported that they left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConsentGuard {
    /// What would subscribe them is left out.
    #[default]
    Guard,
    /// It is sent.
    Pass,
}

/// Whether a value of `subscribed`, or of a mailing list, subscribes.
///
/// ```
/// use segment_loops::destination::subscribes;
/// use segment_loops::js::Value;
///
/// assert!(subscribes(&Value::Bool(true)) && subscribes(&Value::from("yes")));
/// assert!(!subscribes(&Value::Bool(false)) && !subscribes(&Value::from("false")) && !subscribes(&Value::Null));
/// ```
pub fn subscribes(value: &Value) -> bool {
    let unsubscribes = matches!(value, Value::Bool(false) | Value::Null);
    !unsubscribes && value.as_str() != Some("false")
}

/// What happens to an upsert all of whose values Loops accepted before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SkipUnchanged {
    /// It is sent.
    Off,
    /// It is sent, and counted.
    #[default]
    Observe,
    /// It is not sent.
    On,
}

/// What happens to an event whose address is not the one that an upsert gave its `userId`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdentityGuard {
    /// It is sent as it is.
    Off,
    /// The same, with a warning.
    Observe,
    /// It is sent without the address.
    #[default]
    Guard,
    /// The same; and an event without an address is sent with the one that an upsert gave its `userId`.
    Link,
}

/// What happens to values of an upsert that happened before the one from which Loops has its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stale {
    /// They are sent.
    #[default]
    Send,
    /// They are left out.
    Skip,
}

/// What happens to a message that would create a contact, since Loops is not known to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewContactsPolicy {
    /// It is sent.
    #[default]
    Create,
    /// It ends as unmatched.
    KnownOnly,
}

impl Default for ContactOptions {
    fn default() -> Self {
        Self {
            skip_unchanged: SkipUnchanged::default(),
            skip_unchanged_ttl: Duration::from_secs(24 * 60 * 60),
            identity: IdentityGuard::default(),
            identity_addresses_max: 5,
            stale: Stale::default(),
            erased_block_days: 0,
            await_contact: Duration::from_secs(60 * 60),
            new_contacts_per_day: 0,
            new_contacts: NewContactsPolicy::default(),
            verify_unknown: false,
        }
    }
}

impl Default for DestinationOptions {
    fn default() -> Self {
        Self {
            placeholder_ids: PLACEHOLDER_IDS_DEFAULT.map(str::to_owned).into(),
            consent: ConsentGuard::Guard,
            ..Self::unguarded(Unsupported::default())
        }
    }
}

impl From<Unsupported> for DestinationOptions {
    fn from(unsupported: Unsupported) -> Self {
        Self { unsupported, ..Self::default() }
    }
}

impl DestinationOptions {
    /// Segment's behaviour, apart from `unsupported`: every id counts, and consent is ignored.
    pub fn unguarded(unsupported: Unsupported) -> Self {
        Self {
            unsupported,
            placeholder_ids: Vec::new(),
            consent_categories: Vec::new(),
            consent: ConsentGuard::Pass,
            catalogue: CatalogueOptions::default(),
            contacts: ContactOptions::default(),
            mode: Mode::default(),
        }
    }

    /// Whether a user id is a placeholder.
    pub(super) fn is_placeholder(&self, user_id: &str) -> bool {
        let is_space = |c: char| is_space(c) || c.is_whitespace();
        let user_id = user_id.trim_matches(is_space);
        let mut placeholders = self.placeholder_ids.iter();
        !self.placeholder_ids.is_empty()
            && (user_id.is_empty() || placeholders.any(|one| one.eq_ignore_ascii_case(user_id)))
    }

    /// Returns why a message must not be sent for lack of consent, if so: all categories of the destination must be
    /// `true` in the message's consent object, as Segment documents it (Consent in Segment Connections).
    ///
    /// A message without a consent object is sent; so is a message with an empty one, unless it has
    /// `integrations`. A deletion is always sent: it removes data.
    pub(super) fn no_consent(&self, message: &Message) -> Option<String> {
        let value = message.value();
        if self.consent_categories.is_empty() || message.kind() == MessageType::Delete {
            return None;
        }
        let consent = value.get("context")?.get("consent").filter(|consent| !consent.is_null())?;
        let is_empty = |value: &Value| value.as_object().is_some_and(|object| object.is_empty());
        let has_integrations =
            value.get("integrations").is_some_and(|given| !given.is_null() && !is_empty(given));
        if is_empty(consent) && !has_integrations {
            return None;
        }
        let preferences = consent.get("categoryPreferences");
        let is_given = |category: &&String| {
            preferences.and_then(|all| all.get(category)) == Some(&Value::Bool(true))
        };
        let missing = self.consent_categories.iter().find(|category| !is_given(category))?;
        Some(format!(
            "the person did not consent: \"{missing}\" is not true in context.consent.categoryPreferences"
        ))
    }
}
