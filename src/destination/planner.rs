//! All subscriptions of a destination, and what they make of a message.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::catalogue::{Catalogue, CatalogueOptions, is_like_list_id};
use super::compiled::CompiledSubscription;
use super::guard::{ConsentGuard, ContactOptions, DestinationOptions, Mode};
use super::plan::{Plan, PlannedDelivery};
use super::subscription::{Subscription, SubscriptionProblem, TriggerText};
use super::terms::Terms;
use crate::action::{ActionKind, Unmatched, UnmatchedReason};
use crate::js::Value;
use crate::segment::{Message, MessageType};

/// The most subscriptions that a destination may have.
pub const SUBSCRIPTIONS_MAX: usize = 1000;

/// Compiled subscriptions, the options of their destination and its catalogue.
///
/// ```
/// use segment_loops::destination::{Destination, DestinationOptions, subscription};
/// use segment_loops::js::decode::decode;
/// use segment_loops::segment::Message;
///
/// let welcome = subscription::read(&decode(br#"{
///     "name": "Welcome", "action": "sendEvent", "events": ["Signed Up"],
///     "mapping": {"eventName": "signedUp"}
/// }"#)?, 0).unwrap();
/// let destination = Destination::compile(&[welcome], DestinationOptions::default()).unwrap();
///
/// let message = Message::from_stored(decode(br#"{
///     "type": "track", "messageId": "m1", "userId": "u1", "event": "Signed Up", "properties": {"plan": "pro"}
/// }"#)?)?;
/// let plan = destination.plan(&message);
/// let request = plan.deliveries[0].outcome.as_ref().unwrap();
/// assert_eq!(request.endpoint.path(), "/events/send");
/// assert_eq!(request.body, r#"{"eventName":"signedUp","userId":"u1","eventProperties":{"plan":"pro"}}"#);
///
/// // Of a message that no subscription takes, the plan says why.
/// let page = Message::from_stored(decode(br#"{"type": "page", "messageId": "m2", "userId": "u1"}"#)?)?;
/// let unmatched = destination.plan(&page).unmatched.unwrap();
/// assert_eq!(unmatched.detail, "no subscription's trigger matches this page message");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Destination {
    pub(super) subscriptions: Vec<CompiledSubscription>,
    pub(super) options: DestinationOptions,
    revision: String,
    pub(super) catalogue: Option<Arc<Catalogue>>,
}

impl Destination {
    /// Returns the initial subscriptions of Segment's destination, and one for deletions.
    pub fn default_subscriptions() -> Vec<Subscription> {
        ActionKind::ALL
            .map(|action| Subscription {
                name: action.title().to_owned(),
                enabled: true,
                action,
                trigger: TriggerText::Fql(action.default_trigger().to_owned()),
                mapping: action.default_mapping(),
                merge: true,
                max_age_s: None,
                resubscribe: false,
            })
            .into()
    }

    /// Compiles subscriptions; reports all errors at once, including those that Segment would report only
    /// for a message that meets them.
    ///
    /// ```
    /// use segment_loops::destination::{Destination, TriggerText, Unsupported};
    ///
    /// let mut subscriptions = Destination::default_subscriptions();
    /// subscriptions[1].trigger = TriggerText::Fql("type".to_owned());
    /// subscriptions[2].name = subscriptions[0].name.clone();
    /// let problems = Destination::compile(&subscriptions, Unsupported::Omit).unwrap_err();
    /// let places: Vec<_> = problems.iter().map(|one| (one.subscription.as_str(), one.field.as_str())).collect();
    /// assert_eq!(places, [("Send an event", "trigger"), ("Create or update a contact", "name")]);
    /// ```
    pub fn compile(
        subscriptions: &[Subscription],
        options: impl Into<DestinationOptions>,
    ) -> Result<Self, Vec<SubscriptionProblem>> {
        let mut compiled = Vec::new();
        let mut problems = Vec::new();
        let mut names = HashSet::new();
        let problem_of = |name: &str, field: &str, problem: String| SubscriptionProblem {
            subscription: name.to_owned(),
            field: field.to_owned(),
            problem,
        };
        if subscriptions.len() > SUBSCRIPTIONS_MAX {
            let problem = format!(
                "there are {}; at most {SUBSCRIPTIONS_MAX} are allowed",
                subscriptions.len()
            );
            return Err(vec![problem_of("(all)", "subscriptions", problem)]);
        }
        for subscription in subscriptions {
            if !names.insert(&subscription.name) {
                let problem = "another subscription of the destination has this name: names must be unique, since they are part of the idempotency keys";
                problems.push(problem_of(&subscription.name, "name", problem.to_owned()));
            }
            match CompiledSubscription::compile(subscription) {
                Ok(one) => {
                    problems.extend(one.latent_problems());
                    compiled.push(one);
                }
                Err(mut found) => problems.append(&mut found),
            }
        }
        if problems.is_empty() {
            let options = options.into();
            let revision = revision(subscriptions, &options);
            Ok(Self { subscriptions: compiled, options, revision, catalogue: None })
        } else {
            Err(problems)
        }
    }

