//! Stamps a message as Segment does when it accepts one: type, message id, times.

use std::net::IpAddr;

use jiff::Timestamp;

use super::message::{InvalidMessage, Message, MessageType, id_text};
use super::time::read_time;
use crate::js::{Object, Value};

/// What stamping needs besides the message.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// When the message was received.
    pub received_at: Timestamp,
    /// The type that the path implies, for a message that has none.
    pub kind: Option<MessageType>,
    /// The `sentAt` of the batch's envelope.
    pub sent_at: Option<&'a Value>,
    /// Whether Segment has stamped the message already (webhooks, subscription destination): times that it has are
    /// kept.
    pub is_from_segment: bool,
    /// Whether `sentAt` is the time at which the message was sent to us. In a file it is not, and corrects nothing.
    pub is_sent_now: bool,
    /// The sender's IP address, if it is to be kept as `context.ip`.
    pub ip: Option<IpAddr>,
}

/// A message that was stamped.
#[derive(Debug, Clone, PartialEq)]
pub struct Stamped {
    /// The message.
    pub message: Message,
    /// What could not be read of it, for people; never contains a value.
    pub warnings: Vec<String>,
}

/// Stamps a message and checks it. `new_id` generates the id of a message that has none.
///
/// `timestamp` becomes the client's time corrected by the error of its clock: `receivedAt − (sentAt −
/// originalTimestamp)`, as Segment documents it. The write key is removed. An identify that has traits only in its
/// context gets them as its own.
pub fn stamp(
    mut object: Object,
    stamp: Stamp<'_>,
    new_id: impl FnOnce() -> String,
) -> Result<Stamped, InvalidMessage> {
    object.remove("writeKey");
    if let (Some(kind), None | Some(Value::Null)) = (stamp.kind, object.get("type")) {
        object.insert("type", Value::from(kind.as_str()));
    }
    let message_id = id_text(object.get("messageId")).map_or_else(new_id, |id| id.into_owned());
    let is_stamped =
        stamp.is_from_segment && object.get("receivedAt").is_some_and(Value::is_truthy);
    let mut warnings = Vec::new();
    if !is_stamped {
        stamp_times(&mut object, stamp, &mut warnings);
    }
    if !stamp.is_from_segment {
        lift_traits(&mut object);
    }
    if let Some(ip) = stamp.ip {
        stamp_ip(&mut object, ip);
    }
    Ok(Stamped { message: Message::new(object, message_id)?, warnings })
}

fn stamp_times(object: &mut Object, stamp: Stamp<'_>, warnings: &mut Vec<String>) {
    let received_at = stamp.received_at;
    let given = |key: &str| object.get(key).filter(|value| value.is_truthy()).cloned();
    let times = ["timestamp", "originalTimestamp"].map(given);
    let original_at = times.iter().flatten().find_map(read_time);
    let original = times.into_iter().flatten().next();
    if original.is_some() && original_at.is_none() {
        let text = "`timestamp` cannot be read as a time, so the time of receipt is used: send ISO 8601, such as 2026-01-02T03:04:05Z";
        warnings.push(text.to_owned());
    }
    // The envelope's `sentAt` is of this attempt to send the batch; a message's own may be of an earlier one.
    let sent = stamp.sent_at.filter(|value| value.is_truthy()).cloned().or_else(|| given("sentAt"));
    let sent_at = sent.as_ref().filter(|_| stamp.is_sent_now).and_then(read_time);
    if stamp.is_sent_now && sent.is_some() && sent_at.is_none() {
        let text = "`sentAt` cannot be read as a time, so `timestamp` is not corrected by the sender's clock";
        warnings.push(text.to_owned());
    }
    let corrected = match (original_at, sent_at) {
        (Some(original_at), Some(sent_at)) => {
            received_at.checked_sub(sent_at.duration_since(original_at)).unwrap_or(received_at)
        }
        (Some(original_at), None) => original_at,
        (None, _) => received_at,
    };
    let received = Value::String(iso(received_at));
    object.insert("originalTimestamp", original.unwrap_or_else(|| received.clone()));
    if let Some(sent) = sent {
        object.insert("sentAt", sent);
    }
    object.insert("receivedAt", received);
    object.insert("timestamp", Value::String(iso(corrected)));
}

/// Copies the traits of an identify's context to its `traits`, if it has none.
///
/// RudderStack's Python SDK puts the traits of an identify only there, and RudderStack's own service reads them there.
/// Segment does not, so what comes from Segment is left as it is. In other calls, `context.traits` describes the
/// person besides the call, and stays where it is.
fn lift_traits(object: &mut Object) {
    let is_identify =
        object.get("type").and_then(Value::as_str) == Some(MessageType::Identify.as_str());
    if !is_identify || !matches!(object.get("traits"), None | Some(Value::Null)) {
        return;
    }
    let in_context = object.get("context").and_then(|context| context.get("traits"));
    if let Some(traits @ Value::Object(_)) = in_context.cloned() {
        object.insert("traits", traits);
    }
}

