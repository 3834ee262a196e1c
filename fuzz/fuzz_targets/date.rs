#![no_main]

use segment_loops_fuzz::{check, properties};

libfuzzer_sys::fuzz_target!(|input: &[u8]| check(properties::date, input));
