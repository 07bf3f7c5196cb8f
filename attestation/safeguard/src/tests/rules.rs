//! What rules match, and what they let through.

use std::sync::Arc;

use crate::{Action, Exchange, Policy, Verdict};

fn policy(rules: &str) -> Arc<Policy> {
    let text = format!("version = 1\nid = \"test\"\nhold_back = 16\n{rules}");
    Arc::new(Policy::read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}")))
}

fn one(members: &str) -> Arc<Policy> {
    policy(&format!("[[rules]]\nid = \"r\"\naction = \"refuse\"\n{members}"))
}

fn prompt(policy: &Arc<Policy>, text: &str) -> Verdict {
    Exchange::new(Arc::clone(policy)).prompt(text)
}

fn refused(policy: &Arc<Policy>, text: &str) -> bool {
    prompt(policy, text).action == Action::Refuse
}

#[test]
fn a_literal_is_whole_words_in_any_spelling() {
    let policy = one("on = 'prompt'\nany = ['secret  Word']");
    for text in [
        "the secret word",
        "SECRET\n\nWORD!",
        "(secret-word)",
        "sécrët wörd",
        "s3cr3t w0rd",
        "s e c r e t w o r d",
    ] {
        assert!(refused(&policy, text), "{text}");
    }
    for text in ["the secret words", "a topsecret word", "secret", "word secret", "secret of the word"] {
        assert!(!refused(&policy, text), "{text}");
    }
}

#[test]
fn a_star_lets_words_go_on() {
    let policy = one("on = 'prompt'\nany = ['secret*', '*bomb']");
    for text in ["secrets", "secretly", "firebomb", "bomb"] {
        assert!(refused(&policy, text), "{text}");
    }
    for text in ["topsecret", "bombs", "bo mb"] {
        assert!(!refused(&policy, text), "{text}");
    }
}

#[test]
fn terms_of_all_must_come_together_in_any_order() {
    let policy = one("on = 'prompt'\nall = ['alpha', 'beta', 'gamma']\nwithin = 20");
    assert!(refused(&policy, "alpha beta gamma"));
    assert!(refused(&policy, "gamma, alpha, beta"));
    assert!(!refused(&policy, "alpha beta"));
    assert!(!refused(&policy, "alpha beta and then, much later, gamma"));
    assert!(refused(&policy, "alpha beta and then, much later, alpha gamma beta"));
    let anywhere = one("on = 'prompt'\nall = ['alpha', 'beta']");
    assert!(refused(&anywhere, &format!("alpha {} beta", "x ".repeat(10_000))));
}

#[test]
fn a_list_stands_for_each_of_its_terms() {
    let policy = policy(
        "[lists]\nverbs = ['ignore', 'forget']\n[[rules]]\nid = 'r'\non = 'prompt'\naction = 'refuse'\nall = ['@verbs', 'rules']",
    );
    assert!(refused(&policy, "Forget the rules"));
    assert!(!refused(&policy, "Ignore me or forget me"));
}

#[test]
fn times_counts() {
    let policy = one("on = 'prompt'\nany = ['once']\ntimes = 3");
    assert!(!refused(&policy, "once and once"));
    assert!(refused(&policy, "once, once, once"));
}

#[test]
fn what_excuses_must_be_near_and_plain() {
    let policy = one("on = 'prompt'\nany = ['bomb']\nunless = ['bath bomb', 'defuse']");
    assert!(!refused(&policy, "a bath bomb"));
    assert!(!refused(&policy, "a bomb, and how to defuse it"));
    assert!(refused(&policy, "a bomb"));
    assert!(refused(&policy, &format!("a bomb {} defuse", "x ".repeat(40))));
    assert!(refused(&policy, &format!("defuse {} bomb", "x ".repeat(40))));
    assert!(refused(&policy, "a bomb d3fuse"));
}

#[test]
fn an_excuse_of_an_answer_may_come_later_and_the_text_waits_for_it() {
    let policy = one("on = 'answer'\nany = ['bomb']\nunless = ['defuse']");
    let mut exchange = Exchange::new(Arc::clone(&policy));
    let first = exchange.answer("It is a harmless sentence before the bomb, and so on. ");
    assert_eq!(first.verdict.action, Action::Allow);
    assert!(!first.leaves.as_str().contains("bomb"));
    let second = exchange.answer("They defuse it.");
    let last = exchange.finish();
    assert_eq!(last.verdict.action, Action::Allow);
    assert_eq!(
        [first.leaves.as_str(), second.leaves.as_str(), last.leaves.as_str()].concat(),
        "It is a harmless sentence before the bomb, and so on. They defuse it."
    );
    let mut exchange = Exchange::new(policy);
    exchange.answer("It is a harmless sentence before the bomb, and so on. ");
    assert_eq!(exchange.answer(&"and on ".repeat(12)).verdict.action, Action::Refuse);
}

