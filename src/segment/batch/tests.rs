//! What is found in sound and in damaged batches.

use proptest::prelude::*;

use super::*;
use crate::js::Value;
use crate::js::decode::decode;

const A: &str = r#"{"type":"track","userId":"u1","event":"A \"{[","messageId":"a","properties":{"list":[{"id":1},{"id":2}]}}"#;
const B: &str = r#"{"messageId":"b","type":"identify","userId":"u2","traits":{"email":"b@example.com","tags":["x","}"]}}"#;
const C: &str = r#"{"anonymousId":"c","type":"page","messageId":"c"}"#;

/// Each piece as text; `!` for a broken one.
fn pieces<'a>(batch: &Batch<'a>) -> Vec<&'a str> {
    let text = |piece: &Piece<'a>| match piece {
        Piece::Item { bytes, .. } => std::str::from_utf8(bytes).unwrap(),
        Piece::Broken { .. } => "!",
    };
    batch.pieces.iter().map(text).collect()
}

fn read(body: &str) -> Batch<'_> {
    Batch::read(body.as_bytes(), 99)
}

fn decode_all(batch: &Batch<'_>) {
    for envelope in 0..batch.envelopes.len() {
        let _ = batch.shared(envelope);
    }
}

#[test]
fn a_sound_batch_is_taken_apart_whatever_is_in_its_items() {
    let body = format!(
        r#" {{ "sentAt" : "x", "batch" : [ {A} , NaN ,[], 17 , "t" , {B}] ,"context":{{"k":1}}, "odd":nope }} "#
    );
    let batch = read(&body);
    assert!(batch.is_sound);
    assert_eq!(pieces(&batch), [A, "NaN", "17", r#""t""#, B]);
    let Piece::Item { envelope, .. } = batch.pieces[0] else { panic!() };
    let shared = Value::Object(batch.shared(envelope)).to_json();
    assert_eq!(shared, r#"{"context":{"k":1},"sentAt":"x"}"#);
    assert_eq!(batch.shared_bytes_max(), r#"{"k":1}"x""#.len());
    assert_eq!(batch.write_key, None);
}

#[test]
fn an_item_that_is_no_json_costs_itself_alone() {
    let body =
        format!(r#"{{"batch":[{{"writeKey":"x",}},17,{{"b":[1,{{,}}]}},{A}],"sentAt":"x"}}"#);
    let batch = read(&body);
    assert_eq!(pieces(&batch), [r#"{"writeKey":"x",}"#, "17", r#"{"b":[1,{,}]}"#, A]);
    assert!(batch.is_sound);
    let Piece::Item { envelope, .. } = batch.pieces[3] else { panic!() };
    assert!(batch.shared(envelope).contains_key("sentAt"));
}

#[test]
fn every_whole_message_is_found_wherever_a_batch_is_damaged() {
    let whole = |body: String, expected: &[&str]| {
        let batch = read(&body);
        let found: Vec<&str> = pieces(&batch).into_iter().filter(|piece| *piece != "!").collect();
        assert_eq!(found, expected, "{body}");
    };
    let (a, b, c) = (A, B, C);
    let start = r#"{"batch":["#;
    let end = r#"],"sentAt":"2026-01-01T00:00:00Z"}"#;
    // Commas.
    whole(format!("{start},{a},{b}{end}"), &[A, B]);
    whole(format!("{start},,,{a}{end}"), &[A]);
    whole(format!("{start}{a},,{b}{end}"), &[A, B]);
    whole(format!("{start}{a},{b},{end}"), &[A, B]);
    whole(format!("{start}{a} {b}{c}{end}"), &[A, B, C]);
    // NUL bytes, line breaks, byte order marks.
    whole(format!("{start}{a}\0\0{b},\0\n{c}{end}\0\0\0"), &[A, B, C]);
    whole(format!("\u{feff}{start}{a}{end}\r\n\u{feff}{start}{b}{end}"), &[A, B]);
    // Brackets too many, and too few.
    whole(format!("{{{start}{a},{b}{end}"), &[A, B]);
    whole(format!("{start}[{a},{b}{end}"), &[A, B]);
    whole(format!("{start}{a}],{b}{end}"), &[A, B]);
    whole(format!("{start}{a}}},{b}{end}"), &[A, B]);
    whole(format!("{start}{{{a},{b}{end}"), &[A, B]);
    whole(format!(r#""batch":[{a},{b}{end}"#), &[A, B]);
    whole(format!(r#"{{"batch"{a},{b}{end}"#), &[A, B]);
    whole(format!(r#"{{"batch":{a},{b}{end}"#), &[A, B]);
    whole(format!(r#"{{"batch" : {a}}}"#), &[A]);
    whole(format!(r#"{{"sentAt":"x","batch":{a} {b}"#), &[A, B]);
    whole(format!(r#"{start}{a}:{b}{end}"#), &[A, B]);
    whole(format!(r#"{start}{{"type":"track","url":"https:{b}{end}"#), &[B]);
    whole(format!(r#"{start}{a},{b},"sentAt":"x"}}"#), &[A, B]);
    // Joined, and overwritten by a shorter one.
    whole(format!("{start}{a}{end}{start}{b}{end}"), &[A, B]);
    whole(format!("{start}{a}{end},{b}{end},{c}{end}"), &[A, B, C]);
    // Without a head, without a tail, without both.
    whole(format!("{a},{b}{end}"), &[A, B]);
    whole(format!("],{a},{b}{end}"), &[A, B]);
    whole(format!("{start}{a},{b}"), &[A, B]);
    whole(format!("{start}{a},{b},"), &[A, B]);
    whole(a.to_owned(), &[A]);
    whole(format!("{a}\n{b}\n{c}\n"), &[A, B, C]);
    // An item of which a part is missing, at every place.
    for cut in 1..a.len() {
        if !a.is_char_boundary(cut) {
            continue;
        }
        let (head, tail) = a.split_at(cut);
        let found = |body: String| {
            pieces(&read(&body)).iter().filter(|piece| [B, C].contains(piece)).count()
        };
        assert_eq!(found(format!("{start}{b},{head},{c}{end}")), 2, "{head}");
        assert_eq!(found(format!("{start}{b},{tail},{c}{end}")), 2, "{tail}");
        assert_eq!(found(format!("{start}{b},{c},{head}")), 2, "{head}");
        assert_eq!(found(format!("{tail},{b},{c}{end}")), 2, "{tail}");
        assert_eq!(found(format!("{start}{head}{start}{b},{c}{end}")), 2, "{head}");
    }
}

#[test]
fn what_is_broken_is_one_piece_in_its_place() {
    let cases = [
        (format!(r#"{{"batch":[{B},{{"type":"track","userId":"u1","ev,{C}]}}"#), vec![B, "!", C]),
        (format!(r#"{{"batch":[{B},{{"type":"tra"#), vec![B, "!"]),
        (format!(r#"ck","userId":"u1"}},{B}]}}"#), vec!["!", B]),
        (format!(r#"{{"batch":["type":"track","userId":"u"}},{B}]}}"#), vec!["!", B]),
        (format!(r#"{{"batch":[{B},:,{C}]}}"#), vec![B, "!", C]),
        (format!("{B} and {C}"), vec![B, "!", C]),
        (format!(r#"{{"batch":[{{"userId":"u","l":[{B},{C}]}}]"#), vec!["!", B, C]),
        (
            format!(r#"{{"batch":[{{"type":"track","userId":"u","l":[1,{B},{C}],"sentAt":"x"}}"#),
            vec!["!", B, C],
        ),
        ("{\"batch\":".to_owned(), vec!["!"]),
        ("{{{{".to_owned(), vec![]),
        ("\"".to_owned(), vec!["!"]),
        (String::new(), vec![]),
    ];
    for (body, expected) in cases {
        let batch = read(&body);
        assert_eq!(pieces(&batch), expected, "{body}");
        assert!(!batch.is_sound, "{body}");
    }
}

#[test]
fn the_value_of_a_member_is_no_message() {
    let body = format!(
        r#"{{"batch":[{{"type":"alias","properties":{A},"ev,{{"type":"track","x":{B},"traits":{{"type":"page"}},"#
    );
    assert_eq!(pieces(&read(&body)), ["!"]);
}

#[test]
fn what_a_broken_message_lists_is_no_message() {
    let inner = r#"{"type":"delete","email":"b@example.com"}"#;
    let body = format!(r#"{{"batch":[{{"type":"track","properties":{{"changes":[{inner}],"tit"#);
    assert_eq!(pieces(&read(&body)), ["!"]);
    let body = format!(r#"{{"batch":[{{"type":"track","x":],"y":[{inner}]}},{B}]}}"#);
    assert!(!pieces(&read(&body)).contains(&inner));
    assert!(pieces(&read(&body)).contains(&B));
}

#[test]
fn nothing_is_shared_where_it_may_belong_to_a_message() {
    let shared = |body: &str| -> Vec<String> {
        let batch = read(body);
        let of = |piece: &Piece<'_>| match piece {
            Piece::Item { envelope, .. } => Value::Object(batch.shared(*envelope)).to_json(),
            Piece::Broken { .. } => "!".to_owned(),
        };
        batch.pieces.iter().map(of).collect()
    };
    let one = r#"{"context":{"n":1}}"#;
    // Each message has what its own envelope shares, before the array or behind it.
    let body = format!(
        r#"{{"context":{{"n":1}},"batch":[{A}]}}{{"batch":[,{B} {C}],"sentAt":"2"}},{A}],"sentAt":"3"}}"#
    );
    assert_eq!(shared(&body), [one, r#"{"sentAt":"2"}"#, r#"{"sentAt":"2"}"#, "{}"]);
    // What is left of a message has members of the same names.
    let body = format!(
        r#"{{"context":{{"n":1}},"batch":[{A},{{"type":"track","properties":{{"l":[ {{"id":1}}],"context":{{"traits":{{"email":"x"}}}},{B}],"sentAt":"2"}}"#
    );
    assert_eq!(shared(&body), [one, "!", "{}"]);
    let body = format!(r#"{{"batch":["context":{{"n":1}},"type":"track"}},{B}]}}"#);
    assert_eq!(shared(&body), ["!", "{}"]);
    let body = format!(r#"{{"batch":[{A}],"context":{{"n":1}},"userId":"other"}},{B}]}}"#);
    assert_eq!(shared(&body), ["{}", "!", "{}"]);
    let body = format!(r#"{A},{B}],"context":{{"n":1}}}}"#);
    assert_eq!(shared(&body), ["{}", "{}"]);
}

#[test]
fn a_write_key_is_found_in_what_can_be_read() {
    let cases = [
        (r#"{"batch":[{"writeKey":"m"}],"writeKey":"k"}"#, Some("k")),
        (r#"{"writeKey":"k","batch":[{"writeKey":"m"}]}"#, Some("k")),
        (r#"{"batch":[{"a":{"writeKey":"x"}},{"writeKey":"m"},{"writeKey":"n"}]}"#, Some("m")),
        (r#"{"batch":[,{"type":"tra,{"type":"track","writeKey":"m"}"#, Some("m")),
        (r#"{"type":"track"}],"writeKey":"k"}"#, Some("k")),
        (r#"{"write\u004bey":"\u006b","batch":[1]}"#, Some("k")),
        (r#"{"writeKey":"a","writeKey":"b","batch":[1]}"#, Some("b")),
        (r#"{"writeKey":"a","batch":[1],"writeKey":null}"#, None),
        (r#"{"writeKey":["k"],"batch":[1]}"#, None),
        (r#"{"batch":[{"properties":{"writeKey":"x"}}]}"#, None),
        (r#"{"batch":[1]}"#, None),
        // Anywhere in a damaged body, but not in a sound one.
        (
            r#"{"batch":[{"type":"track"},{"type":"track","ev],"sentAt":"x","writeKey":"k"}"#,
            Some("k"),
        ),
        (r#"{,"writeKey":"k","batch":[{"type":"track"}]}"#, Some("k")),
        ("{\0\"writeKey\" : \"k\",\"batch\":[1]}", Some("k")),
        (r#"writeKey":"k","batch":[1]}"#, Some("k")),
        (r#"{"batch":[1],"writeKey":"k"#, Some("k")),
        (r#"{"batch":[{"type":"track","writeKey":"k","ev"#, Some("k")),
        (r#"{"batch":[{"a":"writeKey"},{"writeKey":7},{"b":[1}"#, None),
    ];
    for (body, expected) in cases {
        assert_eq!(read(body).write_key.as_deref(), expected, "{body}");
    }
}

#[test]
fn no_more_pieces_are_kept_than_were_asked_for() {
    for (most, kept) in [(0, 0), (2, 2), (3, 3), (4, 3)] {
        let batch = Batch::read(b"{\"batch\":[1,2,3]}", most);
        assert_eq!((batch.pieces.len(), batch.count), (kept, 3));
    }
    // Nor more envelopes.
    let body = r#"{"context":{},"batch":[1]}"#.repeat(1_000);
    assert_eq!(Batch::read(body.as_bytes(), 10).envelopes.len(), 12);
    let body = r#"{"context":{},"batch":["#.repeat(1_000);
    assert_eq!(Batch::read(body.as_bytes(), 10).envelopes.len(), 2);
}

#[test]
fn a_hostile_body_is_passed_over_in_few_steps() {
    // With a search that follows objects again and again, each of these takes hours.
    let units = [
        "{",
        "[",
        "\"",
        ",",
        ":",
        "}",
        "]",
        "\\",
        "{\"",
        "{}",
        "{\"a\":",
        "{\"a\":[",
        "[{\"a\":",
        "\"{",
        "{\":{\":",
        "{\"batch\":[",
        "{\"batch\":[{",
        "{\"type\":\"track\"},",
        "{\"type\":\"track\"",
        "[{\"type\":\"track\",\"a\":[",
        "\"context\":{\"a\":[{\"type\":\"track\"},{",
        "\"context\":[",
        "\"a\":1,",
        "\"a\",",
        "{\"a\":\"{",
        "\",\"",
        "  {",
        "\0",
        "{\"a\":[{\"type\":\"track\"},\"{",
    ];
    for unit in units {
        let body = unit.repeat(4_000_000 / unit.len());
        let batch = Batch::read(body.as_bytes(), 10);
        assert!(batch.pieces.len() <= 10 && batch.envelopes.len() <= 12, "{unit}");
    }
}

#[test]
fn the_keys_of_a_message_win_over_those_of_its_envelope() {
    let envelope =
        decode(br#"{"context":{"a":1,"b":1},"integrations":{"All":false},"sentAt":"x"}"#).unwrap();
    let message = decode(br#"{"context":{"b":2}}"#).unwrap();
    let (Value::Object(envelope), Value::Object(mut message)) = (envelope, message) else {
        panic!()
    };
    merge_envelope(&mut message, &envelope);
    assert_eq!(
        Value::Object(message).to_json(),
        r#"{"context":{"b":2,"a":1},"integrations":{"All":false}}"#
    );
}

/// A message with this number, of odd contents.
fn message() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        "[a-z]{0,4}",
        Just(r#"{\"type\":\"track\"}"#.to_owned()),
        Just("}]".to_owned()),
        Just("{[".to_owned()),
        Just(",".to_owned()),
        Just(r#"\\"#.to_owned()),
        Just(":".to_owned()),
    ];
    let value = prop_oneof![
        text.clone().prop_map(|text| format!("\"{text}\"")),
        Just("17".to_owned()),
        Just("null".to_owned()),
        Just("{}".to_owned()),
        text.clone().prop_map(|text| format!(r#"[{{"id":"{text}"}},{{"id":2}}]"#)),
        text.prop_map(|text| format!(r#"{{"a":"{text}","b":[1,"x"]}}"#)),
    ];
    let members = prop::collection::vec(value, 0..4);
    let kind = prop::sample::select(vec!["track", "identify", "page"]);
    (kind, members, any::<bool>()).prop_map(|(kind, members, is_first)| {
        let members: Vec<String> =
            members.iter().enumerate().map(|(n, value)| format!(r#""m{n}":{value}"#)).collect();
        let head = format!(r#""type":"{kind}","userId":"u""#);
        let properties = format!(r#""properties":{{{}}}"#, members.join(","));
        match is_first {
            true => format!("{{{head},{properties}}}"),
            false => format!("{{{properties},{head}}}"),
        }
    })
}

/// A part of a body: a message, or what stands between messages.
#[derive(Debug, Clone)]
enum Part {
    Message(String),
    Between(String),
}

/// How a body is damaged: where, and how.
#[derive(Debug, Clone)]
enum Damage {
    /// Drops a comma or a bracket.
    Drop(prop::sample::Index),
    Double(prop::sample::Index),
    Insert(prop::sample::Index, &'static str),
    CutItem(prop::sample::Index, prop::sample::Index, prop::sample::Index),
    CutHead(prop::sample::Index),
    CutTail(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    let inserted = prop::sample::select(vec![",", ",,", "[", "]", "{", "}", "\0", "\n", " \0\0 "]);
    prop_oneof![
        index().prop_map(Damage::Drop),
        index().prop_map(Damage::Double),
        (index(), inserted).prop_map(|(at, text)| Damage::Insert(at, text)),
        (index(), index(), index()).prop_map(|(item, from, to)| Damage::CutItem(item, from, to)),
        index().prop_map(Damage::CutHead),
        index().prop_map(Damage::CutTail),
    ]
}

/// One or two batches, as parts. Each message has its number as its id.
fn parts(batches: &[Vec<String>]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut number = 0;
    for (place, messages) in batches.iter().enumerate() {
        let head =
            ["{\"batch\":[", "{\"sentAt\":\"x\",\"context\":{\"a\":{}},\"batch\":["][place % 2];
        parts.push(Part::Between(head.to_owned()));
        for (n, message) in messages.iter().enumerate() {
            if n > 0 {
                parts.push(Part::Between(",".to_owned()));
            }
            let id = format!("{{\"messageId\":\"m{number}\",");
            parts.push(Part::Message(message.replacen('{', &id, 1)));
            number += 1;
        }
        parts.push(Part::Between("]".to_owned()));
        parts.push(Part::Between(",\"sentAt\":\"2026\",\"writeKey\":\"k\"}".to_owned()));
    }
    parts
}

impl Damage {
    fn apply(&self, parts: &mut Vec<Part>) {
        let positions = |parts: &[Part], is_message: bool| -> Vec<usize> {
            let is = |part: &Part| matches!(part, Part::Message(..)) == is_message;
            (0..parts.len()).filter(|at| is(&parts[*at])).collect()
        };
        let between = positions(parts, false);
        let items = positions(parts, true);
        let pick = |index: &prop::sample::Index, from: &[usize]| from[index.index(from.len())];
        match self {
            Damage::Drop(index) if !between.is_empty() => {
                let at = pick(index, &between);
                if let Part::Between(text) = &mut parts[at] {
                    match text.len() {
                        0 | 1 => text.clear(),
                        n if text.starts_with('{') && n % 2 == 0 => {
                            *text = text.replacen('{', "", 1)
                        }
                        _ if text.starts_with('{') => *text = text.replacen('[', "", 1),
                        _ => *text = text.replacen('}', "", 1),
                    }
                }
            }
            Damage::Double(index) if !between.is_empty() => {
                let at = pick(index, &between);
                if let Part::Between(text) = &mut parts[at]
                    && text.len() <= 1
                {
                    *text = text.repeat(2);
                }
            }
            Damage::Insert(index, text) => {
                parts.insert(index.index(parts.len() + 1), Part::Between((*text).to_owned()));
            }
            Damage::CutItem(item, from, to) if !items.is_empty() => {
                let at = pick(item, &items);
                let Part::Message(text) = &parts[at] else { return };
                let (from, to) = (from.index(text.len()), to.index(text.len()));
                let (from, to) = (from.min(to), from.max(to) + 1);
                let cut = format!("{}{}", &text[..from], &text[to..]);
                parts[at] = Part::Between(cut);
            }
            Damage::CutHead(index) => cut(parts, index, true),
            Damage::CutTail(index) => cut(parts, index, false),
            Damage::Drop(_) | Damage::Double(_) | Damage::CutItem(..) => {}
        }
    }
}

/// Cuts a part, and drops all that stands before it or behind it.
fn cut(parts: &mut Vec<Part>, index: &prop::sample::Index, is_head: bool) {
    if parts.is_empty() {
        return;
    }
    let at = index.index(parts.len());
    let text = match &parts[at] {
        Part::Message(text) | Part::Between(text) => text.clone(),
    };
    let (head, tail) = text.split_at(index.index(text.len() + 1));
    let kept = Part::Between(if is_head { tail } else { head }.to_owned());
    if is_head {
        parts.splice(..=at, [kept]);
    } else {
        parts.splice(at.., [kept]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn every_message_that_was_left_whole_is_found_once(
        first in prop::collection::vec(message(), 0..5),
        second in prop::option::of(prop::collection::vec(message(), 0..3)),
        damages in prop::collection::vec(damage(), 0..3),
    ) {
        let batches: Vec<_> = std::iter::once(first).chain(second).collect();
        let mut parts = parts(&batches);
        damages.iter().for_each(|damage| damage.apply(&mut parts));
        let mut body = String::new();
        let mut expected = Vec::new();
        for part in &parts {
            match part {
                Part::Message(text) => {
                    // Behind the name of a member that was cut, without a comma, it is that member's value.
                    if !body.trim_end().ends_with("\":") || body.trim_end().ends_with("\"batch\":") {
                        expected.push(text.clone());
                    }
                    body.push_str(text);
                }
                Part::Between(text) => body.push_str(text),
            }
        }
        let batch = Batch::read(body.as_bytes(), 99);
        let found = pieces(&batch);
        for message in expected {
            // An item that was cut within an array, and got the brackets of others, is whole again.
            let is_swallowed = |piece: &&str| {
                piece.len() > message.len() && piece.contains(&message) && piece.contains("\"type\"")
            };
            if found.iter().any(is_swallowed) {
                continue;
            }
            let times = found.iter().filter(|piece| **piece == message).count();
            prop_assert_eq!(times, 1, "{} in {} of {:?}", message, body, damages);
        }
        if damages.is_empty() {
            prop_assert!(batch.is_sound);
            prop_assert!(!found.contains(&"!"));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&Batch::read(&bytes, 9));
    }

    #[test]
    fn no_text_of_json_parts_makes_it_panic(
        parts in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\\", "1", " ", "\0", "\"batch\":[", "\"type\":\"track\"", "\"writeKey\":\"k\"", "\"context\":",
        ]), 0..60),
    ) {
        let body = parts.concat();
        let batch = Batch::read(body.as_bytes(), 9);
        prop_assert!(batch.pieces.len() <= batch.count);
        decode_all(&batch);
    }
}
