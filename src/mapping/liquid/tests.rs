//! That templates give what LiquidJS gives, within bounds.

use proptest::prelude::*;

use super::budget::VALUE_BYTES_MAX;
use super::*;
use crate::js::decode::decode;

fn render(text: &str, message: &str) -> Result<String, String> {
    let message = decode(message.as_bytes()).unwrap();
    Liquid::compile(text).and_then(|liquid| liquid.render(&message))
}

/// `cases.json` holds what LiquidJS 10.27.2, set up as Segment does, gives for each template.
#[test]
fn gives_what_liquidjs_gives() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("cases.json")).unwrap();
    let message = Value::from(&cases["message"]);
    for case in cases["cases"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        let got = Liquid::compile(text).and_then(|liquid| liquid.render(&message));
        let (key, got) = match &got {
            Ok(output) => ("output", output),
            Err(error) => ("error", error),
        };
        assert_eq!(case[1][key].as_str(), Some(got.as_str()), "{text}");
    }
}

#[test]
fn every_filter_of_liquidjs_is_there_or_disabled() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("cases.json")).unwrap();
    let cases = cases["cases"].as_array().unwrap().iter().map(|case| case[0].to_string());
    let text: String = cases.collect();
    let has_case =
        |name: &str| text.contains(&format!("|{name}")) || text.contains(&format!("| {name}"));
    // What `sample` gives in LiquidJS is drawn by lots.
    let names = filters::names().filter(|name| *name != "sample");
    for name in names.chain(filters::DISABLED) {
        assert!(has_case(name), "{name} has no case");
    }
    // LiquidJS has 87; Segment disables `type` too, which it has not.
    assert_eq!(filters::names().count() + filters::DISABLED.len(), 88);
}

