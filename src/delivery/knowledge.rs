//! Applies what is known of the contacts of a turn to the requests of its messages: which requests would change
//! nothing, which values are older than those at Loops, and which event would give its contact someone else's address.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::consent::{Consent, is_opt_in};
use super::union::object;
use crate::action::Endpoint;
use crate::destination::{
    ContactOptions, Guard, IdentityGuard, Plan, PlannedDelivery, SkipUnchanged, Stale,
};
use crate::js::{Object, Value};
use crate::queue::{
    Contact, ContactChange, ContactClaim, KnownContact, KnownProperty, Learned, NotNeeded,
    NotNeededReason, OptIn, RequestId,
};
use crate::segment::{Digests, LaneKey, PersonDigest, PersonIdKind, PropertyName, PropertyValue};

/// What a request says about its contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// The digest of its `userId`, or else of its e-mail address.
    key: PersonDigest,
    /// The digest of its address, if it has a `userId` too.
    email: Option<PersonDigest>,
    /// Whether the request is an upsert, whose address is the person's own. An event may carry someone else's.
    is_upsert: bool,
    is_deletion: bool,
    /// Its properties, including `userId` and the address, so that there is at least one.
    values: Vec<(PropertyName, PropertyValue)>,
    /// The address beside a `userId`, sealed, if it is to be kept.
    address: Option<Vec<u8>>,
    /// Whether the request has an address, so that Loops creates the contact if it does not exist.
    has_address: bool,
    /// Whether it changes values that others may change too: mailing lists and the subscription.
    may_resubscribe: bool,
}

/// The times of a request that Loops accepted, and the subscriptions by which it may bring back a person.
#[derive(Debug, Clone)]
pub(super) struct Times {
    /// When the attempt began.
    pub(super) started_at: Timestamp,
    /// When its message happened, if contacts are remembered with that time; otherwise the epoch.
    pub(super) happened_at: Timestamp,
    /// The subscriptions to which it may bring back a person who left.
    pub(super) opt_in: Option<OptIn>,
    pub(super) now: Timestamp,
}

/// Makes [`Facts`].
pub(super) struct FactsMaker<'a> {
    pub(super) digests: &'a Digests,
    /// Identifies the account at Loops: properties of different accounts have different names.
    pub(super) account: &'a str,
    /// Identifies the mapping: values of different mappings are never equal.
    pub(super) revision: &'a str,
    /// Whether addresses are kept for events that have none.
    pub(super) keeps_addresses: bool,
}

impl FactsMaker<'_> {
    /// Returns the facts of a request; `None` if it names no contact.
    pub(super) fn facts(&self, endpoint: Endpoint, body: &Bytes) -> Option<Facts> {
        self.facts_of(endpoint, &object(body)?)
    }

    /// Returns the key of the contact that a request names, and the address beside its `userId`.
    fn contact(&self, body: &Object) -> Option<(PersonDigest, Option<PersonDigest>)> {
        let digest = |kind, name| {
            let text = body.get(name)?.as_str()?;
            Some(self.digests.person(kind, text))
        };
        let user = digest(PersonIdKind::User, "userId");
        let email = digest(PersonIdKind::Email, "email");
        Some((user.or(email)?, user.and(email)))
    }

    fn facts_of(&self, endpoint: Endpoint, body: &Object) -> Option<Facts> {
        let (key, email) = self.contact(body)?;
        let address = body.get("email").and_then(Value::as_str);
        let kept = address.filter(|_| self.keeps_addresses && email.is_some());
        let mut facts = Facts {
            key,
            email,
            address: kept.and_then(|address| self.digests.seal(address)),
            is_upsert: endpoint == Endpoint::UpdateContact,
            is_deletion: endpoint == Endpoint::DeleteContact,
            has_address: address.is_some(),
            values: Vec::new(),
            may_resubscribe: false,
        };
        for (name, value) in body.iter() {
            match (name, value) {
                ("eventName" | "eventProperties", _) if endpoint == Endpoint::SendEvent => {}
                ("mailingLists", Value::Object(lists)) => {
                    facts.may_resubscribe |= !lists.is_empty();
                    let lists = lists.iter().map(|(list, value)| (list_property(list), value));
                    facts.values.extend(lists.map(|(name, value)| self.value(&name, value)));
                }
                // It is unknown whether Loops treats null in an event as it does in an upsert, so the two are never
                // equal.
                (_, Value::Null) if endpoint == Endpoint::SendEvent => {
                    let value = self.digests.property_value(self.revision, name, "");
                    facts.values.push((self.name(name), value));
                }
                _ => {
                    facts.may_resubscribe |= matches!(name, "mailingLists" | "subscribed");
                    facts.values.push(self.value(name, value));
                }
            }
        }
        Some(facts)
    }

    fn value(&self, name: &str, value: &Value) -> (PropertyName, PropertyValue) {
        let value = self.digests.property_value(self.revision, name, &value.to_json());
        (self.name(name), value)
    }

    fn name(&self, name: &str) -> PropertyName {
        self.digests.property_name(&format!("{} {name}", self.account))
    }
}

