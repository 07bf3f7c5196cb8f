//! One line for each script, from the script's own first comment.

use crate::repository::Repository;

/// The scripts and what each does. A script's text begins with a comment, whose first sentence is shown.
pub(crate) fn list(repository: &Repository) -> String {
    let mut list = String::from("Scripts (each explains itself with --help):\n");
    for path in repository.files().unwrap_or_default() {
        let is_script = path.starts_with("scripts/") && path.matches('/').count() == 1;
        if !is_script && path != ".ci/run" && path != "image/kernel/build" {
            continue;
        }
        let text = repository.text(&path).unwrap_or_default();
        if text.starts_with("#!") {
            list += &format!("  {path:<20} {}\n", first_sentence(&text));
        }
    }
    list
}

fn first_sentence(text: &str) -> String {
    let comment: Vec<&str> = text
        .lines()
        .skip(1)
        .map_while(|line| line.strip_prefix('#'))
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let comment = comment.join(" ");
    match comment.split_once(". ") {
        Some((sentence, _)) => sentence.to_owned(),
        None => comment.trim_end_matches('.').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_sentence_may_go_over_two_lines() {
        let text = "#!/bin/sh\n# Builds one\n# thing. Then another.\n#\n#   usage\nset -eu\n";
        assert_eq!(super::first_sentence(text), "Builds one thing");
    }
}
