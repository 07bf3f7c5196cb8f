//! Which files are policies.

use crate::{MAX_EXPRESSIONS, MAX_HOLD_BACK_BYTES, MAX_POLICY_BYTES, MAX_RULES, Policy, PolicyError};

const RULE: &str = "[[rules]]\nid = 'r'\non = 'prompt'\naction = 'flag'\nany = ['word']\n";

fn read(rest: &str) -> Result<Policy, PolicyError> {
    Policy::read(format!("version = 1\nid = 'test'\nhold_back = 16\n{rest}").as_bytes())
}

fn code(rest: &str) -> &'static str {
    let error = read(rest).err().unwrap_or_else(|| panic!("accepted: {rest}"));
    assert!(!error.to_string().is_empty());
    error.code()
}

fn rule(members: &str) -> String {
    format!("[[rules]]\nid = 'r'\non = 'prompt'\naction = 'flag'\n{members}")
}

#[test]
fn a_policy_has_the_digest_of_its_bytes() {
    let policy = read(RULE).unwrap();
    assert_eq!(policy.id().as_str(), "test");
    assert_eq!(policy.hold_back(), 16);
    assert_eq!(policy.rules().len(), 1);
    assert_ne!(policy.digest(), read(&format!("{RULE}# a comment\n")).unwrap().digest());
    assert!(policy.memory_bytes() > 0);
}

#[test]
fn every_limit_is_held() {
    let long = vec![b'#'; MAX_POLICY_BYTES + 1];
    assert_eq!(Policy::read(&long).err().unwrap().code(), "policy-too-long");
    assert_eq!(Policy::read(&[0xff]).err().unwrap().code(), "policy-encoding");
    assert_eq!(
        Policy::read(b"version = 2\nid = 't'\nhold_back = 0\nrules = []").err().unwrap().code(),
        "policy-version"
    );
    let hold_back = format!("version = 1\nid = 't'\nhold_back = {}\nrules = []", MAX_HOLD_BACK_BYTES + 1);
    assert_eq!(Policy::read(hold_back.as_bytes()).err().unwrap().code(), "policy-number");
    let many: String = (0..=MAX_RULES).map(|index| RULE.replace("'r'", &format!("'r{index}'"))).collect();
    assert_eq!(code(&many), "policy-too-many");
    let terms: Vec<String> = (0..9000).map(|index| format!("'w{index}'")).collect();
    assert_eq!(code(&rule(&format!("any = [{}]", terms.join(",")))), "policy-too-many");
    let long_terms: Vec<String> = (0..600).map(|index| format!("'{}{index}'", "w".repeat(250))).collect();
    assert_eq!(code(&rule(&format!("any = [{}]", long_terms.join(",")))), "policy-too-many");
    let expressions: Vec<String> = (0..=MAX_EXPRESSIONS).map(|index| format!("'/word{index}/'")).collect();
    assert_eq!(code(&rule(&format!("any = [{}]", expressions.join(",")))), "policy-too-many");
    assert_eq!(code(&rule(&format!("any = ['{}']", "w".repeat(257)))), "policy-rule");
    assert_eq!(code(&rule("any = ['word']\ntimes = 1")), "policy-number");
    assert_eq!(code(&rule("all = ['a1', 'b1']\nwithin = 0")), "policy-number");
}

#[test]
fn what_can_never_match_or_contradicts_itself_is_refused() {
    for (members, expected) in [
        ("", "policy-rule"),
        ("any = []", "policy-rule"),
        ("any = ['a word']\nall = ['a word', 'b word']", "policy-rule"),
        ("all = ['a word']", "policy-rule"),
        ("any = ['a word']\nwithin = 5", "policy-rule"),
        ("all = ['a word', 'b word']\ntimes = 5", "policy-rule"),
        ("any = ['?!']", "policy-rule"),
        ("any = ['a*b']", "policy-rule"),
        ("any = ['']", "policy-rule"),
        ("any = ['@absent']", "policy-rule"),
        ("any = ['/a/']", "policy-expression"),
        ("any = ['/(x|yz)*/']", "policy-expression"),
        ("any = ['/^word/']", "policy-expression"),
        ("any = ['/word$/']", "policy-expression"),
        ("any = ['/wo(rd/']", "policy-expression"),
        ("any = ['/(ab.{0,40}){5}c/']", "policy-expression"),
        ("any = ['/wörd/']", "policy-rule"),
        ("any = ['word']\nwhitelist = ['word']", "policy-syntax"),
    ] {
        assert_eq!(code(&rule(members)), expected, "{members}");
    }
    assert_eq!(code(&RULE.replace("'flag'", "'allow'")), "policy-rule");
    assert_eq!(code(&RULE.replace("'flag'", "'warn'")), "policy-syntax");
    assert_eq!(code(&RULE.replace("'r'", "'No Name'")), "policy-name");
    assert_eq!(code(&format!("{RULE}{RULE}")), "policy-twice");
    assert_eq!(code(&format!("[lists]\nunused = ['word']\n{RULE}")), "policy-list");
    assert_eq!(
        code("[lists]\nl = ['@l']\n[[rules]]\nid = 'r'\non = 'prompt'\naction = 'flag'\nany = ['@l']"),
        "policy-list"
    );
}
