//! The inputs that fuzzing has kept: each property of `fuzz/` holds for each of them.

use std::path::Path;

#[path = "../../fuzz/src/properties.rs"]
mod properties;

#[test]
fn every_property_holds_for_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, property) in properties::ALL {
        let files: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let file = file.unwrap().path();
            let input = std::fs::read(&file).unwrap();
            let held = std::panic::catch_unwind(|| property(&input));
            assert!(held.is_ok(), "{} does not hold for {}", name, file.display());
        }
    }
}
