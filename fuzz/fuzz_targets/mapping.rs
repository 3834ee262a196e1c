//! Any JSON as a mapping, over any message: it is compiled or refused, and resolves or fails, always
//! in the same way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segment_loops::mapping::Mapping;
use segment_loops::segment::Value;
use segment_loops::segment::decode::decode;

fuzz_target!(|input: (&[u8], &[u8])| {
    let (mapping, message) = input;
    let Ok(written) = decode(mapping) else {
        return;
    };
    let Ok(compiled) = Mapping::compile(&written) else {
        return;
    };
    let message = match decode(message) {
        Ok(message @ Value::Object(_)) => message,
        Ok(other) => Value::Object([("traits".to_owned(), other)].into_iter().collect()),
        Err(_) => Value::Object(Default::default()),
    };
    assert_eq!(compiled.resolve(&message), compiled.resolve(&message));
    let _ = compiled.resolve_fields(&message);
    compiled.origins(&message);
});