#[test]
fn small_inputs_whose_output_is_large_are_refused_before_it_is_made() {
    // Half a million short lines, each with an indent of 5 KB.
    let deep =
        format!(r#"{{"a":{}{}0{}}}"#, "[".repeat(500), "1,".repeat(500_000), "]".repeat(500));
    let too_large = |text: &str, message: &str| {
        let error = render(text, message).unwrap_err();
        assert!(error.starts_with("memory alloc limit exceeded"), "{error}");
    };
    too_large("{{ a | json: 10 }}", &deep);
    // Wider than what the formatter of the standard library can pad to.
    let wide = render("{{ 0 | date: '%70000N' }}", "{}").unwrap();
    assert_eq!(wide, "0".repeat(70_000));
    too_large("{{ 0 | date: '%2000000N' }}", "{}");
}

/// Where we differ from LiquidJS, and why.
#[test]
fn differs_from_liquidjs_where_it_must() {
    let cases = [
        // A mapping reads no clock and draws no lots.
        ("{{ 'now' | date: '%Y' }}", Err("date \"now\" is not known to a mapping, line:1, col:1")),
        (
            "{{ 'today' | date: '%Y' }}",
            Err("date \"today\" is not known to a mapping, line:1, col:1"),
        ),
        ("{{ a.list | sample }}{{ a.list | sample: 2 | json }}", Ok("1[1,2]")),
        // A disabled filter is found before there is a message.
        (
            "{% if false %}{{ 1 | sort }}{% endif %}",
            Err("filter \"sort\" is disabled, line:1, col:15"),
        ),
        // Objects are equal by what they hold.
        ("{{ a.one == a.other }}", Ok("true")),
        // No text of ours holds half a character.
        ("{{ a.text | split: '' | size }}{{ a.text | replace: '', '-' }}", Ok("2😀-x")),
        // A literal in a list is the value it stands for.
        ("{{ a.list | push: nil | json }}", Ok("[1,2,3,null]")),
    ];
    let message = r#"{"a":{"list":[1,2,3],"one":{"x":1},"other":{"x":1},"text":"😀x"}}"#;
    for (text, expected) in cases {
        let got = render(text, message);
        assert_eq!(got.as_deref().map_err(String::as_str), expected, "{text}");
    }
}

#[test]
fn a_message_that_is_no_object_has_no_variables() {
    for message in ["null", "1", "[{\"a\":1}]", "\"text\""] {
        assert_eq!(
            render("[{{ a }}{{ length }}{{ [0] }}{{ a.b | default: 'none' }}]", message),
            Ok("[none]".to_owned())
        );
    }
}

#[test]
fn a_rendering_leaves_nothing_behind() {
    let liquid =
        Liquid::compile("{{ a }}{% assign a = 2 %}{% increment n %}{% cycle 'x', 'y' %}").unwrap();
    let message = decode(b"{\"a\":1}").unwrap();
    for _ in 0..2 {
        assert_eq!(liquid.render(&message), Ok("10x".to_owned()));
    }
    assert_eq!(liquid, liquid.clone());
    assert_ne!(liquid, Liquid::compile("").unwrap());
}

#[test]
fn templates_are_as_long_as_segment_allows() {
    let text = |units: usize| "😀".repeat(units / 2) + &"x".repeat(units % 2);
    for units in [999, 1_000] {
        assert_eq!(render(&text(units), "{}"), Ok(text(units)));
    }
    let error = "liquid template values are limited to 1000 characters";
    assert_eq!(Liquid::compile(&text(1_001)), Err(error.to_owned()));
}

/// `a` made `2^times` as long as it was.
fn doubled(times: usize) -> String {
    "{%assign a=a|append:a%}".repeat(times)
}

#[test]
fn outputs_and_values_are_bounded() {
    let twice = |doublings| doubled(doublings) + "{{a}}";
    assert_eq!(render(&twice(20), "{\"a\":\"x\"}").map(|text| text.len()), Ok(1 << 20));
    let beyond = [
        doubled(20) + "{{a}}x",
        doubled(21),
        doubled(19) + "{{a|replace:'x',a}}",
        doubled(19) + "{{a|replace:'',a}}",
        doubled(15) + "{{a|split:''|join:a}}",
        doubled(17) + "{{a|split:''}}",
        "{%assign l=l|push:l%}".repeat(40),
        "{%capture a%}{{a}}{{a}}{%endcapture%}".repeat(21),
        "{{(1..100000000)}}".to_owned(),
        "{{(1..30000)|where:'[(1..30000)]'}}".to_owned(),
        "{{1|date:'%99999999999999999999d'}}".to_owned(),
        "{{1|date:'%1048577N'}}".to_owned(),
        doubled(11) + "{{l|where:a}}",
        "{{a|slice:0,100000001}}".to_owned(),
    ];
    for text in beyond {
        let error = render(&text, "{\"a\":\"x\",\"l\":[1]}").unwrap_err();
        assert!(error.starts_with("memory alloc limit exceeded, line:1, col:"), "{text}: {error}");
    }
}

#[test]
fn deep_templates_do_not_exhaust_the_stack() {
    let message = "{\"a\":\"x\"}";
    for text in ["[".repeat(990), "(".repeat(990), "a[".repeat(490)] {
        let error = render(&format!("{{{{ {text} }}}}"), message).unwrap_err();
        assert!(error.starts_with("value nested more than 32 levels deep"), "{error}");
    }
    let nested = "{%if a%}".repeat(58) + "{{a}}" + &"{%endif%}".repeat(58);
    assert_eq!(render(&nested, message), Ok("x".to_owned()));
    assert!(render(&"{%if a%}".repeat(125), message).is_err());
    let within = format!("{{%liquid {}echo a%}}", "liquid ".repeat(140));
    assert_eq!(render(&within, message), Ok("x".to_owned()));
    let too_long = "liquid template values are limited to 1000 characters";
    assert_eq!(render(&"{%if a%}".repeat(1_000_000), message), Err(too_long.to_owned()));
}

#[test]
fn the_deepest_templates_fit_a_small_stack() {
    let check = || {
        for (open, close) in [("{%if a%}", "{%endif%}"), ("{%block%}", "{%endblock%}")] {
            let depth = 1_000 / (open.len() + close.len());
            let text = open.repeat(depth) + &close.repeat(depth);
            assert_eq!(render(&text, "{\"a\":1}"), Ok(String::new()));
            let error = render(&open.repeat(1_000 / open.len()), "{}").unwrap_err();
            assert!(error.starts_with(&format!("tag {open} not closed")), "{error}");
        }
        let within = format!("{{%liquid {}echo a%}}", "liquid ".repeat(140));
        assert_eq!(render(&within, "{\"a\":1}"), Ok("1".to_owned()));
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(check).unwrap().join().unwrap();
}

/// Pieces of templates, put together at random.
fn piece() -> impl Strategy<Value = String> {
    let syntax = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{%-",
        "-%}",
        "|",
        ":",
        ",",
        ".",
        "..",
        "[",
        "]",
        "(",
        ")",
        "\"",
        "'",
        " ",
        "\n",
        "==",
        "!=",
        "<",
        "contains",
        "and",
        "not",
        "if",
        "elsif",
        "else",
        "endif",
        "unless",
        "endunless",
        "assign",
        "capture",
        "endcapture",
        "raw",
        "endraw",
        "comment",
        "endcomment",
        "liquid",
        "cycle",
        "increment",
        "echo",
        "#",
        "=",
        "\\",
        "\\u12",
        "a",
        "l",
        "o",
        "nil",
        "empty",
        "blank",
        "true",
        "-1",
        "1.5",
        "99999999999999999999",
        "%Y",
        "%-5q",
        "é",
        "😀",
        "\u{2028}",
    ];
    let name = proptest::sample::select(filters::names().collect::<Vec<_>>());
    let operand =
        proptest::sample::select(vec!["a", "l", "o.x", "'%c'", "-1", "nil", "(1..3)", "''", "1e9"]);
    let filter = (name, operand.clone(), operand.clone(), operand)
        .prop_map(|(name, a, b, c)| format!("{{{{ {a} | {name}: {b}, {c} }}}}"));
    prop_oneof![
        2 => proptest::sample::select(syntax.to_vec()).prop_map(str::to_owned),
        1 => filter,
        1 => "\\PC{0,3}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn wild_templates_never_panic(pieces in proptest::collection::vec(piece(), 0..30)) {
        let message = r#"{"a":"Größe 7 <b>%41</b> 2024-02-30T10:00 😀","l":[1,"2",null,[{}],{"x":-0.5}],"o":{"x":"1e400","size":3}}"#;
        if let Ok(text) = render(&pieces.concat(), message) {
            prop_assert!(text.len() <= VALUE_BYTES_MAX);
        }
    }
}
