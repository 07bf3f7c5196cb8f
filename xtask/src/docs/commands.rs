//! Command lines that a page shows, against what the programs and scripts accept.
//!
//! Programs declare their command line with clap's derive macros, and are read as text: `#[arg(… long …)]` before a
//! field makes a flag, and each variant of an enum that derives `Subcommand` makes a subcommand. A script accepts
//! the flags and subcommands that its text has as whole words.

use std::collections::{BTreeMap, BTreeSet};

/// What one program accepts.
#[derive(Default)]
struct Program {
    flags: BTreeSet<String>,
    subcommands: BTreeSet<String>,
}

/// The project's programs and scripts by name.
pub(crate) struct Programs {
    programs: BTreeMap<&'static str, Program>,
    scripts: BTreeMap<String, String>,
}

/// Programs, and the folder that declares each one's command line.
const PROGRAMS: [(&str, &str); 3] = [
    ("cleanroom", "partner/src/"),
    ("cleanroom-host", "host/src/"),
    ("cleanroom-authority", "authority/src/"),
];

impl Programs {
    pub(crate) fn read(sources: &[(String, String)]) -> Self {
        let mut programs = BTreeMap::new();
        for (name, folder) in PROGRAMS {
            let mut program = Program::default();
            program.flags.extend(["--help", "--version"].map(str::to_owned));
            program.subcommands.insert("help".to_owned());
            for (path, text) in sources {
                // What every program's command line has in common is declared once.
                if path.starts_with(folder) || path.starts_with("program/src/") {
                    program.flags.extend(flags(text));
                    program.subcommands.extend(subcommands(text));
                }
            }
            programs.insert(name, program);
        }
        let is_script =
            |path: &str| path.starts_with("scripts/") || path == ".ci/run" || path == "image/kernel/build";
        let mut scripts: BTreeMap<String, String> =
            sources.iter().filter(|(path, _)| is_script(path)).cloned().collect();
        // This script passes its arguments on.
        if let Some(bench) = scripts.get_mut("scripts/bench") {
            for (_, text) in sources.iter().filter(|(path, _)| path.starts_with("bench/")) {
                bench.push_str(text);
            }
        }
        Self { programs, scripts }
    }

    /// What is wrong with a command line or with a flag alone.
    pub(crate) fn check(&self, code: &str) -> Vec<String> {
        let code = code.split(" #").next().unwrap_or_default();
        let mut words = code.split_whitespace().skip_while(|word| is_assignment(word));
        let Some(first) = words.next() else { return Vec::new() };
        let words: Vec<&str> = words.take_while(|word| !matches!(*word, "|" | "&&" | ";" | ">")).collect();
        if let Some(program) = self.programs.get(first) {
            return program.check(first, &words);
        }
        if let Some(text) = self.scripts.get(first) {
            return check_script(first, text, &words);
        }
        let only_flags = !first.starts_with("---") && first.starts_with("--") && is_flag(first);
        let known = |flag: &str| {
            self.programs.values().any(|program| program.flags.contains(flag))
                || self.scripts.values().any(|text| has_word(text, flag))
        };
        if only_flags && !known(flag_name(first)) {
            return vec![format!("no program or script here has the flag {}", flag_name(first))];
        }
        Vec::new()
    }
}

impl Program {
    fn check(&self, name: &str, words: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(first) = words.first() {
            let is_name = first.chars().all(|character| character.is_ascii_lowercase() || character == '-');
            if is_name && !first.starts_with('-') && !self.subcommands.contains(*first) {
                faults.push(format!("{name} has no subcommand {first}"));
            }
        }
        for flag in words.iter().filter(|word| is_flag(word)).map(|word| flag_name(word)) {
            if !self.flags.contains(flag) {
                faults.push(format!("{name} has no flag {flag}"));
            }
        }
        faults
    }
}

fn check_script(name: &str, text: &str, words: &[&str]) -> Vec<String> {
    // A script that runs another command passes that command's words on.
    if name == "scripts/conformance" {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (position, word) in words.iter().enumerate() {
        let is_name = position == 0 && word.chars().all(|character| character.is_ascii_lowercase());
        // `engine|verify` names two subcommands.
        let names: Vec<&str> =
            if word.contains('|') && position == 0 { word.split('|').collect() } else { vec![word] };
        if (is_flag(word) || is_name || names.len() > 1)
            && !names.iter().all(|name| has_word(text, flag_name(name)))
        {
            faults.push(format!("{name} does not take {word}"));
        }
    }
    faults
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|character| character.is_ascii_uppercase() || character == '_')
    })
}

/// Whether a word is a long flag, perhaps with a value or in square brackets.
fn is_flag(word: &str) -> bool {
    flag_name(word).strip_prefix("--").is_some_and(|name| {
        name.starts_with(|character: char| character.is_ascii_lowercase())
            && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '-')
    })
}

fn flag_name(word: &str) -> &str {
    let word = word.trim_start_matches('[').trim_end_matches([']', ',', '.', '…', ')']);
    word.split_once('=').map_or(word, |(name, _)| name)
}

