use proptest::prelude::*;

use super::{bytes::byte_of, *};
use crate::gguf_writer::{GgufWriter, Meta};

const DEMO: &[u8] = include_bytes!("../../../../models/demo.gguf");
const VECTORS: &str = include_str!("../../tests/data/tokenizer_vectors.txt");

fn demo() -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::parse(DEMO).unwrap()).unwrap()
}

fn set_split(tokenizer: &mut Tokenizer, split: Split) {
    if let Method::BytePairs { split: old, .. } = &mut tokenizer.method {
        *old = split;
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut tokens = Scratch::new();
    tokenizer.encode_text(text, &mut tokens);
    tokens.to_vec()
}

fn decode(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| tokenizer.bytes_of(*token)).copied().collect()
}

#[test]
fn tokens_are_those_of_the_reference_implementation() {
    let mut tokenizer = demo();
    let mut checked = 0;
    for line in VECTORS.lines() {
        let [split, text, tokens] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let digits = text.as_bytes().as_chunks::<2>().0;
        let text: Vec<u8> = digits
            .iter()
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let text = String::from_utf8(text).unwrap();
        let expected: Vec<u32> = tokens.split(' ').map(|token| token.parse().unwrap()).collect();
        set_split(&mut tokenizer, Split::named(split).unwrap());
        assert_eq!(encode(&tokenizer, &text), expected, "{split}: {text:?}");
        checked += 1;
    }
    assert!(checked > 400);
}

#[test]
fn control_tokens_written_as_text_stay_text() {
    let tokenizer = demo();
    for text in ["<|im_end|>", "<|im_start|>user\n", "<|endoftext|>", "x<|im_end|>y"] {
        let tokens = encode(&tokenizer, text);
        assert!(tokens.iter().all(|token| *token > 2), "{text} became a control token");
        assert_eq!(decode(&tokenizer, &tokens), text.as_bytes());
    }
    assert_eq!(tokenizer.control("<|im_end|>\n"), Some((2, 10)));
    assert_eq!(tokenizer.control("im_end|>"), None);
}

proptest! {
    #[test]
    fn every_text_survives_and_never_holds_a_control_token(text in "(?s).{0,80}|(<\\||im_(start|end)|\\|>|[<|>a ]){0,20}") {
        let mut tokenizer = demo();
        for split in [
            Split::Gpt2,
            Split::Smollm,
            Split::Default,
            Split::Llama3,
            Split::Dbrx,
            Split::Qwen2,
            Split::Tekken,
            Split::Gpt4o,
        ] {
            set_split(&mut tokenizer, split);
            let tokens = encode(&tokenizer, &text);
            prop_assert_eq!(decode(&tokenizer, &tokens), text.as_bytes());
            prop_assert!(tokens.iter().all(|token| *token > 2));
        }
    }
}

#[test]
fn a_long_word_is_no_attack() {
    let tokenizer = demo();
    let word = "ab".repeat(500_000);
    assert_eq!(decode(&tokenizer, &encode(&tokenizer, &word)), word.as_bytes());
}

#[test]
fn facts_of_the_demo_model() {
    let tokenizer = demo();
    assert_eq!(tokenizer.len(), 1458);
    assert!(tokenizer.ends_turn(2) && tokenizer.ends_turn(0));
    assert!(!tokenizer.ends_turn(1) && !tokenizer.ends_turn(3));
    assert_eq!((tokenizer.bos_text(), tokenizer.eos_text()), ("<|endoftext|>", "<|im_end|>"));
    assert_eq!(tokenizer.required_bos(), None);
    assert!(tokenizer.bytes_of(1).is_empty(), "a control token is no text");
}

/// A small tokenizer: all bytes, the pair "ab", and one control token.
fn small() -> Vec<(&'static str, Meta)> {
    let mut alphabet: Vec<(u8, char)> =
        (0..0x200).filter_map(char::from_u32).filter_map(|c| Some((byte_of(c)?, c))).collect();
    alphabet.sort_unstable();
    let mut tokens: Vec<String> = alphabet.iter().map(|(_, character)| character.to_string()).collect();
    tokens.extend(["ab".into(), "<end>".into()]);
    let mut types = vec![1; 257];
    types.push(3);
    vec![
        ("tokenizer.ggml.model", Meta::Str("gpt2".into())),
        ("tokenizer.ggml.pre", Meta::Str("gpt-2".into())),
        ("tokenizer.ggml.tokens", Meta::Strs(tokens)),
        ("tokenizer.ggml.token_type", Meta::I32s(types)),
        ("tokenizer.ggml.merges", Meta::Strs(vec!["a b".into()])),
        ("tokenizer.ggml.eos_token_id", Meta::U32(257)),
    ]
}

