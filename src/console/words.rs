//! The closed sets of other modules as JSON and its schema have them: strings, with all values listed. They are
//! implemented here because those modules know nothing of schemas.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::diagnosis::DiagnosisCode;
use super::erasures::ErasureState;
use super::filter::ListedState;
use super::verdict::VerdictKind;
use crate::action::{ActionKind, UnmatchedReason};
use crate::destination::Change;
use crate::queue::{
    AttemptOutcome, AuditAction, DeliveryState, FailureReason, HoldReason, MessageState,
    NotNeededReason, OriginKind, ReplayState, Stage, TallyStep,
};
use crate::segment::MessageType;

macro_rules! words {
    ($($set:ident $(or $other:ident)?: $description:literal),+ $(,)?) => {$(
        impl Serialize for $set {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl PartialSchema for $set {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some($description))
                    .enum_values(Some(
                        $set::ALL.into_iter().chain([$($set::$other)?]).map($set::as_str),
                    ))
                    .into()
            }
        }

        impl ToSchema for $set {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($set))
            }
        }
    )+};
}

words! {
    MessageType: "The kind of Segment call.",
    MessageState: "The state of a message. `pending`: it is not finished. `delivered`: Loops accepted all deliveries. `shadowed`: at least one delivery was not sent, because the destination was in shadow mode, and none failed. `failed`: at least one delivery failed. `unmatched`: no subscription took it.",
    ListedState: "The state of listed messages, or `held`: pending, and held because they would create more contacts than `new_contacts_per_day` allows. Messages that only wait behind those are not included.",
    DeliveryState or Unknown: "The outcome of a message under one subscription. `shadowed`: its request was not sent, because the destination was in shadow mode.",
    ReplayState: "The state of the messages to replay. Of `failed` and `shadowed` messages, only the failed or shadowed deliveries are repeated.",
    ActionKind: "The action of a subscription.",
    UnmatchedReason or Unknown: "Why no subscription took a message.",
    FailureReason or Unknown: "Why a delivery failed.",
    HoldReason or Unknown: "Why a message is held. `new_contact_cap`: it would create more contacts than `new_contacts_per_day` allows.",
    NotNeededReason or Unknown: "Why a delivery counts as delivered without a request. `unchanged`: Loops accepted all its values before. `stale`: Loops has newer values of all its properties.",
    AttemptOutcome or Unknown: "The result of an attempt.",
    AuditAction or Unknown: "What a person did. `reload`: the configuration was loaded again. `replay`: messages were replayed. `show_contents`: the contents of messages, or the ids of a person, were shown. `ask_loops`: Loops was asked what it holds, and the answer was shown. `erase`: the deletion of a person was requested. `create_property`: the program asked Loops to create a contact property, as `unknown_properties` lets it. `release_contacts`: more contacts may be created today. `discard_held`: messages that were held were ended.",
    ErasureState: "The state of an erasure.",
    OriginKind: "What an event that Loops reported belongs to.",
    DiagnosisCode: "The state of the service, worst first.",
    Change: "What a changed subscription means for a message. `same`: nothing changes. `changed`: the request changes. `newly_taken`: the trigger did not take the message before. `no_longer_taken`: the trigger no longer takes it. `error`: the delivery would fail, and did not before. `warning`: the request stays the same, with a new warning.",
    VerdictKind: "The verdict on a message or a person: the first one that applies, in this order.",
    TallyStep: "The length of an interval.",
    Stage: "What is counted. Whole messages: `received`, `replayed` (made pending again), `unmatched`, `delivered`, `shadowed` (not sent in shadow mode), `failed`. Deliveries: `delivery_delivered`, `delivery_shadowed`, `delivery_failed`, `delivery_warned` (planned with a warning). Requests: `request` (sent), `request_saved` (not needed: `merged`, `unchanged`; `unchanged_would` was sent although not needed). Contacts: `new_contact` (not known before Loops accepted a request for it; without a source).",
}

/// Reads sets from what people write. The error says what is allowed, and does not repeat what is given.
macro_rules! read_words {
    ($($set:ident),+ $(,)?) => {$(
        impl<'de> Deserialize<'de> for $set {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $set::ALL.into_iter().find(|word| word.as_str() == text).ok_or_else(|| {
                    let words = $set::ALL.map($set::as_str).join(", ");
                    D::Error::custom(format!("must be one of {words}"))
                })
            }
        }
    )+};
}

read_words! { ErasureState, FailureReason, ListedState, MessageType, TallyStep }
