//! Any bytes as a batch: it is taken apart into pieces that do not overlap, and a whole message between
//! any two runs of bytes is found once at the most.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segment_loops::segment::batch::{Batch, Piece};

const PIECES_MAX: usize = 50;

const MESSAGE: &[u8] = br#"{"type":"track","userId":"u","messageId":"whole","event":"E","properties":{"l":[{"a":"}]"}]}}"#;

/// The items of a body, checked.
fn items(body: &[u8]) -> Vec<&[u8]> {
    let batch = Batch::read(body, PIECES_MAX);
    assert!(batch.pieces.len() <= batch.count.min(PIECES_MAX));
    let shared = batch.shared();
    let mut end = 0;
    let mut items = Vec::new();
    for piece in &batch.pieces {
        match *piece {
            Piece::Item { bytes, envelope } => {
                let at = bytes.as_ptr() as usize - body.as_ptr() as usize;
                assert!(at >= end && !bytes.is_empty());
                assert!(envelope < shared.len());
                end = at + bytes.len();
                items.push(bytes);
            }
            Piece::Broken { at } => {
                assert!(at >= end && at < body.len());
                end = at;
            }
        }
    }
    items
}

fuzz_target!(|input: (&[u8], &[u8])| {
    let (before, behind) = input;
    let body = [before, MESSAGE, behind].concat();
    let found = items(&body).iter().filter(|item| **item == MESSAGE).count();
    let is_given = |part: &[u8]| part.windows(MESSAGE.len()).any(|window| window == MESSAGE);
    assert!(found <= 1 || is_given(before) || is_given(behind));
    items(before);
});