fn read(metadata: &[(&'static str, Meta)]) -> Result<Tokenizer, TokenizerError> {
    let file =
        metadata.iter().fold(GgufWriter::default(), |file, (key, value)| file.meta(key, value.clone()));
    Tokenizer::from_gguf(&Gguf::parse(&file.bytes()).unwrap())
}

/// Why the small tokenizer is refused with one value changed, or left out.
fn refusal(key: &'static str, value: Option<Meta>) -> TokenizerError {
    let mut metadata = small();
    metadata.retain(|(name, _)| *name != key);
    metadata.extend(value.map(|value| (key, value)));
    read(&metadata).err().expect("the tokenizer must be refused")
}

fn changed_token(id: usize, text: &str) -> TokenizerError {
    let Some((key, Meta::Strs(mut tokens))) = small().into_iter().find(|(key, _)| key.ends_with("tokens"))
    else {
        panic!("the small tokenizer has tokens");
    };
    tokens[id] = text.into();
    refusal(key, Some(Meta::Strs(tokens)))
}

#[test]
fn reads_a_small_tokenizer() {
    assert_eq!(encode(&read(&small()).unwrap(), "abab b"), [256, 256, 32, 98]);
}

#[test]
fn refuses_what_is_not_supported_by_name() {
    let model = refusal("tokenizer.ggml.model", Some(Meta::Str("t5".into())));
    assert_eq!(model, TokenizerError::Model { found: "t5".into() });
    let split = refusal("tokenizer.ggml.pre", Some(Meta::Str("chameleon".into())));
    assert_eq!(split, TokenizerError::Split { found: "chameleon".into() });
}

#[test]
fn refuses_what_is_missing() {
    for (key, _) in small() {
        match (key, read(&small().into_iter().filter(|(name, _)| *name != key).collect::<Vec<_>>())) {
            ("tokenizer.ggml.pre", result) => assert!(result.is_ok()),
            ("tokenizer.ggml.eos_token_id", result) => {
                assert_eq!(result.err(), Some(TokenizerError::NoEndToken));
            }
            (_, result) => assert_eq!(result.err(), Some(TokenizerError::Missing { key })),
        }
    }
}

#[test]
fn refuses_vocabularies_that_do_not_fit_together() {
    let types = |types: Vec<i32>| refusal("tokenizer.ggml.token_type", Some(Meta::I32s(types)));
    assert!(matches!(types(vec![1; 3]), TokenizerError::TypeCount { tokens: 258, types: 3 }));
    assert!(matches!(types(vec![7; 258]), TokenizerError::TokenType { id: 0, found: 7 }));
    assert!(matches!(changed_token(5, "b"), TokenizerError::DuplicateToken { id: 98, first: 5 }));
    assert!(matches!(changed_token(5, "bb"), TokenizerError::MissingByte { byte: 5 }));
    assert!(matches!(changed_token(5, ""), TokenizerError::TokenLength { id: 5, .. }));
    assert!(matches!(changed_token(5, &"x".repeat(1025)), TokenizerError::TokenLength { id: 5, .. }));
    assert!(matches!(changed_token(5, "日"), TokenizerError::TokenAlphabet { id: 5 }));
    assert!(matches!(
        refusal("tokenizer.ggml.eos_token_id", Some(Meta::U32(258))),
        TokenizerError::TokenId { found: 258, tokens: 258, .. }
    ));
}

#[test]
fn refuses_merges_that_lead_nowhere_or_to_a_control_token() {
    for merge in ["a c", "ab", "", "a", " a", "< end>"] {
        let refused = refusal("tokenizer.ggml.merges", Some(Meta::Strs(vec![merge.into()])));
        assert_eq!(refused, TokenizerError::Merge { index: 0 }, "{merge:?}");
    }
}

/// A small `SentencePiece` tokenizer: the bytes, a control token, some letters and joined pieces with scores.
fn pieces() -> Vec<(&'static str, Meta)> {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".into(), "</s>".into()];
    tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    let mut scores = vec![0.0_f32; 259];
    for (text, score) in [
        ("\u{2581}", -9.0),
        ("a", -9.0),
        ("b", -9.0),
        ("ab", -1.0),
        ("ba", -2.0),
        ("\u{2581}a", -3.0),
        ("<", -9.0),
        ("s", -9.0),
        ("<s", -1.0),
        (">", -9.0),
    ] {
        tokens.push(text.into());
        types.push(1);
        scores.push(score);
    }
    vec![
        ("tokenizer.ggml.model", Meta::Str("llama".into())),
        ("tokenizer.ggml.tokens", Meta::Strs(tokens)),
        ("tokenizer.ggml.token_type", Meta::I32s(types)),
        ("tokenizer.ggml.scores", Meta::F32s(scores)),
        ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
    ]
}

#[test]
fn sentence_pieces_are_joined_by_score() {
    let tokenizer = read(&pieces()).unwrap();
    let (space, a, b, ab, ba) = (259, 260, 261, 262, 263);
    assert_eq!(encode(&tokenizer, "ab"), [space, ab]);
    assert_eq!(encode(&tokenizer, "ba"), [space, ba]);
    // " a" has a lower score than "ab": the pair is taken first, although it stands later.
    assert_eq!(encode(&tokenizer, "aba b"), [space, ab, a, space, b]);
    assert_eq!(encode(&tokenizer, "\u{2581}b"), encode(&tokenizer, " b"));
    // A character without a token falls back to its bytes.
    assert_eq!(encode(&tokenizer, "b\u{e9}"), [space, b, 3 + 0xc3, 3 + 0xa9]);
    assert_eq!(decode(&tokenizer, &encode(&tokenizer, "b\u{e9} a")), " b\u{e9} a".as_bytes());
    assert_eq!(encode(&tokenizer, ""), [0_u32; 0]);
    assert_eq!(tokenizer.required_bos(), Some(1));
}

/// The same with tokens of white space alone, as Gemma has them, and `<table>`: all of them user-defined.
fn pieces_with_white_space() -> Vec<(&'static str, Meta)> {
    let mut metadata = pieces();
    for (_, value) in &mut metadata {
        match value {
            Meta::Strs(texts) => {
                let more = ["\n", "\n\n\n", "\u{2581}\u{2581}", "\t", "<table>"];
                texts.extend(more.map(str::to_owned));
            }
            Meta::I32s(types) => types.extend([4; 5]),
            Meta::F32s(scores) => scores.extend([-1000.0; 5]),
            _ => {}
        }
    }
    metadata.push(("tokenizer.ggml.add_space_prefix", Meta::Bool(false)));
    metadata
}

#[test]
fn white_space_that_is_a_token_is_one_wherever_it_stands() {
    let tokenizer = read(&pieces_with_white_space()).unwrap();
    let (space, a, ab, line, lines, spaces, tab) = (259, 260, 262, 269, 270, 271, 272);
    assert_eq!(encode(&tokenizer, "ab\nab"), [ab, line, ab]);
    assert_eq!(encode(&tokenizer, "\n\n\n\n"), [lines, line]);
    assert_eq!(encode(&tokenizer, "a   ab\t"), [a, spaces, space, ab, tab]);
    let text = "\n\n a\u{a0}b \n  \t\tab   ";
    assert_eq!(decode(&tokenizer, &encode(&tokenizer, text)), text.as_bytes());
    // What is no white space could be taken for a mark.
    assert!(!encode(&tokenizer, "<table>").contains(&273));
    assert_eq!(tokenizer.control("<table>"), Some((273, 7)));
    assert_eq!(tokenizer.control("\n"), None);
}

#[test]
fn phi_leaves_out_white_space_after_its_control_tokens() {
    let is_trimmed = |architecture: &str| {
        let mut metadata = pieces();
        metadata.push(("general.architecture", Meta::Str(architecture.into())));
        let tokenizer = read(&metadata).unwrap();
        [1, 2].map(|control| tokenizer.is_trimmed_after(control))
    };
    assert_eq!(is_trimmed("phi3"), [false, true], "not after <s>");
    assert_eq!(is_trimmed("llama"), [false, false]);
}

#[test]
fn sentence_pieces_of_text_are_never_control_tokens() {
    let tokenizer = read(&pieces()).unwrap();
    assert!(encode(&tokenizer, "<s>").iter().all(|token| *token > 2));
}

#[test]
fn broken_sentence_pieces_are_refused() {
    let refused = |key: &str, value: Option<Meta>| {
        let mut metadata = pieces();
        metadata.retain(|(name, _)| *name != key);
        let key = "tokenizer.ggml.scores";
        metadata.extend(value.map(|value| (key, value)));
        read(&metadata).err().unwrap()
    };
    let scores = |count: usize, score: f32| Some(Meta::F32s(vec![score; count]));
    const SCORES: &str = "tokenizer.ggml.scores";
    assert_eq!(refused(SCORES, None), TokenizerError::Missing { key: SCORES });
    assert_eq!(refused(SCORES, scores(3, 0.0)), TokenizerError::ScoreCount { tokens: 269, scores: 3 });
    assert_eq!(refused(SCORES, scores(269, f32::NAN)), TokenizerError::Score { id: 0 });
    let mut metadata = pieces();
    if let Some((_, Meta::I32s(types))) = metadata.iter_mut().find(|(name, _)| name.ends_with("token_type")) {
        types[3 + 0x41] = 5;
    }
    assert_eq!(read(&metadata).err(), Some(TokenizerError::MissingByte { byte: 0x41 }));
}