/// Returns the name under which membership in a mailing list is remembered. No contact property can have this name.
fn list_property(list: &str) -> String {
    format!("mailingLists.{list}")
}

impl Facts {
    /// Returns whether the request has an address, so that Loops creates the contact if it does not exist.
    pub(super) fn has_address(&self) -> bool {
        self.has_address
    }

    /// Returns the contact that the request creates if Loops does not have it.
    pub(super) fn creation(&self) -> Option<KnownContact> {
        let may_create = self.has_address && !self.is_deletion;
        may_create.then_some(KnownContact { key: self.key, email: self.email })
    }

    /// Returns what is learned once Loops has accepted the request.
    pub(super) fn learn(self, lane: LaneKey, request: RequestId, times: Times) -> Learned {
        let Times { started_at, happened_at, opt_in, now } = times;
        let known = |(name, value)| KnownProperty { name, value, at: now, happened_at, request };
        let properties = self.values.into_iter().map(known).collect();
        Learned {
            key: self.key,
            email: self.email,
            is_own_email: self.is_upsert,
            may_create: self.has_address,
            lane,
            address: self.address,
            request,
            started_at,
            properties,
            opt_in,
        }
    }

    /// Returns the change if it is unknown whether Loops has the request, or which part of it.
    pub(super) fn forget(self) -> ContactChange {
        ContactChange::Forget(self.key)
    }

    /// Returns the change if Loops deleted the contact.
    pub(super) fn delete(self) -> ContactChange {
        ContactChange::Delete(self.key)
    }
}

/// The decision about a delivery that has a request, from what is known of its contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It is sent.
    Send,
    /// It is sent, although it changes nothing.
    Redundant,
    /// It is not sent.
    NotNeeded(NotNeeded),
}

/// Returns whether an upsert has nothing but the ids of its contact.
fn is_empty(body: &Object) -> bool {
    let has_user = body.get("userId").is_some();
    body.iter().all(|(name, value)| match (name, value) {
        ("userId", _) => true,
        ("email", _) => !has_user,
        ("mailingLists", Value::Object(lists)) => lists.is_empty(),
        _ => false,
    })
}

/// The bodies of a plan's requests, one for each delivery; `None`: the delivery has no request, or its body cannot be
/// read.
pub(super) struct Bodies(Vec<Option<Object>>);

impl Bodies {
    pub(super) fn of(plan: &Plan) -> Self {
        let body = |delivery: &PlannedDelivery| object(&delivery.outcome.as_ref().ok()?.body);
        Self(plan.deliveries.iter().map(body).collect())
    }
}

/// What is known of the contacts of a turn, as it will be once the earlier requests have been accepted.
pub(super) struct Knowledge<'a> {
    maker: FactsMaker<'a>,
    options: ContactOptions,
    lane: LaneKey,
    now: Timestamp,
    /// The contacts that were read; `None`: nothing is known of the contact.
    contacts: HashMap<PersonDigest, Option<Contact>>,
    claims: Vec<ContactClaim>,
}

impl<'a> Knowledge<'a> {
    pub(super) fn new(
        maker: FactsMaker<'a>,
        options: ContactOptions,
        lane: LaneKey,
        now: Timestamp,
    ) -> Self {
        Self { maker, options, lane, now, contacts: HashMap::new(), claims: Vec::new() }
    }

    /// Returns the contacts that the requests are about to change; none unless upserts may be skipped.
    pub(super) fn into_claims(self) -> Vec<ContactClaim> {
        self.claims
    }