/// Sets `context.ip`. One that is there stays, as at Segment, where a sender gives `0.0.0.0` to have none kept.
fn stamp_ip(object: &mut Object, ip: IpAddr) {
    if matches!(object.get("context"), None | Some(Value::Null)) {
        object.insert("context", Value::Object(Object::new()));
    }
    if let Some(Value::Object(context)) = object.get_mut("context")
        && matches!(context.get("ip"), None | Some(Value::Null))
    {
        context.insert("ip", Value::String(ip.to_string()));
    }
}

/// Returns a time as JavaScript's `toISOString` writes it.
fn iso(at: Timestamp) -> String {
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::js::decode::decode;

    fn stamped(
        text: &str,
        sent_at: Option<&str>,
        is_from_segment: bool,
    ) -> Result<Value, InvalidMessage> {
        let Ok(Value::Object(object)) = decode(text.as_bytes()) else { panic!("{text}") };
        let sent_at = sent_at.map(Value::from);
        let input = Stamp {
            is_sent_now: true,
            received_at: "2026-11-23T12:00:10.123456Z".parse().unwrap(),
            kind: Some(MessageType::Track),
            sent_at: sent_at.as_ref(),
            is_from_segment,
            ip: None,
        };
        let stamped = stamp(object, input, || "made".to_owned())?;
        Ok(stamped.message.value().clone())
    }

    fn field(value: &Value, key: &str) -> String {
        value.get(key).and_then(Value::as_str).unwrap_or("none").to_owned()
    }

    #[test]
    fn times_are_corrected_by_the_clock_of_the_sender() {
        // (timestamp, originalTimestamp, sentAt of the message, sentAt of the envelope) → (original, corrected)
        let minutes_late = "2026-11-23T11:00:05.000Z";
        let cases = [
            (
                r#""timestamp":"2026-11-23T11:00:00.000Z""#,
                Some(minutes_late),
                "2026-11-23T11:00:00.000Z",
                "2026-11-23T12:00:05.123Z",
            ),
            (
                r#""originalTimestamp":"2026-11-23T11:00:00.000Z","sentAt":"2026-11-23T11:00:05.000Z""#,
                None,
                "2026-11-23T11:00:00.000Z",
                "2026-11-23T12:00:05.123Z",
            ),
            (
                r#""timestamp":"2026-11-23T13:00:00+02:00","sentAt":"2026-11-23T11:00:00.000001+00:00""#,
                None,
                "2026-11-23T13:00:00+02:00",
                "2026-11-23T12:00:10.123Z",
            ),
            (
                r#""timestamp":"2020-01-01T00:00:00""#,
                None,
                "2020-01-01T00:00:00",
                "2020-01-01T00:00:00.000Z",
            ),
            (
                r#""timestamp":"-007000-01-01""#,
                None,
                "-007000-01-01",
                "-007000-01-01T00:00:00.000Z",
            ),
            (r#""timestamp":"0099-01-01""#, None, "0099-01-01", "0099-01-01T00:00:00.000Z"),
            (r#""timestamp":"soon""#, Some(minutes_late), "soon", "2026-11-23T12:00:10.123Z"),
            (
                r#""timestamp":null"#,
                Some(minutes_late),
                "2026-11-23T12:00:10.123Z",
                "2026-11-23T12:00:10.123Z",
            ),
            (
                r#""timestamp":"9999-12-30T22:00:00Z""#,
                Some("-009999-01-02T01:59:59Z"),
                "9999-12-30T22:00:00Z",
                "2026-11-23T12:00:10.123Z",
            ),
        ];
        for (fields, sent_at, original, corrected) in cases {
            let text = format!(r#"{{"userId":"u",{fields}}}"#);
            let value = stamped(&text, sent_at, false).unwrap();
            assert_eq!(field(&value, "originalTimestamp"), original, "{text}");
            assert_eq!(field(&value, "timestamp"), corrected, "{text}");
            assert_eq!(field(&value, "receivedAt"), "2026-11-23T12:00:10.123Z");
        }
    }

    #[test]
    fn a_time_that_cannot_be_read_leaves_a_warning() {
        // (fields, whether it is sent now) → names of the fields that are warned about
        let cases: [(&str, bool, &[&str]); 7] = [
            (r#""timestamp":"2026-11-23T11:00:00Z","sentAt":"2026-11-23T11:00:05Z""#, true, &[]),
            (r#""timestamp":1396594800,"sentAt":1396594800123"#, true, &[]),
            ("", true, &[]),
            (r#""timestamp":"soon""#, true, &["timestamp"]),
            (r#""timestamp":"soon","originalTimestamp":"2026-11-23T11:00:00Z""#, true, &[]),
            (r#""timestamp":{},"sentAt":"01/02/2026""#, true, &["timestamp", "sentAt"]),
            (r#""sentAt":"soon""#, false, &[]),
        ];
        for (fields, is_sent_now, expected) in cases {
            let text = format!("{{\"userId\":\"u\",\"type\":\"track\",\"x\":1,{fields}}}")
                .replace(",}", "}");
            let Ok(Value::Object(object)) = decode(text.as_bytes()) else { panic!("{text}") };
            let input = Stamp {
                is_sent_now,
                received_at: Timestamp::UNIX_EPOCH,
                kind: None,
                sent_at: None,
                is_from_segment: false,
                ip: None,
            };
            let warnings = stamp(object, input, String::new).unwrap().warnings;
            assert_eq!(warnings.len(), expected.len(), "{text}: {warnings:?}");
            for (warning, field) in warnings.iter().zip(expected) {
                assert!(warning.starts_with(&format!("`{field}`")), "{text}: {warning}");
            }
        }
    }

    #[test]
    fn what_segment_stamped_stays() {
        let text = r#"{"userId":"u","receivedAt":"r","timestamp":"t","originalTimestamp":"o"}"#;
        let value = stamped(text, None, true).unwrap();
        assert_eq!([field(&value, "receivedAt"), field(&value, "timestamp")], ["r", "t"]);
        assert_ne!(field(&stamped(text, None, false).unwrap(), "receivedAt"), "r");
    }

    #[test]
    fn type_and_message_id_are_given_to_those_that_lack_them() {
        let value = stamped(r#"{"userId":"u","writeKey":"k"}"#, None, false).unwrap();
        assert_eq!([field(&value, "type"), field(&value, "messageId")], ["track", "made"]);
        assert_eq!(value.get("writeKey"), None);
        let value = stamped(r#"{"userId":"u","type":"page","messageId":17}"#, None, false).unwrap();
        assert_eq!([field(&value, "type"), field(&value, "messageId")], ["page", "17"]);
    }

    #[test]
    fn an_identify_without_traits_has_those_of_its_context() {
        let context = r#""context":{"traits":{"email":"c"}}"#;
        // (fields, whether it is from Segment) → traits
        let cases = [
            (format!(r#""type":"identify",{context}"#), false, Some(r#"{"email":"c"}"#)),
            (
                format!(r#""type":"identify","traits":null,{context}"#),
                false,
                Some(r#"{"email":"c"}"#),
            ),
            (format!(r#""type":"identify","traits":{{}},{context}"#), false, Some("{}")),
            (
                format!(r#""type":"identify","traits":{{"a":1}},{context}"#),
                false,
                Some(r#"{"a":1}"#),
            ),
            (format!(r#""type":"identify",{context}"#), true, None),
            (format!(r#""type":"track",{context}"#), false, None),
            (format!(r#""type":"group",{context}"#), false, None),
            (r#""type":"identify","context":{"traits":"t"}"#.to_owned(), false, None),
            (r#""type":"identify""#.to_owned(), false, None),
        ];
        for (fields, is_from_segment, expected) in cases {
            let text = format!(r#"{{"userId":"u",{fields}}}"#);
            let value = stamped(&text, None, is_from_segment).unwrap();
            let traits = value.get("traits").map(Value::to_json);
            assert_eq!(traits.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn an_address_is_put_where_there_is_none() {
        let cases = [
            ("{}", r#"{"ip":"192.0.2.7"}"#),
            (r#"{"context":null}"#, r#"{"ip":"192.0.2.7"}"#),
            (r#"{"context":{"ip":null,"a":1}}"#, r#"{"ip":"192.0.2.7","a":1}"#),
            (r#"{"context":{"ip":"0.0.0.0"}}"#, r#"{"ip":"0.0.0.0"}"#),
            (r#"{"context":"odd"}"#, r#""odd""#),
        ];
        for (text, expected) in cases {
            let Ok(Value::Object(mut object)) = decode(text.as_bytes()) else { panic!("{text}") };
            stamp_ip(&mut object, "192.0.2.7".parse().unwrap());
            assert_eq!(object.get("context").map(Value::to_json).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_message_is_about_somebody() {
        let good = [
            r#""userId":7"#,
            r#""anonymousId":"a""#,
            r#""traits":{"email":"e"}"#,
            r#""userId":"","properties":{"email":"e"}"#,
            r#""context":{"traits":{"email":"e"}}"#,
            r#""email":"e""#,
        ];
        for fields in good {
            assert!(stamped(&format!("{{{fields}}}"), None, false).is_ok(), "{fields}");
        }
        let bad = [
            (r#""userId":"""#, InvalidMessage::Nobody),
            (r#""userId":null"#, InvalidMessage::Nobody),
            (r#""anonymousId":true"#, InvalidMessage::Nobody),
            (r#""userId":{}"#, InvalidMessage::UserId),
            (r#""userId":NaN"#, InvalidMessage::UserId),
        ];
        for (fields, problem) in bad {
            assert_eq!(stamped(&format!("{{{fields}}}"), None, false), Err(problem), "{fields}");
        }
    }
}
