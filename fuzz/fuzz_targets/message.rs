//! Any bytes as a message: they are read or refused; what is read is stored and read again unchanged,
//! and can be planned.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use segment_loops::destination::{Destination, Unsupported};
use segment_loops::segment::decode::decode;
use segment_loops::segment::{Message, date};

static DESTINATION: LazyLock<Destination> = LazyLock::new(|| {
    Destination::compile(&Destination::default_subscriptions(), Unsupported::Flatten)
        .expect("the defaults compile")
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        date::parse_date(text);
    }
    let Ok(value) = decode(bytes) else {
        return;
    };
    let stored = value.to_stored_json();
    let again = decode(stored.as_bytes()).expect("what is stored can be read");
    assert_eq!(again.to_stored_json(), stored);
    if let Ok(message) = Message::from_stored(value) {
        let plan = DESTINATION.plan(&message);
        DESTINATION.explain(&message);
        for delivery in plan.deliveries {
            if let Ok(request) = delivery.outcome {
                decode(&request.body).expect("a body is JSON");
            }
        }
    }
});