    /// Returns the contacts of a plan that must be read before it can be judged.
    pub(super) fn unread(&self, bodies: &Bodies) -> Vec<PersonDigest> {
        let known = bodies.0.iter().flatten();
        let keys = known.filter_map(|body| Some(self.maker.contact(body)?.0));
        let mut keys: Vec<PersonDigest> =
            keys.filter(|key| !self.contacts.contains_key(key)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Adds contacts that were read.
    pub(super) fn add(&mut self, keys: Vec<PersonDigest>, found: Vec<Contact>) {
        self.contacts.extend(keys.into_iter().map(|key| (key, None)));
        self.contacts.extend(found.into_iter().map(|contact| (contact.key, Some(contact))));
    }

    /// Returns the people whose opt-outs must be read before a plan is judged: the people in its requests, if a request
    /// subscribes someone. Their contacts must have been added.
    pub(super) fn opt_ins(&self, plan: &Plan, bodies: &Bodies) -> Vec<PersonDigest> {
        let mut requests = plan.deliveries.iter().zip(&bodies.0).filter_map(|(delivery, body)| {
            Some((delivery.outcome.as_ref().ok()?.endpoint, body.as_ref()?))
        });
        if !requests.any(|(endpoint, body)| is_opt_in(endpoint, body)) {
            return Vec::new();
        }
        let mut persons: Vec<PersonDigest> =
            bodies.0.iter().flatten().flat_map(|body| self.persons(body)).collect();
        persons.sort_unstable();
        persons.dedup();
        persons
    }

    /// Returns the digests under which Loops may report events of a request's contact: the ids in the request, and the
    /// address that the contact is known to have.
    fn persons(&self, body: &Object) -> Vec<PersonDigest> {
        let Some((key, email)) = self.maker.contact(body) else { return Vec::new() };
        let known = self.contacts.get(&key).and_then(Option::as_ref);
        let known = known.and_then(|contact| contact.email);
        [Some(key), email, known].into_iter().flatten().collect()
    }

    /// Judges the deliveries of a plan, in order. Removes from their requests what the guards and `stale` keep back:
    /// another person's address, opt-ins of people who left, and values older than those at Loops. A replayed upsert is
    /// sent even if it changes nothing.
    pub(super) fn judge(
        &mut self,
        plan: &mut Plan,
        bodies: Bodies,
        is_replay: bool,
        consent: &Consent,
    ) -> Vec<Judgement> {
        let deliveries = plan.deliveries.iter_mut().zip(bodies.0);
        let judge = |(delivery, body): (&mut PlannedDelivery, Option<Object>)| match body {
            Some(body) => self.judge_delivery(delivery, body, is_replay, consent),
            None => Judgement::Send,
        };
        deliveries.map(judge).collect()
    }

    fn judge_delivery(
        &mut self,
        delivery: &mut PlannedDelivery,
        mut body: Object,
        is_replay: bool,
        consent: &Consent,
    ) -> Judgement {
        let PlannedDelivery { outcome, warnings, guarded, resubscribe, .. } = delivery;
        let Ok(request) = outcome else { return Judgement::Send };
        let known = guarded.len();
        let is_older = request.endpoint == Endpoint::UpdateContact
            && self.leave_out_older(&mut body, consent.happened_at, warnings);
        if is_older && is_empty(&body) {
            let detail =
                "Loops has newer values of all its properties (stale = \"skip\")".to_owned();
            return Judgement::NotNeeded(NotNeeded { reason: NotNeededReason::Stale, detail });
        }
        let mut is_linked = false;
        if request.endpoint == Endpoint::SendEvent {
            if self.guard_address(&mut body, warnings) {
                guarded.push(Guard::Identity);
            }
            is_linked = self.link(&mut body);
        }
        let persons = self.persons(&body);
        if consent.guard(&persons, *resubscribe, request.endpoint, &mut body, warnings) {
            guarded.push(Guard::Consent);
        }
        if is_older || is_linked || guarded.len() > known {
            request.body = Bytes::from(Value::Object(body.clone()).to_json());
        }
        let Some(facts) = self.maker.facts_of(request.endpoint, &body) else {
            return Judgement::Send;
        };
        let unchanged = match request.endpoint {
            Endpoint::UpdateContact if !is_replay => self.unchanged_since(&facts),
            Endpoint::UpdateContact | Endpoint::SendEvent | Endpoint::DeleteContact => None,
        };
        match (unchanged, self.options.skip_unchanged) {
            (Some(_), SkipUnchanged::Observe) => return Judgement::Redundant,
            (Some(RequestId(id)), SkipUnchanged::On) => {
                let detail = format!(
                    "Loops accepted the same values before, the last of them with request {id}"
                );
                let reason = NotNeededReason::Unchanged;
                return Judgement::NotNeeded(NotNeeded { reason, detail });
            }
            (_, SkipUnchanged::Off) | (None, _) => {}
        }
        self.expect(request.endpoint, &facts);
        Judgement::Send
    }

    /// Removes the address from an event if the contact is known to have another one; returns whether it did.
    fn guard_address(&self, body: &mut Object, warnings: &mut Vec<String>) -> bool {
        let Some((key, Some(email))) = self.maker.contact(body) else { return false };
        let known = self.contacts.get(&key).and_then(Option::as_ref);
        let known = known.and_then(|contact| contact.email);
        if known.is_none_or(|known| known == email) {
            return false;
        }
        match self.options.identity {
            IdentityGuard::Off => false,
            IdentityGuard::Observe => {
                warnings.push(
                    "`email` of the event is not the address that this `userId` has: Loops overwrites the contact's address with it; with identity = \"guard\", it is left out"
                        .to_owned(),
                );
                false
            }
            IdentityGuard::Guard | IdentityGuard::Link => {
                warnings.push(
                    "`email` of the event was not sent: this `userId` has another address, and Loops would overwrite it; use createOrUpdateContact to change an address"
                        .to_owned(),
                );
                body.remove("email");
                true
            }
        }
    }

    /// Gives an event without an address the known address of its `userId`; returns whether it did.
    fn link(&self, body: &mut Object) -> bool {
        if self.options.identity != IdentityGuard::Link || body.get("email").is_some() {
            return false;
        }
        let contact =
            self.maker.contact(body).and_then(|(key, _)| self.contacts.get(&key)?.as_ref());
        let sealed = contact.and_then(|contact| contact.address.as_deref());
        let Some(address) = sealed.and_then(|sealed| self.maker.digests.unseal(sealed)) else {
            return false;
        };
        body.insert("email", Value::from(address));
        true
    }

    /// Removes values that are older than those at Loops from an upsert, but never the ids of its contact; returns
    /// whether there were any.
    fn leave_out_older(
        &self,
        body: &mut Object,
        happened_at: Timestamp,
        warnings: &mut Vec<String>,
    ) -> bool {
        let contact =
            self.maker.contact(body).and_then(|(key, _)| self.contacts.get(&key)?.as_ref());
        let Some(contact) = contact.filter(|_| self.options.stale == Stale::Skip) else {
            return false;
        };
        let is_older = |name: &str| {
            let name = self.maker.name(name);
            let mut known = contact.properties.iter();
            known.any(|known| known.name == name && known.happened_at > happened_at)
        };
        let has_user = body.get("userId").is_some();
        let names: Vec<String> = body.iter().map(|(name, _)| name.to_owned()).collect();
        let mut older = Vec::new();
        for name in names {
            match (&*name, body.get_mut(&name)) {
                ("userId", _) => {}
                ("email", _) if !has_user => {}
                ("mailingLists", Some(Value::Object(lists))) => {
                    let ids: Vec<String> = lists.iter().map(|(list, _)| list.to_owned()).collect();
                    for list in ids.iter().map(|list| (list, list_property(list))) {
                        if is_older(&list.1) {
                            lists.remove(list.0);
                            older.push(list.1);
                        }
                    }
                }
                _ if is_older(&name) => {
                    body.remove(&name);
                    older.push(name);
                }
                _ => {}
            }
        }
        warnings.extend(older.iter().map(|name| {
            format!("`{name}` was left out: Loops has it from a later message (stale = \"skip\")")
        }));
        !older.is_empty()
    }

    /// Returns the newest request by which Loops accepted values of this request; `None` unless Loops is known to still
    /// have all of them.
    fn unchanged_since(&self, facts: &Facts) -> Option<RequestId> {
        let contact = self.contacts.get(&facts.key)?.as_ref()?;
        if contact.is_shared || facts.may_resubscribe {
            return None;
        }
        let kept = self.kept(contact.key);
        let mut newest: Option<&KnownProperty> = None;
        for (name, value) in &facts.values {
            let mut properties = contact.properties.iter();
            let known = properties.find(|known| known.name == *name && known.value == *value)?;
            let age = self.now.duration_since(known.at);
            if age.is_negative() || age > kept {
                return None;
            }
            newest = newest.filter(|newest| newest.at >= known.at).or(Some(known));
        }
        newest.map(|known| known.request)
    }

    /// Returns how long the values of a contact are valid. It varies by up to a tenth, so that not all contacts become
    /// due at once.
    fn kept(&self, PersonDigest(key): PersonDigest) -> SignedDuration {
        let ttl = SignedDuration::try_from(self.options.skip_unchanged_ttl);
        let ttl = ttl.unwrap_or(SignedDuration::MAX);
        let share = (key.rem_euclid(201) - 100) as i32;
        ttl.saturating_add((ttl / 1_000).saturating_mul(share))
    }

    /// Takes a request that is about to be sent into account.
    fn expect(&mut self, endpoint: Endpoint, facts: &Facts) {
        let claim = ContactClaim { key: facts.key, email: facts.email, lane: self.lane };
        if self.options.skip_unchanged == SkipUnchanged::On && !self.claims.contains(&claim) {
            self.claims.push(claim);
        }
        let entry = self.contacts.entry(facts.key).or_default();
        if endpoint == Endpoint::DeleteContact {
            *entry = None;
            return;
        }
        let contact = entry.get_or_insert_with(|| Contact {
            key: facts.key,
            email: None,
            is_shared: false,
            address: None,
            properties: Vec::new(),
        });
        if facts.is_upsert && facts.email.is_some() {
            contact.email = facts.email;
            contact.address.clone_from(&facts.address);
        }
        contact.properties.retain(|known| {
            facts.values.iter().all(|(name, value)| *name != known.name || *value == known.value)
        });
    }
}