#[test]
fn hidden_text_is_found_in_each_encoding_and_twice_encoded() {
    let policy = one("on = 'prompt'\nany = ['the secret word']");
    for text in [
        "dGhlIHNlY3JldCB3b3Jk",
        "now: dGhlIHNlY3JldCB3b3Jk, please",
        "ZEdobElITmxZM0psZENCM2IzSms=",
        "7468652073656372657420776f7264",
        "the%20secret%20word",
        "the se&#99;ret word",
        "t\\u0068e secret word",
        "drow terces eht",
        "gur frperg jbeq",
        "NTc0Njg2NTIwNzM2NTYzNzI2NTc0MjA3NzZmNzI2NA dGhlIHNlY3JldCB3b3Jk",
        "dABoAGUAIABzAGUAYwByAGUAdAAgAHcAbwByAGQA",
    ] {
        assert!(refused(&policy, text), "{text}");
    }
}

#[test]
fn a_hidden_rule_lets_plain_text_through() {
    let policy = one("on = 'prompt'\nhidden = true\nany = ['the secret word']");
    assert!(!refused(&policy, "the secret word"));
    assert!(!refused(&policy, "the s3cret word"));
    assert!(refused(&policy, "dGhlIHNlY3JldCB3b3Jk"));
    assert!(refused(&policy, "drow terces eht"));
}

#[test]
fn expressions_see_punctuation_and_lines() {
    let policy = one(r"on = 'prompt'
any = ['/<\|system\|>/', '/\n(user|bot): /']");
    assert!(refused(&policy, "x <|SYSTEM|> y"));
    assert!(refused(&policy, "＜|system|＞"));
    assert!(refused(&policy, "hello\n\n  Bot:   yes"));
    assert!(refused(&policy, "bot: first line"));
    assert!(!refused(&policy, "the bot: yes"));
}

#[test]
fn rules_look_at_their_part() {
    for (part, in_prompt, in_answer) in
        [("prompt", true, false), ("answer", false, true), ("exchange", true, true)]
    {
        let policy = one(&format!("on = '{part}'\nany = ['secret word']"));
        assert_eq!(refused(&policy, "secret word"), in_prompt, "{part}");
        let mut exchange = Exchange::new(policy);
        exchange.prompt("hello");
        exchange.answer("secret word");
        assert_eq!(exchange.finish().verdict.action == Action::Refuse, in_answer, "{part}");
    }
}

#[test]
fn a_rule_of_the_exchange_remembers_the_prompt_and_a_term_does_not_reach_over() {
    let policy = one("on = 'exchange'\nall = ['question', 'reply']");
    let mut exchange = Exchange::new(policy);
    assert_eq!(exchange.prompt("the question").action, Action::Allow);
    exchange.answer("the reply");
    assert_eq!(exchange.finish().verdict.action, Action::Refuse);
    let mut exchange = Exchange::new(one("on = 'exchange'\nany = ['secret word']"));
    exchange.prompt("secret");
    exchange.answer("word");
    assert_eq!(exchange.finish().verdict.action, Action::Allow);
    let mut exchange = Exchange::new(one("on = 'answer'\nall = ['question', 'reply']"));
    exchange.prompt("the question");
    exchange.answer("the reply");
    assert_eq!(exchange.finish().verdict.action, Action::Allow);
}

#[test]
fn the_strictest_action_counts_and_is_named_first() {
    let rules: String = (0..30)
        .map(|index| {
            let action = if index == 20 { "end" } else { "flag" };
            format!("[[rules]]\nid = 'r{index}'\non = 'prompt'\naction = '{action}'\nany = ['word']\n")
        })
        .collect();
    let verdict = prompt(&policy(&rules), "word");
    assert_eq!(verdict.action, Action::End);
    assert_eq!(verdict.rules.len(), crate::MAX_VERDICT_RULES);
    assert_eq!(verdict.rules[0].as_str(), "r20");
    assert_eq!(verdict.rules[1].as_str(), "r0");
}

#[test]
fn nothing_leaves_after_a_refused_prompt_or_a_stop() {
    let policy = policy(
        "[[rules]]\nid = 'p'\non = 'prompt'\naction = 'refuse'\nany = ['forbidden']\n\
         [[rules]]\nid = 'a'\non = 'answer'\naction = 'end'\nany = ['the secret']\n",
    );
    let mut exchange = Exchange::new(Arc::clone(&policy));
    exchange.prompt("forbidden");
    assert!(exchange.answer("a long enough harmless answer that would leave").leaves.is_empty());
    assert!(exchange.finish().leaves.is_empty());

    let mut exchange = Exchange::new(policy);
    exchange.prompt("fine");
    let stopped = exchange.answer("0123456789 and then the secret comes.");
    // All but the last 16 bytes before the end of the match, which the space after it shows.
    assert_eq!(stopped.leaves.as_str(), "0123456789 and ");
    assert_eq!(stopped.verdict.action, Action::End);
    assert!(exchange.answer("more and more text that is not judged any more").leaves.is_empty());
    let last = exchange.finish();
    assert!(last.leaves.is_empty());
    assert_eq!(last.verdict.action, Action::End);
}
