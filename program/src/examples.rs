//! For tests: checks that every command of a program shows an example in its help, and that the examples are
//! right.

use clap::Command;

/// What is wrong with the examples of `program`, one line each. A command without subcommands must have at
/// least one example of its own in the text after its help (`after_help` or `after_long_help`): a line that
/// is indented by two spaces and begins with the command's full name. A backslash continues it. Single and
/// double quotes group words, `#` begins a comment, and `|`, `<`, `>` or `&` ends the command. Each example
/// must parse.
#[must_use]
pub fn problems(program: &Command) -> Vec<String> {
    let mut program = program.clone();
    program.build();
    let mut problems = Vec::new();
    walk(&program, &program, program.get_name(), &mut problems);
    problems
}

fn walk(program: &Command, command: &Command, path: &str, problems: &mut Vec<String>) {
    let help = [command.get_after_help(), command.get_after_long_help()];
    let help: Vec<String> = help.into_iter().flatten().map(|text| text.ansi().to_string()).collect();
    let mut found = 0;
    for example in help.iter().flat_map(|text| examples(text, program.get_name())) {
        let own = format!("{example} ").starts_with(&format!("{path} "));
        found += usize::from(own);
        if let Err(error) = program.clone().try_get_matches_from(words(&example)) {
            problems.push(format!("{path}: the example `{example}` is wrong: {error}"));
        }
    }
    let subcommands: Vec<&Command> =
        command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help").collect();
    if subcommands.is_empty() && found == 0 {
        problems.push(format!("{path}: its help has no example"));
    }
    for subcommand in subcommands {
        walk(program, subcommand, &format!("{path} {}", subcommand.get_name()), problems);
    }
}

/// The command lines of `program` in a help text.
fn examples(text: &str, program: &str) -> Vec<String> {
    let mut examples = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(begun) = line.strip_prefix("  ").filter(|line| line.starts_with(program)) else { continue };
        let mut example = begun.to_owned();
        while let Some(whole) = example.strip_suffix('\\') {
            example = format!("{whole}{}", lines.next().unwrap_or_default().trim_start());
        }
        examples.push(example);
    }
    examples
}

/// The words of a command line, as a shell splits them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '|' | '<' | '>' | '&') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn program(help: &'static str) -> Command {
        let option = Arg::new("file").long("file");
        let kept = Command::new("keep").arg(option).after_help(help);
        Command::new("tool").subcommand(Command::new("group").subcommand(kept))
    }

    #[test]
    fn a_command_without_an_example_is_found() {
        assert!(problems(&program("Examples:\n  tool group keep --file 'a b'  # a comment")).is_empty());
        assert!(problems(&program("Examples:\n  tool group keep \\\n      --file x > y")).is_empty());
        for wrong in [
            "",
            "Examples:",
            "Examples:\n  other group keep",
            "Examples:\n  tool group keepsake",
            "Examples:\n  tool group keep --fil x",
            "Examples:\n  tool group keep --file x\n  tool group --file",
        ] {
            assert!(!problems(&program(wrong)).is_empty(), "{wrong}");
        }
    }
}
