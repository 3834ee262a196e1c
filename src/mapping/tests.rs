//! What mappings give, and what they refuse.

use super::*;
use crate::js::Value;
use crate::js::decode::decode;
use proptest::prelude::*;

fn value(text: &str) -> Value {
    decode(text.as_bytes()).unwrap()
}

fn resolve(mapping: &str, message: &Value) -> String {
    let compiled = Mapping::compile(&value(mapping)).unwrap();
    match compiled.resolve(message) {
        Ok(found) => found.map_or("nothing".to_owned(), |found| found.to_json()),
        Err(failure) => failure.to_string(),
    }
}

#[test]
fn resolves_as_segment_does() {
    let message = value(
        r#"{"a":1,"no":null,"empty":"","zero":0,"t":{"x":[1,2],"s":"aXbX"},"l":[{"n":1},{"n":null},0]}"#,
    );
    let cases = [
        (
            r#"{"k":{"@path":"$.a"},"l":"text","n":null,"m":{"@path":"$.missing"}}"#,
            r#"{"k":1,"l":"text","n":null}"#,
        ),
        (
            r#"{"o":{"i":{"@path":"$.missing"}},"l":[{"@path":"$.missing"},{"@path":"$.t.x"}]}"#,
            r#"{"o":{},"l":[null,[1,2]]}"#,
        ),
        (r#"{"k":{"@if":{"exists":{"@path":"$.empty"},"then":1,"else":2}}}"#, r#"{"k":1}"#),
        (r#"{"k":{"@if":{"exists":{"@path":"$.no"},"then":1,"else":0}}}"#, "{}"),
        (
            r#"{"k":{"@if":{"exists":{"@path":"$.no"},"then":1,"else":{"@literal":0}}}}"#,
            r#"{"k":0}"#,
        ),
        (r#"{"k":{"@if":{"exists":{"@path":"$.a"},"then":null}}}"#, r#"{"k":null}"#),
        (r#"{"k":{"@if":{"blank":{"@path":"$.zero"},"then":1,"else":2}}}"#, r#"{"k":2}"#),
        // Directives are resolved inside literals too.
        (r#"{"k":{"@literal":{"@path":"$.a"},"_metadata":{}}}"#, r#"{"k":1}"#),
        (r#"{"k":{"@template":"{{a}}-{{ missing }}-{{t.x}}"}}"#, r#"{"k":"1--1,2"}"#),
        (r#"{"@path":"$.missing"}"#, "nothing"),
        (
            r#"{"k":{"@replace":{"value":{"@path":"$.t.s"},"pattern":"x","ignorecase":true}}}"#,
            r#"{"k":"ab"}"#,
        ),
        (
            r#"{"k":{"@arrayPath":["$.l",{"m":{"@path":"$.n"}}]}}"#,
            r#"{"k":[{"m":1},{"m":null},{"m":0}]}"#,
        ),
        (
            r#"{"k":{"@merge":{"direction":"right","objects":[{"a":1},{"a":{"@path":"$.missing"}}]}}}"#,
            r#"{"k":{}}"#,
        ),
        (
            r#"{"k":{"@transform":{"apply":{"x":[{"@path":"$.missing"}]},"mapping":{"y":{"@path":"$.x[0]"}}}}}"#,
            r#"{"k":{}}"#,
        ),
        (r#"{"k":{"@excludeWhenNull":{"@path":"$.l"}}}"#, r#"{"k":[{"n":1},{"n":null},0]}"#),
        (r#"[{"@path":"$.a"}]"#, r#"{"0":1}"#),
    ];
    for (mapping, expected) in cases {
        assert_eq!(resolve(mapping, &message), expected, "{mapping}");
    }
}

#[test]
fn problems_are_found_at_load_with_their_place() {
    let deep = format!("{}1{}", r#"{"k":"#.repeat(DEPTH_MAX + 1), "}".repeat(DEPTH_MAX + 1));
    let path = format!(r#"{{"a":{{"@path":"{}"}}}}"#, "x.".repeat(PATH_PARTS_MAX + 1));
    let braces = format!(r#"{{"a":{{"@template":"{}"}}}}"#, "{".repeat(TEXT_BYTES_MAX + 1));
    let cases = [
        (r#"{"a/b":{"@nope":1}}"#, "/a/b"),
        (r#"{"a":{"@path":1}}"#, "/a/@path"),
        (r#"{"a":{"@path":"x","b":1}}"#, "/a"),
        (r#"{"a":{"@if":7}}"#, "/a/@if"),
        (&deep, "/"),
        (&path, "/a/@path"),
        (&braces, "/a/@template"),
    ];
    for (mapping, pointer) in cases {
        let errors = Mapping::compile(&value(mapping)).unwrap_err();
        assert_eq!(errors.problems[0].pointer, pointer, "{}", &mapping[..mapping.len().min(80)]);
    }
}

#[test]
fn a_mapping_may_be_as_large_as_its_bounds_and_no_larger() {
    let nested = |depth: usize| format!("{}1{}", r#"{"k":"#.repeat(depth), "}".repeat(depth));
    // The root and the array are values too.
    let many = |values: usize| format!(r#"{{"k":[{}]}}"#, vec!["1"; values - 2].join(","));
    let parts = |parts: usize| format!(r#"{{"k":{{"@path":"{}"}}}}"#, vec!["x"; parts].join("."));
    let long = |bytes: usize| format!(r#"{{"k":{{"@path":"{}"}}}}"#, "x".repeat(bytes));
    let cases: [(&dyn Fn(usize) -> String, usize); 4] = [
        (&nested, DEPTH_MAX),
        (&many, VALUES_MAX),
        (&parts, PATH_PARTS_MAX),
        (&long, TEXT_BYTES_MAX),
    ];
    for (written, most) in cases {
        assert!(Mapping::compile(&value(&written(most))).is_ok(), "{most}");
        assert!(Mapping::compile(&value(&written(most + 1))).is_err(), "{most}");
    }
}

#[test]
fn what_only_some_messages_come_upon_is_told_at_load_too() {
    let cases = [
        (r#"{"a":[{"@path":1}]}"#, "/a/0/@path"),
        (r#"{"a":{"@if":{"then":1}}}"#, "/a/@if"),
        (r#"{"a":{"@case":{"operator":"title","value":"x"}}}"#, "/a/@case"),
        (r#"{"a":{"@json":{"mode":"encode","value":0}}}"#, "/a/@json"),
        (
            r#"{"a":{"@replace":{"value":"x","pattern":"x","pattern2":"0123456789a"}}}"#,
            "/a/@replace",
        ),
    ];
    for (mapping, pointer) in cases {
        let compiled = Mapping::compile(&value(mapping)).unwrap();
        assert_eq!(compiled.latent_problems()[0].pointer, pointer, "{mapping}");
    }
    assert!(
        Mapping::compile(&value(r#"{"a":{"@path":"$.x"}}"#)).unwrap().latent_problems().is_empty()
    );
}

#[test]
fn a_mapping_cannot_make_more_than_its_budget() {
    // Each step holds what it found twice.
    let mut mapping = r#"{"@path":"$.l"}"#.to_owned();
    for _ in 0..40 {
        mapping = format!(
            r#"{{"@transform":{{"apply":{{"l":[{{"@path":"$.l"}},{{"@path":"$.l"}}]}},"mapping":{mapping}}}}}"#
        );
    }
    let too_much = "the mapping makes too much of this message (more than 64 MiB)";
    let message = value(r#"{"l":[1]}"#);
    assert_eq!(resolve(&format!(r#"{{"k":{mapping}}}"#), &message), too_much);
    // Text that expands itself.
    let text = "{{x}}".repeat(20_000);
    let message = value(&format!(r#"{{"x":"{text}"}}"#));
    assert_eq!(resolve(r#"{"k":{"@template":"{{{x}}}"}}"#, &message), too_much);
    let message = value(&format!(r#"{{"x":"{}"}}"#, "a".repeat(50_000)));
    let replace =
        r#"{"k":{"@replace":{"value":{"@path":"$.x"},"pattern":"a","replacement":"$`$'"}}}"#;
    assert_eq!(resolve(replace, &message), too_much);
}

/// Values of which mappings and messages are made: with directives, options and paths that meet.
fn wild() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        prop_oneof![Just(0.0), Just(1.0), any::<f64>()].prop_map(Value::Number),
        prop_oneof![
            Just("$.a".to_owned()),
            Just("$.a.b[0]".to_owned()),
            Just("{{a}} {{{b}}}".to_owned()),
            Just("upper".to_owned()),
            Just("encode".to_owned()),
            Just("decode".to_owned()),
            Just("right".to_owned()),
            Just("left".to_owned()),
            ".{0,12}",
        ]
        .prop_map(Value::String),
    ];
    let key = prop_oneof![
        prop::sample::select(DIRECTIVES.to_vec()).prop_map(str::to_owned),
        prop::sample::select(vec![
            "exists",
            "blank",
            "then",
            "else",
            "operator",
            "value",
            "pattern",
            "replacement",
            "pattern2",
            "replacement2",
            "global",
            "ignorecase",
            "mode",
            "direction",
            "objects",
            "apply",
            "mapping",
            "separator",
            "omitArrays",
            "_metadata",
            "__segment_internal_directive",
            "a",
            "b",
            "0",
            "1",
        ])
        .prop_map(str::to_owned),
        ".{0,6}",
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_panics_and_resolving_is_deterministic(mapping in wild(), message in wild()) {
        let Ok(compiled) = Mapping::compile(&mapping) else {
            return Ok(());
        };
        let message = match message {
            Value::Object(_) => message,
            other => Value::Object([("a".to_owned(), other)].into_iter().collect()),
        };
        let first = compiled.resolve(&message);
        prop_assert_eq!(&first, &compiled.resolve(&message));
        prop_assert_eq!(&first, &Mapping::compile(&mapping).unwrap().resolve(&message));
        // Field by field it is the same.
        match (first, compiled.resolve_fields(&message)) {
            (Ok(Some(Value::Object(whole))), Ok(Fields::Object(fields))) => {
                let fields = fields.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned()));
                prop_assert_eq!(whole, fields.collect());
            }
            (Ok(whole), Ok(Fields::Other(other))) => {
                prop_assert_eq!(whole, other.map(std::borrow::Cow::into_owned));
            }
            (Err(one), Err(other)) => {
                prop_assert_eq!(&one, &other);
                // What fails was either told at load or depends on the message, as with Segment.
                let told = compiled.latent_problems().iter().any(|problem| problem.problem == one.to_string());
                let depends = ["@path: expected", "@template: expected", "data must be", "@flatten requires", "the mapping makes"];
                prop_assert!(told || depends.iter().any(|start| one.to_string().starts_with(start)), "{}", one);
            }
            (whole, fields) => prop_assert!(false, "{:?} {:?}", whole, fields),
        }
    }
}

#[test]
fn what_a_mapping_copies_of_what_it_made_is_bounded() {
    let copies: Vec<String> = (0..2000).map(|n| format!(r#""k{n}":{{"@path":"$.all"}}"#)).collect();
    let mapping = format!(
        r#"{{"x":{{"@transform":{{"apply":{{"all":{{"@merge":{{"direction":"left","objects":[{{"@path":"$.traits"}}]}}}}}},"mapping":{{{}}}}}}}}}"#,
        copies.join(",")
    );
    let traits: Vec<String> = (0..10_000).map(|n| format!(r#""t{n}":1"#)).collect();
    let message = value(&format!(r#"{{"traits":{{{}}}}}"#, traits.join(",")));
    assert!(resolve(&mapping, &message).contains("makes too much of this message"));
}
