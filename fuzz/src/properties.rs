//! What must hold for any input, however hostile. The fuzz targets and the test over their corpus check
//! the same: each function takes the bytes of one input and panics if a property does not hold.
//!
//! An input of several parts has them separated by [`SEPARATOR`].

use std::collections::HashMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use segment_loops::config::{Flags, load, read_value};
use segment_loops::destination::{Destination, Unsupported};
use segment_loops::js::date::{MILLISECONDS_MAX, parse_date};
use segment_loops::js::decode::decode;
use segment_loops::js::{Object, Value};
use segment_loops::mapping::{Fields, Mapping};
use segment_loops::segment::batch::{Batch, Piece};
use segment_loops::segment::list::{is_list, split_list};
use segment_loops::segment::stamp::{Stamp, stamp};
use segment_loops::segment::{Message, MessageType, signature};
use segment_loops::trigger::Trigger;
use sha1::{Digest as _, Sha1};

/// ASCII's record separator.
const SEPARATOR: u8 = 0x1e;

/// Panics if it does not hold for an input.
pub type Property = fn(&[u8]);

/// The name of each property, which is that of its fuzz target and of the folder of its corpus.
pub const ALL: [(&str, Property); 8] = [
    ("batch", batch),
    ("config", config),
    ("date", date),
    ("liquid", liquid),
    ("mapping", mapping),
    ("message", message),
    ("signature", signature),
    ("trigger", trigger),
];

fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut parts = input.splitn(N, |byte| *byte == SEPARATOR);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

const PIECES_MAX: usize = 50;

const WHOLE: &[u8] = br#"{"type":"track","userId":"u","messageId":"whole","event":"E","properties":{"l":[{"a":"}]"}]}}"#;