fn has_word(text: &str, word: &str) -> bool {
    let edge = |character: Option<char>| {
        character.is_none_or(|character| {
            !character.is_ascii_alphanumeric() && character != '-' && character != '_'
        })
    };
    text.match_indices(word)
        .any(|(at, _)| edge(text[..at].chars().next_back()) && edge(text[at + word.len()..].chars().next()))
}

/// The flags that a source file declares.
fn flags(text: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    let mut rest = text;
    while let Some(at) = rest.find("#[arg(") {
        rest = &rest[at + "#[arg(".len()..];
        let Some(end) = closing(rest) else { break };
        let (attribute, after) = rest.split_at(end);
        rest = after;
        let named = attribute
            .split_once("long = \"")
            .and_then(|(_, name)| name.split_once('"'))
            .map(|(name, _)| name.to_owned());
        let is_long = attribute.split(',').any(|part| part.trim() == "long");
        if let Some(name) = named {
            flags.insert(format!("--{name}"));
        } else if is_long && let Some(field) = field(after) {
            flags.insert(format!("--{}", field.replace('_', "-")));
        }
        // Other names of the same flag.
        for (_, other) in
            attribute.match_indices("alias = \"").map(|(at, found)| (at, &attribute[at + found.len()..]))
        {
            if let Some((name, _)) = other.split_once('"') {
                flags.insert(format!("--{name}"));
            }
        }
    }
    flags
}

/// The field that follows an attribute, behind further attributes and comments.
fn field(after: &str) -> Option<String> {
    for line in after.lines().skip(1) {
        let line = line
            .trim()
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub(super) ")
            .trim_start_matches("pub ");
        if line.starts_with("//") || line.starts_with("#[") {
            continue;
        }
        let name: String = line
            .chars()
            .take_while(|character| character.is_ascii_alphanumeric() || *character == '_')
            .collect();
        if line[name.len()..].starts_with(':') && !name.is_empty() {
            return Some(name);
        }
    }
    None
}

/// Where the bracket ends that is open at the start of the text.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (1_usize, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '{' if !quoted => depth += 1,
            ')' | '}' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The variants of every enum that derives `Subcommand`, in kebab case.
fn subcommands(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = text;
    while let Some(at) = rest.find("Subcommand)]") {
        rest = &rest[at + "Subcommand)]".len()..];
        let Some(start) = rest.find("enum ").and_then(|at| rest[at..].find('{').map(|open| at + open + 1))
        else {
            break;
        };
        let lines = without_comments(&rest[start..]);
        let Some(end) = closing(&lines) else { break };
        let mut depth = 0_usize;
        let mut expects = true;
        let mut name = String::new();
        for character in lines[..end].chars() {
            match character {
                '(' | '{' | '[' => depth += 1,
                ')' | '}' | ']' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => expects = true,
                _ if depth == 0 && expects && (character.is_ascii_alphanumeric()) => name.push(character),
                _ => {}
            }
            if (depth > 0 || character == ',') && !name.is_empty() {
                names.insert(kebab(&std::mem::take(&mut name)));
                expects = false;
            }
        }
    }
    names
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for (position, character) in name.chars().enumerate() {
        if character.is_ascii_uppercase() && position > 0 {
            kebab.push('-');
        }
        kebab.push(character.to_ascii_lowercase());
    }
    kebab
}

#[cfg(test)]
mod tests {
    use super::Programs;

    const PARTNER: &str = r#"
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object (not text).
    #[arg(long, global = true)]
    json: bool,
}
#[derive(Debug, Subcommand)]
enum Command {
    /// Say (what) it is, {briefly}.
    #[command(after_help = "x, y")]
    Verify(verify::Verify),
    #[cfg(feature = "online")]
    ReadAll {
        /// Where.
        #[arg(long = "other-name", value_name = "FILE", value_parser = f(1))]
        field_name: String,
        #[arg(
            long,
            env = "X"
        )]
        /// A comment.
        pub(crate) max_age: u64,
    },
}
"#;

    fn faults(code: &str) -> usize {
        let script = "case $1 in\n--seconds) ;;\nengine) ;;\nesac\n";
        Programs::read(&[
            ("partner/src/cli.rs".to_owned(), PARTNER.to_owned()),
            ("scripts/bench".to_owned(), script.to_owned()),
        ])
        .check(code)
        .len()
    }

    #[test]
    fn what_a_program_accepts_is_right() {
        for good in [
            "cleanroom",
            "cleanroom verify ADDRESS --json",
            "cleanroom read-all --other-name=FILE [--max-age 3]",
            "KEY=x cleanroom verify a.example:8443  # --nothing",
            "scripts/bench engine --seconds 3",
            "--max-age",
            "--seconds",
            "cargo build --release",
        ] {
            assert_eq!(faults(good), 0, "{good}");
        }
    }

    #[test]
    fn what_a_program_does_not_accept_is_found() {
        for bad in [
            "cleanroom audit",
            "cleanroom verify ADDRESS --field-name x",
            "cleanroom verify --seconds 3",
            "scripts/bench nothing",
            "scripts/bench engine --minutes 3",
            "--minutes",
        ] {
            assert_eq!(faults(bad), 1, "{bad}");
        }
    }
}
