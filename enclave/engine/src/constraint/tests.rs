//! Schemas, the texts that they let through, and random answers that are valid however they come about.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::{Constraint, Matcher, RandomAnswer, SchemaError, schema};
use crate::{Model, kernels::Kernels, sampling::Sampler, sampling::Sampling};

static MODEL: LazyLock<Model> =
    LazyLock::new(|| Model::from_gguf(include_bytes!("../../../../models/demo.gguf")).unwrap());

fn constraint(schema: &Value) -> Constraint {
    let text = schema.to_string();
    MODEL.constrained_to(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Feeds a text byte by byte; whether all of it may come, and whether it may end there.
fn reads(constraint: &Constraint, text: &str) -> (bool, bool) {
    let mut matcher = constraint.matcher();
    let all = text.bytes().all(|byte| matcher.accept(MODEL.tokenizer().single_byte(byte)));
    (all, all && matcher.is_complete())
}

fn accepts(schema: &Value, texts: &[&str]) {
    let constraint = constraint(schema);
    for text in texts {
        assert_eq!(reads(&constraint, text), (true, true), "{schema} should let through {text}");
    }
}

fn rejects(schema: &Value, texts: &[&str]) {
    let constraint = constraint(schema);
    for text in texts {
        assert!(!reads(&constraint, text).1, "{schema} should not let through {text}");
    }
}

fn refused(schema: &str) -> SchemaError {
    schema::compile(schema).err().unwrap_or_else(|| panic!("accepted: {schema}"))
}

#[test]
fn any_json_comes_through_and_nothing_else() {
    let any = json!({});
    accepts(
        &any,
        &[
            "null",
            "true",
            "-12",
            "0",
            "1.50e-7",
            r#""a\"\\\u00e9\ud7ffé€😀""#,
            "[]",
            "[ 1, [2] ]",
            "{}",
            "{\n  \"a\": {\"b\":[null]},\n  \"c\":\"\"\n}",
        ],
    );
    rejects(
        &any,
        &[
            "",
            " 1",
            "01",
            "1.",
            "-",
            "nul",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "\"\\ud800\"",
            "\"\n\"",
            "1 ",
            "1e999",
            "[  1]",
        ],
    );
    let objects = MODEL.constrained_to_objects().unwrap();
    assert_eq!(reads(&objects, r#"{"a":[1]}"#), (true, true));
    assert!(!reads(&objects, "[").0);
}

#[test]
fn objects_have_their_properties_in_order_and_no_others() {
    let schema = json!({
        "type": "object",
        "properties": {"b": {"type": "integer"}, "a": {"type": "string"}, "c": {"type": "null"}},
        "required": ["a"],
    });
    // `json!` sorts, so the order is that of the alphabet here.
    accepts(
        &schema,
        &[r#"{"a":""}"#, r#"{"a":"x","b":1}"#, r#"{ "a": "x", "b": 1, "c": null }"#, r#"{"a":"","c":null}"#],
    );
    rejects(
        &schema,
        &["{}", r#"{"b":1}"#, r#"{"b":1,"a":""}"#, r#"{"a":"","d":1}"#, r#"{"a":"",}"#, r#"{"a":"","a":""}"#],
    );
    let ordered = r#"{"type":"object","properties":{"b":{"type":"null"},"a":{"type":"null"}}}"#;
    let constraint = MODEL.constrained_to(ordered).unwrap();
    for (text, expected) in [
        (r#"{"b":null,"a":null}"#, true),
        (r#"{"a":null,"b":null}"#, false),
        ("{}", true),
        (r#"{"a":null}"#, true),
        (r#"{"b":null}"#, true),
        (r#"{,"a":null}"#, false),
    ] {
        assert_eq!(reads(&constraint, text).1, expected, "{text}");
    }
    let map = json!({"type": "object", "additionalProperties": {"type": "boolean"}});
    accepts(&map, &["{}", r#"{"x":true}"#, r#"{"x":true, "y":false}"#]);
    rejects(&map, &[r#"{"x":1}"#]);
    accepts(&json!({"type": "object", "additionalProperties": false}), &["{}"]);
    rejects(&json!({"type": "object", "additionalProperties": false}), &[r#"{"x":1}"#]);
}

#[test]
fn counts_are_kept() {
    let array = |least, most: Option<u32>| {
        let mut schema = json!({"type": "array", "items": {"const": 1}, "minItems": least});
        if let Some(most) = most {
            schema["maxItems"] = most.into();
        }
        schema
    };
    let texts = ["[]", "[1]", "[1,1]", "[1, 1, 1]", "[1,1,1,1]"];
    for least in 0..=3 {
        for most in
            [None, Some(0), Some(1), Some(2), Some(3)].into_iter().filter(|m| m.is_none_or(|m| m >= least))
        {
            let constraint = constraint(&array(least, most));
            for (count, text) in texts.iter().enumerate() {
                let fits = count as u32 >= least && most.is_none_or(|most| count as u32 <= most);
                assert_eq!(reads(&constraint, text).1, fits, "{least} to {most:?}: {text}");
            }
        }
    }
    let text = json!({"type": "string", "minLength": 2, "maxLength": 3});
    accepts(&text, &[r#""ab""#, r#""é€😀""#, r#""\n\u0000""#]);
    rejects(&text, &[r#""""#, r#""a""#, r#""abcd""#]);
    accepts(&json!({"type": "string", "minLength": 2}), &[r#""ab""#, r#""abcdefgh""#]);
    rejects(&json!({"type": "string", "minLength": 2}), &[r#""a""#]);
    accepts(&json!({"type": "string", "maxLength": 0}), &[r#""""#]);
}

#[test]
fn integers_keep_their_bounds() {
    for (least, most) in [(0, 0), (0, 9), (3, 217), (-5, 5), (-217, -3), (-1, 1000), (99, 101)] {
        let constraint = constraint(&json!({"type": "integer", "minimum": least, "maximum": most}));
        for number in -1100..=1100_i64 {
            let fits = (least..=most).contains(&number);
            assert_eq!(reads(&constraint, &number.to_string()).1, fits, "{number} in {least} to {most}");
        }
        assert!(!reads(&constraint, "-0").1 && !reads(&constraint, "01").1);
    }
    let open = json!({"type": "integer", "exclusiveMinimum": 10});
    accepts(&open, &["11", "999999999999999"]);
    rejects(&open, &["10", "-11", "9"]);
    accepts(&json!({"type": "integer"}), &["0", "-7", "999999999999999"]);
    rejects(&json!({"type": "integer"}), &["1.0", "1e2", "1000000000000000"]);
}

#[test]
fn values_alternatives_and_references() {
    let schema = json!({"enum": ["ab", "abc", "b", 1, 12, null, {"x": [1, "é"]}]});
    accepts(&schema, &[r#""ab""#, r#""abc""#, r#""b""#, "1", "12", "null", r#"{"x":[1,"é"]}"#]);
    rejects(&schema, &[r#""a""#, "2", "123"]);
    rejects(&json!({"type": "string", "enum": ["a", 1]}), &["1"]);
    let union = json!({"anyOf": [{"type": "integer"}, {"type": ["boolean", "null"]}, {"const": "x"}]});
    accepts(&union, &["3", "true", "null", r#""x""#]);
    rejects(&union, &[r#""y""#]);
    let tree = json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}, "v": {"type": "number"}},
            "required": ["children", "v"],
        }},
    });
    accepts(&tree, &[r#"{"children":[{"children":[],"v":-0.5}],"v":1}"#]);
    rejects(&tree, &[r#"{"children":[1],"v":1}"#]);
    // What refers to itself without a byte is harmless while there is a way out.
    accepts(&json!({"anyOf": [{"$ref": "#"}, {"type": "null"}]}), &["null"]);
}

#[test]
fn formats_are_days_and_times_that_there_are() {
    let of = |format: &str| json!({"type": "string", "format": format});
    accepts(&of("date"), &[r#""2024-12-31""#, r#""1999-02-28""#, r#""2000-11-30""#]);
    rejects(
        &of("date"),
        &[r#""2024-02-30""#, r#""2024-13-01""#, r#""2024-04-31""#, r#""2024-1-1""#, r#""2024-00-10""#],
    );
    accepts(&of("date-time"), &[r#""2024-12-31T23:59:59Z""#, r#""2024-12-31T00:00:00.123+05:30""#]);
    rejects(&of("date-time"), &[r#""2024-12-31T24:00:00Z""#, r#""2024-12-31T23:59:59""#]);
    accepts(&of("uuid"), &[r#""01234567-89ab-cdef-0123-456789abcdef""#]);
    accepts(&of("text"), &[r#""anything""#]);
    assert!(matches!(refused(&of("regex").to_string()), SchemaError::Value("format", _)));
    accepts(&of("password"), &[r#""anything""#]);
    for (format, valid, invalid) in [
        ("email", r#""a.b-c@mail.example.org""#, r#""a.b""#),
        ("ipv4", r#""255.249.19.0""#, r#""256.1.1.1""#),
        ("ipv6", r#""2001:db8:0:0:0:0:0:1""#, r#""2001:db8::12345""#),
        ("hostname", r#""a-1.example.com""#, r#""-a.example.com""#),
        ("uri", r#""https://example.com:8443/a/b?c=d""#, r#""example.com""#),
        ("duration", r#""P1DT2H30M""#, r#""P""#),
        ("base64", r#""YWJjZA==""#, r#""YWJj=""#),
    ] {
        accepts(&of(format), &[valid]);
        rejects(&of(format), &[invalid]);
    }
    // As Pydantic sends an `HttpUrl`.
    accepts(
        &json!({"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083}),
        &[r#""http://a.bc""#],
    );
    assert!(matches!(
        refused(r#"{"type":"string","format":"uri","maxLength":20}"#),
        SchemaError::Value("minLength", _)
    ));
}

/// Whether a number's text is within bounds, by exact arithmetic on its digits.
fn scaled(text: &str) -> i128 {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String =
        whole.chars().chain(fraction.chars()).chain("0".repeat(6 - fraction.len()).chars()).collect();
    let number: i128 = digits.parse().unwrap();
    if negative { -number } else { number }
}

#[test]
fn numbers_keep_their_bounds() {
    let texts: Vec<String> = (-25..=25)
        .flat_map(|whole: i32| {
            [
                "", ".0", ".00", ".01", ".2", ".25", ".250", ".2501", ".26", ".5", ".49", ".7", ".75",
                ".751", ".99", ".9",
            ]
            .map(|fraction| format!("{whole}{fraction}"))
        })
        .chain(["-0.25", "-0.2501", "-0.01"].map(str::to_owned))
        .collect();
    for (low, high) in [
        ("0", "1"),
        ("0.25", "0.75"),
        ("-0.25", "0.01"),
        ("-1.5", "-0.25"),
        ("0.2", "11"),
        ("-12.75", "20.251"),
        ("3", "3"),
        ("0.25", "0.251"),
        ("9.9", "10.1"),
        ("-20", "-9.99"),
    ] {
        for exclusive in [false, true] {
            let names =
                if exclusive { ["exclusiveMinimum", "exclusiveMaximum"] } else { ["minimum", "maximum"] };
            if exclusive && low == high {
                continue;
            }
            let schema = format!(r#"{{"type":"number","{}":{low},"{}":{high}}}"#, names[0], names[1]);
            let constraint = MODEL.constrained_to(&schema).unwrap();
            for text in &texts {
                let (number, low, high) = (scaled(text), scaled(low), scaled(high));
                let fits =
                    if exclusive { low < number && number < high } else { low <= number && number <= high };
                assert_eq!(reads(&constraint, text).1, fits, "{text} in {schema}");
            }
        }
    }
    let positive = json!({"type": "number", "exclusiveMinimum": 0});
    accepts(&positive, &["0.1", "12", "12.5", "999999999999999.25"]);
    rejects(&positive, &["0", "0.0", "-1", "01", "1.", ".5"]);
    accepts(&json!({"type": "number", "maximum": -1e-7}), &["-0.0000001", "-1", "-3.5"]);
    rejects(&json!({"type": "number", "maximum": -1e-7}), &["0", "-0.00000001"]);
    for schema in [
        r#"{"type":"number","minimum":2,"maximum":1}"#,
        r#"{"type":"number","exclusiveMinimum":1,"maximum":1}"#,
    ] {
        assert!(matches!(refused(schema), SchemaError::Value("minimum", _)), "{schema}");
    }
    assert!(matches!(refused(r#"{"type":"number","minimum":1e300}"#), SchemaError::Value("minimum", _)));
    assert!(matches!(refused(r#"{"type":"number","minimum":"1"}"#), SchemaError::Value("minimum", _)));
}

#[test]
fn bounds_of_integers_may_have_as_many_digits_as_64_bits() {
    // As Zod sends `z.int()`.
    let safe = json!({"type": "integer", "minimum": -9007199254740991_i64, "maximum": 9007199254740991_i64});
    accepts(&safe, &["0", "-9007199254740991", "9007199254740991", "1234567890123456"]);
    rejects(&safe, &["9007199254740992", "-9007199254740992", "90071992547409910"]);
    let wide = json!({"type": "integer", "minimum": i64::MIN, "maximum": u64::MAX});
    accepts(&wide, &["-9223372036854775808", "18446744073709551615"]);
    rejects(&wide, &["-9223372036854775809", "18446744073709551616"]);
    // A bound between two integers.
    let between = json!({"type": "integer", "minimum": -1.5, "exclusiveMaximum": 2.5});
    accepts(&between, &["-1", "0", "2"]);
    rejects(&between, &["-2", "3"]);
    accepts(&json!({"type": "integer", "minimum": 1e3, "maximum": 1001}), &["1000", "1001"]);
}

#[test]
fn multiples_are_multiples() {
    for divisor in [2, 5, 7, 60] {
        let constraint = constraint(&json!({"type": "integer", "multipleOf": divisor}));
        let bounded = self::constraint(
            &json!({"type": "integer", "multipleOf": divisor, "minimum": -50, "maximum": 61}),
        );
        for number in -400..400 {
            let fits = number % divisor == 0;
            assert_eq!(reads(&constraint, &number.to_string()).1, fits, "{number} of {divisor}");
            let fits = fits && (-50..=61).contains(&number);
            assert_eq!(reads(&bounded, &number.to_string()).1, fits, "{number} of {divisor}");
        }
    }
    let cents = json!({"type": "number", "multipleOf": 0.01});
    accepts(&cents, &["0", "-1.5", "12.25"]);
    rejects(&cents, &["12.255", "1."]);
    for schema in [
        r#"{"type":"integer","multipleOf":0}"#,
        r#"{"type":"number","multipleOf":0.3}"#,
        r#"{"type":"integer","multipleOf":-2}"#,
    ] {
        assert!(matches!(refused(schema), SchemaError::Value("multipleOf", _)), "{schema}");
    }
}

#[test]
fn patterns_describe_the_text() {
    let of = |pattern: &str| json!({"type": "string", "pattern": pattern});
    for (pattern, valid, invalid) in [
        (r"^[A-Z]{2}\d+$", vec![r#""AB1""#, r#""ZZ2026""#], vec![r#""AB""#, r#""ab1""#, r#""AB1x""#]),
        (r"b+", vec![r#""b""#, r#""xbby""#, r#""é\nb""#], vec![r#""""#, r#""xyz""#]),
        (r"^(a|bc)?(?:d|e){2,3}$", vec![r#""dd""#, r#""bcede""#], vec![r#""bcd""#, r#""add1""#, r#""dddd""#]),
        (
            r"^[^a-y\d]$",
            vec![r#""z""#, r#""é""#, r#""\"""#, r#""🙂""#, r#""\n""#],
            vec![r#""b""#, r#""7""#, r#""zz""#],
        ),
        (r"^[\u00e0-\u00ff€-🙂]$", vec![r#""é""#, r#""€""#, r#""🙂""#], vec![r#""ß""#, r#""a""#, r#""🙃""#]),
        (r#"^"\\"$"#, vec![r#""\"\\\"""#], vec![r#""\"""#]),
        (r"^x|y$", vec![r#""x1""#, r#""1y""#], vec![r#""1x1""#]),
        (r"^\S+\s.$", vec![r#""a b""#], vec![r#"" b""#, r#""ab""#]),
        // As Pydantic sends a `Decimal`, and Zod an `email` and a `uuid`.
        (
            r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
            vec![r#""-1.50""#, r#"".5""#, r#""7""#],
            vec![r#""-""#, r#"".""#],
        ),
        (
            r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
            vec![r#""a.b@example.org""#],
            vec![r#""a..b@example.org""#, r#"".a@example.org""#],
        ),
        (
            r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12})$",
            vec![r#""0f8fad5b-d9cb-469f-a165-70867728950e""#],
            vec![r#""0f8fad5b-d9cb-069f-a165-70867728950e""#],
        ),
    ] {
        accepts(&of(pattern), &valid);
        rejects(&of(pattern), &invalid);
    }
    // A format beside it is an annotation; lengths are kept, or refused.
    accepts(&json!({"type": "string", "format": "uuid", "pattern": "^a$", "maxLength": 1}), &[r#""a""#]);
    assert!(matches!(
        refused(r#"{"type":"string","pattern":"^a+$","maxLength":3}"#),
        SchemaError::Value("minLength", _)
    ));
    assert!(matches!(refused(r#"{"type":"string","pattern":"(?=a)"}"#), SchemaError::Value("pattern", _)));
    assert_eq!(refused(r#"{"type":"string","pattern":"^(a{4096}){4096}$"}"#), SchemaError::TooLarge);
}

#[test]
fn lists_begin_with_what_their_prefix_says() {
    let pair = json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "minItems": 2, "maxItems": 2});
    accepts(&pair, &["[1,true]", "[ -7, false]"]);
    rejects(&pair, &["[1]", "[true,1]", "[1,true,2]", "[]"]);
    let more = json!({"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "integer"}, "minItems": 3});
    accepts(&more, &["[null,1,2]"]);
    rejects(&more, &["[null,1]", "[null,true,1]"]);
    assert!(matches!(
        refused(r#"{"type":"array","prefixItems":[{}],"items":false,"minItems":2}"#),
        SchemaError::Value("minItems", _)
    ));
}

#[test]
fn one_of_is_understood_where_no_value_can_be_two() {
    let pets = json!({
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {
            "cat": {"type": "object", "properties": {"kind": {"const": "cat", "type": "string"}, "lives": {"type": "integer"}},
                    "required": ["kind", "lives"]},
            "dog": {"type": "object", "properties": {"kind": {"const": "dog", "type": "string"}}, "required": ["kind"]},
        },
    });
    accepts(&pets, &[r#"{"kind":"cat","lives":9}"#, r#"{"kind":"dog"}"#]);
    rejects(&pets, &[r#"{"kind":"dog","lives":9}"#, r#"{"kind":"cow"}"#]);
    accepts(&json!({"oneOf": [{"type": "integer"}, {"type": "string"}]}), &["1", r#""a""#]);
    for schema in [
        r#"{"oneOf":[{"type":"integer"},{"type":"number"}]}"#,
        r#"{"oneOf":[{"enum":["a","b"]},{"enum":["b","c"]}]}"#,
        r#"{"oneOf":[{"type":"object","properties":{"k":{"const":1}}},{"type":"object","properties":{"k":{"const":2}}}]}"#,
        r#"{"oneOf":[]}"#,
    ] {
        assert!(matches!(refused(schema), SchemaError::Value("oneOf", _)), "{schema}");
    }
    // Nothing is compared for ever.
    let mut definitions = serde_json::Map::new();
    for index in 0..9 {
        let properties: serde_json::Map<_, _> = (0..40)
            .map(|name| (name.to_string(), json!({"$ref": format!("#/$defs/d{}", index + 1)})))
            .collect();
        let required: Vec<String> = (0..40).map(|name| name.to_string()).collect();
        let schema = json!({"type": "object", "properties": properties, "required": required});
        definitions.insert(format!("d{index}"), schema);
    }
    definitions.insert("d9".into(), json!({}));
    let schema = json!({"oneOf": [{"$ref": "#/$defs/d0"}, {"$ref": "#/$defs/d0"}], "$defs": definitions});
    assert!(matches!(refused(&schema.to_string()), SchemaError::Value("oneOf", _)));
}

#[test]
fn names_of_members_may_be_listed() {
    // As Zod sends a record.
    let record = json!({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "number"}});
    accepts(&record, &["{}", r#"{"a":1,"é":2.5}"#]);
    let listed = json!({"type": "object", "propertyNames": {"enum": ["a", "bc"]}, "additionalProperties": {"type": "null"}});
    accepts(&listed, &["{}", r#"{"bc":null}"#]);
    rejects(&listed, &[r#"{"b":null}"#]);
    assert!(matches!(
        refused(r#"{"type":"object","propertyNames":{"type":"integer"}}"#),
        SchemaError::Value("propertyNames", _)
    ));
}

#[test]
fn the_first_keyword_that_is_not_understood_is_told() {
    let schema =
        r#"{"type":"object","properties":{"a":{"type":"array","uniqueItems":true},"b":{"not":{}}},"if":{}}"#;
    assert_eq!(refused(schema), SchemaError::Keyword("uniqueItems"));
}

#[test]
fn what_is_not_understood_is_refused_by_name_and_repeats_nothing() {
    assert_eq!(refused(r#"{"type":"array","contains":{}}"#), SchemaError::Keyword("contains"));
    assert!(matches!(refused(r#"{"allOf":[{"type":"null"},{}]}"#), SchemaError::Value("allOf", _)));
    accepts(&json!({"allOf": [{"type": "null"}], "title": "x", "$id": "https://example.org/x"}), &["null"]);
    assert_eq!(refused(r#"{"Zwetschge":1}"#), SchemaError::Keyword("(not a keyword of JSON Schema)"));
    assert_eq!(refused(r#"{"type":"string","minimum":1}"#), SchemaError::Misplaced("minimum"));
    assert_eq!(
        refused(r#"{"type":"string","enum":["a"],"maxLength":1}"#),
        SchemaError::Misplaced("maxLength")
    );
    assert_eq!(refused(r##"{"$ref":"#","type":"null"}"##), SchemaError::Misplaced("type"));
    for reference in ["#/properties/a", "#/$defs/b", "other.json", "#/$defs/a/b", ""] {
        let schema = json!({"$ref": reference, "$defs": {"a": {}}});
        assert_eq!(refused(&schema.to_string()), SchemaError::Reference, "{reference}");
    }
    for schema in ["", "{", "[1,]", r#"{"type":"null","type":"null"}"#] {
        assert_eq!(refused(schema), SchemaError::Json, "{schema}");
    }
    assert_eq!(refused("false"), SchemaError::NoSchema);
    assert_eq!(refused("3"), SchemaError::NoSchema);
    assert!(matches!(refused(r#"{"type":"Zwetschge"}"#), SchemaError::Value("type", _)));
    assert!(matches!(
        refused(r#"{"type":"object","required":["Zwetschge"]}"#),
        SchemaError::Value("required", _)
    ));
    assert!(matches!(
        refused(r#"{"type":"array","minItems":3,"maxItems":2}"#),
        SchemaError::Value("maxItems", _)
    ));
    assert!(matches!(
        refused(r#"{"type":"integer","minimum":3,"maximum":2}"#),
        SchemaError::Value("minimum", _)
    ));
}

#[test]
fn what_describes_too_much_or_nothing_that_ends_is_refused() {
    assert_eq!(refused(r#"{"type":"string","maxLength":4000000000}"#), SchemaError::TooLarge);
    assert_eq!(refused(r#"{"type":"array","items":{},"maxItems":4000000000}"#), SchemaError::TooLarge);
    let long = format!(r#"{{"const":"{}"}}"#, "x".repeat(schema::MAX_BYTES));
    assert!(matches!(refused(&long), SchemaError::TooLong { .. }));
    assert_eq!(refused(&format!(r#"{{"const":"{}"}}"#, "x".repeat(50_000))), SchemaError::TooLarge);
    assert_eq!(refused(&"[".repeat(60_000)), SchemaError::Json);
    assert_eq!(refused(r##"{"$ref":"#"}"##), SchemaError::Endless);
    let endless = json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]});
    assert_eq!(refused(&endless.to_string()), SchemaError::Endless);
    // Five hundred definitions, each of which is twice the next: nothing grows, and the answer is found.
    let mut definitions = serde_json::Map::new();
    for index in 0..500 {
        let next = json!({"$ref": format!("#/$defs/d{}", index + 1)});
        definitions.insert(format!("d{index}"), json!({"anyOf": [next, next]}));
    }
    definitions.insert("d500".into(), json!({"type": "null"}));
    accepts(&json!({"$ref": "#/$defs/d0", "$defs": definitions}), &["null"]);
}

/// A random answer, if it ended.
fn random_answer(constraint: &Constraint, seed: u64, tokens: usize) -> Option<Vec<u8>> {
    match MODEL.random_answer(constraint, seed, tokens) {
        RandomAnswer::Ended(answer) => Some(answer.to_vec()),
        RandomAnswer::CutOff => None,
    }
}

#[test]
fn random_answers_end_and_are_valid_and_never_nest_without_bound() {
    let schema = json!({"type": "object", "properties": {
        "id": {"type": "integer", "minimum": 1, "maximum": 99},
        "kind": {"enum": ["one", "two", "three"]},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 1, "maxItems": 3},
        "more": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
    }, "required": ["id", "kind", "names"], "additionalProperties": false});
    let shaped = constraint(&schema);
    let any = constraint(&json!({}));
    let mut ended = 0;
    for seed in 0..200 {
        if let Some(answer) = random_answer(&shaped, seed, 4000) {
            ended += 1;
            check(&serde_json::from_slice(&answer).unwrap());
        }
        if let Some(answer) = random_answer(&any, seed, 400) {
            assert!(serde_json::from_slice::<Value>(&answer).is_ok());
        }
    }
    assert!(ended > 150, "only {ended} of 200 ended");

    fn check(value: &Value) {
        let object = value.as_object().unwrap();
        assert!((1..=99).contains(&object["id"].as_i64().unwrap()));
        assert!(["one", "two", "three"].contains(&object["kind"].as_str().unwrap()));
        let names = object["names"].as_array().unwrap();
        assert!((1..=3).contains(&names.len()));
        assert!(names.iter().all(|name| name.as_str().unwrap().chars().count() <= 12));
        match object.get("more") {
            None | Some(Value::Null) => assert!(object.len() <= 4),
            Some(more) => check(more),
        }
    }
}

#[test]
fn what_the_mask_permits_is_what_is_accepted() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 5}, "b": {"type": "array", "items": {"enum": ["aa", "ab"]}},
        "c": {"type": "string"}, "d": {"anyOf": [{"type": "string"}, {"type": "string", "maxLength": 3}, {"type": "object"}]},
    }});
    let constraint = constraint(&schema);
    // Strings with and without a bound, both at once, and each in the middle of an escape and of a character.
    let texts: [&[u8]; 17] = [
        b"",
        b"{",
        b"{\"a",
        b"{\"a\":\"",
        b"{\"a\":\"\xc3\xa9x",
        b"{\"a\":\"\xc3",
        b"{\"a\":\"\\u0",
        b"{\"a\":\"\", \"b\":[",
        b"{\"a\":\"\"}",
        b"{\"c\":\"",
        b"{\"c\":\"x\\",
        b"{\"c\":\"x\\u00e",
        b"{\"c\":\"\xe2\x82",
        b"{\"d\":\"",
        b"{\"d\":\"ab\\",
        b"{\"d\":\"ab\xf0\x9f",
        b"{\"d\":{\"",
    ];
    for text in texts {
        let at = || {
            let mut matcher = constraint.matcher();
            let accepted = text.iter().all(|byte| matcher.accept(MODEL.tokenizer().single_byte(*byte)));
            assert!(accepted, "{}", text.escape_ascii());
            matcher
        };
        let mut scores = vec![0.0_f32; MODEL.tokenizer().len()];
        at().mask(&mut scores);
        for (token, score) in (0..).zip(&scores) {
            let accepted = at().accept(token);
            assert_eq!(*score == 0.0, accepted, "after {}: token {token}", text.escape_ascii());
        }
    }
}

/// The demo model with a token `"}`, which ends a string and what the string is in, in the place of another.
fn model_whose_tokens_end_two_things() -> Model {
    let mut bytes = include_bytes!("../../../../models/demo.gguf").to_vec();
    // A text in GGUF is its length in eight bytes and itself. The first is the token, the second what it is
    // joined of.
    for (old, new) in [(b".\"".as_slice(), b"\"}".as_slice()), (b". \"", b"\" }")] {
        let text = |text: &[u8]| [&(text.len() as u64).to_le_bytes(), text].concat();
        let (old, new) = (text(old), text(new));
        let place = bytes.windows(old.len()).position(|window| window == old).unwrap();
        bytes[place..][..new.len()].copy_from_slice(&new);
    }
    Model::from_gguf(&bytes).unwrap()
}

#[test]
fn what_is_remembered_is_what_would_be_found() {
    let model = model_whose_tokens_end_two_things();
    assert!(model.tokens().any(|(text, _)| text == b"\"}"));
    let constraint = model.constrained_to("{}").unwrap();
    // Strings at the same depth of an object and of a list, which end differently.
    let text = br#"[{"k":"a\nb"},["c",12,"d"],{"k":"e"},[[],"f"],-4,"g",{"k":["h"]},"\"\u00e9"]"#;
    let mut matcher = constraint.matcher();
    for (read, byte) in text.iter().enumerate() {
        // Another one that has been nowhere else.
        let mut fresh = constraint.matcher();
        let begin = text.iter().take(read);
        begin.for_each(|byte| assert!(fresh.accept(model.tokenizer().single_byte(*byte))));
        assert_eq!(matcher.permitted(), fresh.permitted(), "after {}", text[..read].escape_ascii());
        assert!(matcher.accept(model.tokenizer().single_byte(*byte)));
    }
    assert!(matcher.within_limits() && matcher.is_complete());
}

#[test]
fn scores_that_are_no_numbers_still_give_a_valid_answer() {
    let constraint = constraint(&json!({"type": "array", "items": {"const": "x"}, "maxItems": 2}));
    let mut sampler = Sampler::new(Sampling::greedy(), Default::default()).constrained(Some(&constraint));
    let mut answer = Vec::new();
    loop {
        let token = sampler.choose(Kernels::best(), &mut vec![f32::NAN; MODEL.tokenizer().len()]);
        if MODEL.tokenizer().ends_turn(token) {
            break;
        }
        answer.extend_from_slice(MODEL.tokenizer().bytes_of(token));
        assert!(answer.len() < 200);
    }
    assert!(serde_json::from_slice::<Value>(&answer).is_ok());
}

#[test]
fn work_and_memory_stay_bounded_for_a_schema_made_to_take_long() {
    // Every alternative goes on with the same letters, so that an answer stands at as many places as may be.
    let alternatives: Vec<Value> = (0..300)
        .map(|index| json!({"type": "object", "properties": {"aaaaaaaaaaaa": {"type": "string", "maxLength": 20 + index % 30}}}))
        .collect();
    let constraint = constraint(&json!({"anyOf": alternatives}));
    let mut matcher: Matcher = constraint.matcher();
    for byte in b"{\"aaaaaaaaaaaa\":\"aaaa" {
        let mut scores = vec![0.0; MODEL.tokenizer().len()];
        matcher.mask(&mut scores);
        assert!(matcher.within_limits(), "more threads or calls than may be");
        assert!(matcher.accept(MODEL.tokenizer().single_byte(*byte)));
    }
    let tokens = Arc::strong_count(&MODEL.token_table());
    drop(matcher);
    assert!(Arc::strong_count(&MODEL.token_table()) <= tokens);
}
