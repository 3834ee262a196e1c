//! Any text as a trigger, over any message: it is read or refused, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segment_loops::segment::MessageType;
use segment_loops::segment::decode::decode;
use segment_loops::trigger::Trigger;

fuzz_target!(|input: (&str, &[u8])| {
    let (text, message) = input;
    let Ok(trigger) = Trigger::compile(text) else {
        return;
    };
    let message = decode(message).unwrap_or_default();
    let matches = trigger.matches(&message);
    assert_eq!(matches, trigger.matches(&message));
    if matches.is_err() {
        assert!(trigger.latent_mistake().is_some());
    }
    trigger.why_not(&message);
    for kind in MessageType::ALL {
        trigger.may_match(kind);
    }
});