    /// Returns what delivery does with what is known of contacts.
    pub fn contact_options(&self) -> &ContactOptions {
        &self.options.contacts
    }

    /// Whether requests may subscribe people again who left.
    pub fn may_resubscribe(&self) -> bool {
        self.options.consent == ConsentGuard::Pass
            || self.subscriptions.iter().any(CompiledSubscription::resubscribes)
    }

    /// Whether requests of the subscription with this name may subscribe people again who left.
    pub fn resubscribes(&self, subscription: &str) -> bool {
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.any(|one| one.name() == subscription && one.resubscribes())
    }

    /// Returns the same destination with another catalogue.
    pub fn with_catalogue(&self, catalogue: Option<Arc<Catalogue>>) -> Self {
        Self { catalogue, ..self.clone() }
    }

    /// Returns what is known of the properties, lists and events at Loops; `None` if nothing is.
    pub fn catalogue(&self) -> Option<&Arc<Catalogue>> {
        self.catalogue.as_ref()
    }

    /// Whether an enabled subscription contains a literal mailing list that looks like a name rather than an id.
    pub fn names_lists(&self) -> bool {
        let enabled = self.subscriptions.iter().filter(|one| one.is_enabled());
        enabled.flat_map(|one| &one.list_names).any(|name| !is_like_list_id(name))
    }