/// Two runs of bytes: each is taken apart into pieces that do not overlap, and a whole message between them is
/// found once at the most. A batch of messages that is JSON has as many pieces as messages, and is
/// sound.
pub fn batch(input: &[u8]) {
    let [before, behind] = parts(input);
    let body = [before, WHOLE, behind].concat();
    let found = items(&body).iter().filter(|item| **item == WHOLE).count();
    let is_given = |part: &[u8]| part.windows(WHOLE.len()).any(|window| window == WHOLE);
    assert!(found <= 1 || is_given(before) || is_given(behind));
    items(before);
    let batch = [br#"{"batch":["#, before, b"]}"].concat();
    let sound =
        serde_json::from_slice::<HashMap<String, Vec<HashMap<String, serde_json::Value>>>>(&batch);
    if let Ok(sound) = sound
        && sound["batch"].iter().all(is_message)
        && !before.windows(5).any(|window| window == b"batch" || window.contains(&b'\\'))
    {
        let read = Batch::read(&batch, usize::MAX);
        let messages = &sound["batch"];
        assert!(read.is_sound || messages.is_empty(), "{read:?}");
        assert_eq!(read.count, messages.len());
        for piece in read.pieces {
            let Piece::Item { bytes, .. } = piece else { panic!("{piece:?}") };
            assert!(serde_json::from_slice::<serde_json::Value>(bytes).is_ok());
        }
    }
}

/// Whether an object has one of Segment's types.
fn is_message(object: &HashMap<String, serde_json::Value>) -> bool {
    let kind = object.get("type").and_then(serde_json::Value::as_str);
    kind.is_some_and(|kind| MessageType::parse(kind).is_some())
}

/// The items of a body, checked.
fn items(body: &[u8]) -> Vec<&[u8]> {
    let batch = Batch::read(body, PIECES_MAX);
    assert!(batch.pieces.len() <= batch.count.min(PIECES_MAX));
    let mut end = 0;
    let mut items = Vec::new();
    for piece in &batch.pieces {
        match *piece {
            Piece::Item { bytes, envelope } => {
                let at = bytes.as_ptr() as usize - body.as_ptr() as usize;
                assert!(at >= end && !bytes.is_empty());
                assert!(batch.shared(envelope).len() <= 3);
                end = at + bytes.len();
                items.push(bytes);
            }
            Piece::Broken { at } => {
                assert!(at >= end && at < body.len());
                end = at;
            }
        }
    }
    // The same body is read in the same way, whatever is kept of it.
    let few = Batch::read(body, 1);
    assert_eq!(
        (few.count, few.is_sound, &few.write_key),
        (batch.count, batch.is_sound, &batch.write_key)
    );
    assert_eq!(few.pieces.first(), batch.pieces.first());
    items
}

/// A secret, a signature, a body: a signature is valid exactly if it is the MAC of the body, or of the first
/// message of a list, by another implementation.
pub fn signature(input: &[u8]) {
    let [secret, given, body] = parts(input);
    let (Ok(secret), Ok(given)) = (str::from_utf8(secret), str::from_utf8(given)) else {
        return;
    };
    let list = is_list(body).then(|| split_list(body, 10));
    let first = list.as_ref().and_then(|list| list.as_ref().ok()?.messages.first().copied());
    let is_valid = |signature: &str| signature::is_valid(secret, signature, body, first);
    let rights: Vec<String> = [Some(body), first]
        .into_iter()
        .flatten()
        .map(|text| hmac(secret.as_bytes(), text))
        .collect();
    assert_eq!(is_valid(given), rights.contains(&given.trim().to_ascii_lowercase()));
    for right in &rights {
        assert!(
            is_valid(right)
                && is_valid(&right.to_uppercase())
                && is_valid(&format!(" {right}\r\n"))
        );
        let digit = body.len() % right.len();
        let other = if right.as_bytes()[digit] == b'0' { "1" } else { "0" };
        let mut wrong = right.clone();
        wrong.replace_range(digit..=digit, other);
        assert!(!is_valid(&wrong) && !is_valid(&right[1..]) && !is_valid(&format!("{right}0")));
        assert!(!signature::is_valid(&format!("{secret}x"), right, body, first));
    }
    // What is verified is what is read: the messages are parts of the body that do not overlap.
    if let Some(Ok(list)) = list {
        let mut end = 0;
        for message in list.messages {
            let at = message.as_ptr() as usize - body.as_ptr() as usize;
            assert!(at >= end && at + message.len() <= body.len());
            end = at + message.len();
        }
    }
}

/// HMAC-SHA1 in hex, as RFC 2104 defines it.
fn hmac(secret: &[u8], text: &[u8]) -> String {
    let mut key = [0; 64];
    match secret.len() {
        0..=64 => key[..secret.len()].copy_from_slice(secret),
        _ => key[..20].copy_from_slice(&Sha1::digest(secret)),
    }
    let inner = Sha1::new().chain_update(key.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    let outer =
        Sha1::new().chain_update(key.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A trigger in FQL and a message: it is read or refused, takes the message or not, always in the same way; and
/// what it says about messages it may take is true.
pub fn trigger(input: &[u8]) {
    let [text, message] = parts(input);
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let trigger = match Trigger::compile(text) {
        Ok(trigger) => trigger,
        Err(error) => {
            assert!(error.at <= text.chars().count(), "{error}");
            assert_eq!(Trigger::compile(text), Err(error));
            return;
        }
    };
    // A number in it may be NaN, which is not equal to itself.
    assert_eq!(format!("{:?}", Trigger::compile(text)), format!("{:?}", Ok::<_, ()>(&trigger)));
    let message = decode(message).unwrap_or_default();
    let matches = trigger.matches(&message);
    assert_eq!(matches, trigger.matches(&message));
    if matches.is_err() {
        assert!(trigger.latent_problem().is_some());
    }
    let kind = message.get("type").and_then(Value::as_str).and_then(MessageType::parse);
    if let (Ok(true), Some(kind)) = (matches, kind) {
        assert!(trigger.may_match(kind));
    }
    assert!(trigger.why_not(&message).len() <= text.len() * 10 + 10_000);
    for name in trigger.event_names() {
        assert!(name.len() <= text.len());
    }
    trigger.warnings();
    for kind in MessageType::ALL {
        trigger.may_match(kind);
    }
}

/// A message for a mapping: an object, whatever is given.
fn object(bytes: &[u8]) -> Value {
    match decode(bytes) {
        Ok(object @ Value::Object(_)) => object,
        Ok(other) => Value::Object([("traits".to_owned(), other)].into_iter().collect()),
        Err(_) => Value::Object(Object::default()),
    }
}

/// A mapping in JSON and a message: it is compiled or refused, and resolves or fails, always in the same way and
/// to the same value by each way of asking.
pub fn mapping(input: &[u8]) {
    let [written, message] = parts(input);
    let Ok(written) = decode(written) else {
        return;
    };
    let compiled = match Mapping::compile(&written) {
        Ok(compiled) => compiled,
        Err(errors) => {
            assert!(!errors.problems.is_empty());
            return;
        }
    };
    let message = object(message);
    let resolved = resolved(&compiled, &message);
    let fields = compiled.resolve_fields(&message).map(|fields| match fields {
        Fields::Object(fields) => {
            let own = |(key, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, Value>)| {
                (key.into_owned(), value.into_owned())
            };
            Some(Value::Object(fields.into_iter().map(own).collect()).to_json())
        }
        Fields::Other(other) => other.map(|value| value.to_json()),
    });
    assert_eq!(fields.map_err(|failure| failure.to_string()), resolved);
    compiled.origins_until(&message, &|| false);
    // An object without a directive gives itself.
    if written.as_object().is_some() && !written.to_json().contains('@') {
        assert_eq!(resolved, Ok(Some(written.to_json())));
    }
}

/// What a mapping gives, as JSON: NaN is not equal to itself.
fn resolved(mapping: &Mapping, message: &Value) -> Result<Option<String>, String> {
    let resolve = || {
        let resolved = mapping.resolve(message).map_err(|failure| failure.to_string())?;
        Ok(resolved.map(|value| value.to_json()))
    };
    let first = resolve();
    assert_eq!(resolve(), first);
    first
}

/// LiquidJS' bound on a template, and ours on a text that it gives.
const TEMPLATE_UNITS_MAX: usize = 1_000;
const LIQUID_BYTES_MAX: usize = 1 << 20;

/// A Liquid template and a message: what it gives is a text within bounds, always the same; and plain text gives
/// itself.
pub fn liquid(input: &[u8]) {
    let [template, message] = parts(input);
    let Ok(template) = str::from_utf8(template) else {
        return;
    };
    let directive = [("@liquid".to_owned(), Value::from(template))].into_iter().collect();
    let written =
        Value::Object([("text".to_owned(), Value::Object(directive))].into_iter().collect());
    let Ok(compiled) = Mapping::compile(&written) else {
        return;
    };
    let message = object(message);
    resolved(&compiled, &message).ok();
    let Ok(Some(given)) = compiled.resolve(&message) else {
        return;
    };
    let Some(text) = given.get("text") else {
        return;
    };
    let text = text.as_str().expect("a template gives a text");
    assert!(text.len() <= LIQUID_BYTES_MAX, "{}", text.len());
    let is_plain = !["{{", "{%"].iter().any(|begin| template.contains(begin));
    if is_plain && template.encode_utf16().count() <= TEMPLATE_UNITS_MAX {
        assert_eq!(text, template);
    }
}

static DESTINATION: LazyLock<Destination> = LazyLock::new(|| {
    Destination::compile(&Destination::default_subscriptions(), Unsupported::Flatten)
        .expect("the defaults compile")
});

/// A message: it is read or refused; what is read is stored and read again unchanged, and is planned, always in the
/// same way.
pub fn message(input: &[u8]) {
    let Ok(value) = decode(input) else {
        return;
    };
    let stored = value.to_stored_json();
    let again = decode(stored.as_bytes()).expect("what is stored can be read");
    assert_eq!(again.to_stored_json(), stored);
    if let Ok(message) = Message::from_stored(value) {
        let plan = DESTINATION.plan(&message);
        DESTINATION.explain(&message);
        let bodies = |plan: segment_loops::destination::Plan| {
            let outcomes = plan.deliveries.into_iter().map(|delivery| delivery.outcome);
            outcomes.filter_map(Result::ok).map(|request| request.body).collect::<Vec<_>>()
        };
        let first = bodies(plan);
        for body in &first {
            decode(body).expect("a body is JSON");
        }
        assert_eq!(bodies(DESTINATION.plan(&message)), first);
    }
}

/// A text as a date, and as the time of a message: a moment within JavaScript's range, which reads the same when it
/// is written as JavaScript writes it; and a stamped message has times that every reader understands.
pub fn date(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let read = parse_date(text);
    assert_eq!(read, parse_date(text));
    if let Some(moment) = read {
        assert!(moment.abs() <= MILLISECONDS_MAX && moment.fract() == 0.0, "{moment}");
        if let Ok(time) = Timestamp::from_millisecond(moment as i64) {
            let iso = format!("{time:.3}");
            assert_eq!(parse_date(&iso), Some(moment), "{iso}");
            assert_eq!(iso.parse().ok(), Some(time), "{iso}");
        }
    }
    stamped(text);
}

/// Stamps a message whose `timestamp` and `sentAt` are this text.
fn stamped(text: &str) {
    let received_at = Timestamp::from_second(1_764_000_000).expect("a time");
    let options = Stamp {
        received_at,
        kind: Some(MessageType::Track),
        sent_at: None,
        is_from_segment: false,
        is_sent_now: true,
        ip: None,
    };
    let object = |keys: &[&str]| -> Object {
        let fixed = [("userId", "u"), ("event", "E")]
            .map(|(key, text)| (key.to_owned(), Value::from(text)));
        fixed
            .into_iter()
            .chain(keys.iter().map(|key| ((*key).to_owned(), Value::from(text))))
            .collect()
    };
    let time_of = |message: &Message, key: &str| -> Timestamp {
        let text = message.value().get(key).and_then(Value::as_str).map(str::to_owned);
        text.expect("it is stamped").parse().expect("ISO 8601")
    };
    for keys in [&["timestamp"][..], &["timestamp", "sentAt"]] {
        let stamped = stamp(object(keys), options, || "m".to_owned()).expect("a message");
        let message = stamped.message;
        assert_eq!(time_of(&message, "receivedAt"), received_at);
        let time = time_of(&message, "timestamp");
        if keys.len() == 2 || !stamped.warnings.is_empty() {
            // Sent when it happened, or at a time that nobody can read: it happened on receipt.
            assert_eq!(time, received_at, "{text}");
        }
        // Stamped again, as by Segment, it stays what it is.
        let Value::Object(again) = message.value().clone() else { panic!("no object") };
        let options = Stamp { is_from_segment: true, ..options };
        let again = stamp(again, options, || "other".to_owned()).expect("a message");
        assert_eq!(again.message.value().to_json(), message.value().to_json());
    }
}

/// A value that no error may show.
const CANARY: &str = "key-canary-83b1";

/// A configuration file, lines of an environment, a file of subscriptions: they are read or refused, always in the
/// same way, and no error shows a secret. A file means the same in each format.
pub fn config(input: &[u8]) {
    // What it names is read, whatever it is.
    if input.windows(5).any(|window| window == b"/dev/" || window == b"/proc") {
        return;
    }
    let [file, environment, subscriptions] = parts(input);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).expect("a file can be written");
        file
    };
    let flags = Flags { file: Some(write("config.toml", file)), ..Flags::default() };
    let mut variables: HashMap<String, String> =
        [("LOOPS_API_KEY".to_owned(), CANARY.to_owned())].into();
    for line in String::from_utf8_lossy(environment).lines() {
        if let Some((name, value)) = line.split_once('=') {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    let read = |flags: &Flags| match load(flags, variables.clone()) {
        Ok(config) => format!("{config:?}"),
        Err(errors) => {
            assert!(!errors.0.is_empty());
            errors.to_string()
        }
    };
    let first = read(&flags);
    // Reading is slow, so that only some are read twice.
    if input.len().is_multiple_of(4) {
        assert_eq!(read(&flags), first);
    }
    let is_given =
        |bytes: &[u8]| bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
    assert!(is_given(input) || !first.contains(CANARY), "{first}");
    for format in ["toml", "yaml", "json"] {
        let Ok(value) = read_value(&write(&format!("subscriptions.{format}"), subscriptions))
        else {
            continue;
        };
        let json = value.to_json();
        let again = read_value(&write("again.json", json.as_bytes())).expect("JSON is read");
        assert_eq!(again.to_json(), json);
    }
}