    pub(super) fn terms(&self) -> Terms<'_> {
        Terms::new(&self.options, self.catalogue.as_deref())
    }

    /// Returns a string that differs whenever the same message might make another request, because a subscription or an
    /// option differs.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Returns likely errors in its subscriptions.
    pub fn warnings(&self) -> Vec<SubscriptionProblem> {
        let mut warnings: Vec<SubscriptionProblem> =
            self.subscriptions.iter().flat_map(CompiledSubscription::warnings).collect();
        let enabled = || self.subscriptions.iter().filter(|one| one.is_enabled());
        for deleting in enabled().filter(|one| one.deletes()) {
            for other in enabled().filter(|one| !one.deletes()) {
                let takes_both =
                    |kind: &MessageType| deleting.may_match(*kind) && other.may_match(*kind);
                if let Some(kind) = MessageType::ALL.into_iter().find(takes_both) {
                    warnings.push(deleting.problem(
                        "trigger",
                        format!(
                            "it deletes the contact, and `{0}` may take the same {kind} message: the deletion then goes last, and undoes what `{0}` did to the contact; write triggers that exclude each other",
                            other.name()
                        ),
                    ));
                }
            }
        }
        let creates =
            |one: &CompiledSubscription| one.action() == ActionKind::CreateOrUpdateContact;
        let sending = enabled().find(|one| one.action() == ActionKind::SendEvent);
        if let Some(sending) = sending.filter(|_| !enabled().any(creates)) {
            warnings.push(sending.problem(
                "action",
                "it sends events, and no enabled subscription creates contacts: Loops refuses an event of a userId that no contact has, unless it has an e-mail address. Add a subscription with action createOrUpdateContact for `type = \"identify\"`; the default one no longer applies once you write your own".to_owned(),
            ));
        }
        warnings
    }

    /// Whether nothing is sent.
    pub fn is_shadow(&self) -> bool {
        self.options.mode == Mode::Shadow
    }

    /// Returns its options.
    pub fn options(&self) -> &DestinationOptions {
        &self.options
    }

    /// Plans a message.
    ///
    /// A message that Segment's validation refuses has a delivery without a request:
    ///
    /// ```
    /// use segment_loops::destination::{Destination, PlanFailureKind, Unsupported};
    /// use segment_loops::js::decode::decode;
    /// use segment_loops::segment::Message;
    ///
    /// let destination = Destination::compile(&Destination::default_subscriptions(), Unsupported::Omit).unwrap();
    /// let message = Message::from_stored(decode(br#"{
    ///     "type": "track", "messageId": "m1", "userId": "u1", "event": "Signed Up",
    ///     "properties": {"email": "not an address"}
    /// }"#)?)?;
    /// let failure = destination.plan(&message).deliveries[0].outcome.clone().unwrap_err();
    /// assert_eq!(failure.kind, PlanFailureKind::Invalid);
    /// assert_eq!(failure.detail, "Contact Email must be a valid email address string but it was not.");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn plan(&self, message: &Message) -> Plan {
        self.plan_under(message, self.terms())
    }

    /// Plans a message for the case that the catalogue may be out of date: it warns, and neither leaves out nor changes
    /// what it does not know, nor fails because of it.
    pub fn plan_with_old_catalogue(&self, message: &Message) -> Plan {
        let mut terms = self.terms();
        if let Some(review) = &mut terms.review {
            review.options = CatalogueOptions::default();
        }
        self.plan_under(message, terms)
    }

    fn plan_under(&self, message: &Message, terms: Terms<'_>) -> Plan {
        let plan = |one: &CompiledSubscription| Ok(one.plan(message.value(), terms));
        let Ok::<_, Infallible>(plan) = self.plan_with(message, plan);
        plan
    }

    /// Plans a message, with the delivery that `plan` returns for each enabled subscription.
    pub(super) fn plan_with<E>(
        &self,
        message: &Message,
        plan: impl Fn(&CompiledSubscription) -> Result<Option<PlannedDelivery>, E>,
    ) -> Result<Plan, E> {
        let happened_at = message.timestamp();
        if let Some(unmatched) = self.turned_off(message) {
            let unmatched = Some(unmatched);
            return Ok(Plan { deliveries: Vec::new(), unmatched, happened_at });
        }
        let enabled = self.subscriptions.iter().filter(|subscription| subscription.is_enabled());
        let mut deliveries: Vec<PlannedDelivery> = enabled
            .filter_map(|subscription| plan(subscription).transpose())
            .collect::<Result<_, E>>()?;
        // A request behind the deletion would create the contact again.
        deliveries.sort_by_key(|delivery| delivery.action == ActionKind::DeleteContact);
        let unmatched = deliveries.is_empty().then(|| Unmatched {
            reason: UnmatchedReason::NoSubscription,
            detail: format!("no subscription's trigger matches this {} message", message.kind()),
        });
        Ok(Plan { deliveries, unmatched, happened_at })
    }

    /// Returns why the destination is turned off for a message, if it is. Consent is checked before `integrations`.
    pub(super) fn turned_off(&self, message: &Message) -> Option<Unmatched> {
        if let Some(detail) = self.options.no_consent(message) {
            return Some(Unmatched { reason: UnmatchedReason::Consent, detail });
        }
        let detail = turned_off(message.value())?;
        Some(Unmatched { reason: UnmatchedReason::Integrations, detail })
    }

    /// Iterates over the names of its subscriptions.
    pub fn subscription_names(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.iter().map(CompiledSubscription::name)
    }

    /// Iterates over the names of its subscriptions in their order, and whether each is enabled.
    pub fn subscription_states(&self) -> impl Iterator<Item = (&str, bool)> {
        self.subscriptions.iter().map(|one| (one.name(), one.is_enabled()))
    }

    /// Whether some subscription may take messages of this type.
    pub fn takes(&self, kind: MessageType) -> bool {
        let mut enabled =
            self.subscriptions.iter().filter(|subscription| subscription.is_enabled());
        enabled.any(|subscription| subscription.may_match(kind))
    }
}

/// Returns a digest of everything that a plan depends on, apart from its message.
fn revision(subscriptions: &[Subscription], options: &DestinationOptions) -> String {
    let DestinationOptions {
        unsupported,
        placeholder_ids,
        consent_categories,
        consent,
        catalogue: CatalogueOptions { refresh: _, unknown_properties, wrong_types },
        contacts: _,
        mode: _,
    } = options;
    let written = format!(
        "{subscriptions:?} {unsupported:?} {placeholder_ids:?} {consent_categories:?} {consent:?} {unknown_properties:?} {wrong_types:?}"
    );
    let digest = Sha256::digest(written.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The names of this destination in `integrations`, by precedence: the first one that is given decides.
/// The exact name of Segment's destination comes first.
const INTEGRATION_NAMES: [&str; 3] = ["Loops (Actions)", "Actions Loops", "Loops"];

/// Returns why `integrations` turns this destination off, if it does.
pub(super) fn turned_off(message: &Value) -> Option<String> {
    let integrations = message.get("integrations")?;
    let given = |name| integrations.get(name).filter(|value| !value.is_null());
    let own = INTEGRATION_NAMES.iter().find_map(|name| Some((*name, given(name)?)));
    match own {
        Some((name, Value::Bool(false))) => {
            Some(format!("the message's integrations object turns Loops off: \"{name}\" is false"))
        }
        Some((_, value)) if value.is_truthy() => None,
        _ if integrations.get("All") == Some(&Value::Bool(false)) => Some(
            "the message's integrations object turns Loops off: \"All\" is false and \"Loops (Actions)\" is not named"
                .to_owned(),
        ),
        _ => None,
    }
}
