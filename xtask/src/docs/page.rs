//! A Markdown file, cut into what can be checked.

/// Something that names something.
pub(crate) enum Piece {
    /// The target of a link.
    Link(String),
    /// A span in backticks.
    Code(String),
    /// A line of a shell block, joined with its continuations.
    Shell(String),
}

/// A page with its headings.
pub(crate) struct Page {
    path: String,
    anchors: Vec<String>,
    pieces: Vec<(usize, Piece)>,
}

impl Page {
    pub(crate) fn read(path: &str, text: &str) -> Self {
        let mut page = Self { path: path.to_owned(), anchors: Vec::new(), pieces: Vec::new() };
        let mut fence: Option<String> = None;
        let mut command = String::new();
        // A span in backticks may go over the end of a line.
        let mut paragraph = String::new();
        let mut begins = 1;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if let Some(language) = &fence {
                if line.trim_start().starts_with("```") {
                    fence = None;
                } else if matches!(language.as_str(), "sh" | "bash" | "text" | "console") {
                    command += line.trim_end_matches('\\');
                    if !line.ends_with('\\') {
                        page.pieces.push((number, Piece::Shell(std::mem::take(&mut command))));
                    }
                }
                continue;
            }
            if let Some(language) = line.trim_start().strip_prefix("```") {
                page.spans(begins, &std::mem::take(&mut paragraph));
                fence = Some(language.trim().to_owned());
                continue;
            }
            if let Some(heading) = line.strip_prefix('#') {
                page.anchors.push(anchor(heading.trim_start_matches('#').trim()));
            }
            if line.trim().is_empty() || line.starts_with('|') || line.starts_with('#') {
                page.spans(begins, &std::mem::take(&mut paragraph));
            }
            if paragraph.is_empty() {
                begins = number;
            }
            paragraph += line;
            paragraph.push('\n');
        }
        page.spans(begins, &paragraph);
        page
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The names by which links reach this page's headings.
    pub(crate) fn anchors(&self) -> &[String] {
        &self.anchors
    }

    /// What the page names, with line numbers counted from 1.
    pub(crate) fn pieces(&self) -> &[(usize, Piece)] {
        &self.pieces
    }

    /// Takes the links and the spans in backticks out of a paragraph that begins in the given line.
    fn spans(&mut self, begins: usize, paragraph: &str) {
        let line_of = |rest: &str| begins + paragraph[..paragraph.len() - rest.len()].matches('\n').count();
        let mut rest = paragraph;
        while let Some(at) = rest.find(['`', ']']) {
            let line = line_of(&rest[at..]);
            if rest[at..].starts_with("](") {
                rest = &rest[at + 2..];
                if let Some((target, after)) = rest.split_once(')') {
                    self.pieces.push((line, Piece::Link(target.to_owned())));
                    rest = after;
                }
            } else if let Some(code) = rest[at..].strip_prefix('`') {
                let Some((code, after)) = code.split_once('`') else { return };
                let words: Vec<&str> = code.split_whitespace().collect();
                self.pieces.push((line, Piece::Code(words.join(" "))));
                rest = after;
            } else {
                rest = &rest[at + 1..];
            }
        }
    }
}

/// The name that Markdown viewers give a heading.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter_map(|character| match character {
            ' ' => Some('-'),
            '-' | '_' => Some(character),
            _ if character.is_alphanumeric() => character.to_lowercase().next(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Page, Piece, anchor};

    #[test]
    fn links_spans_and_shell_lines_have_their_lines() {
        let page = Page::read(
            "a.md",
            "# A b\n\nsee [x](y.md#z) and `a\nb`\n\n| `c` |\n| `d` |\n\n```sh\none \\\n  two\n```\n\n```rust\nno\n```\n",
        );
        let pieces: Vec<String> = page
            .pieces()
            .iter()
            .map(|(line, piece)| match piece {
                Piece::Link(link) => format!("{line} link {link}"),
                Piece::Code(code) => format!("{line} code {code}"),
                Piece::Shell(command) => format!("{line} shell {command}"),
            })
            .collect();
        let expected =
            ["3 link y.md#z", "3 code a b", "6 code c", "7 code d", "11 shell one   two"].map(str::to_owned);
        assert_eq!(pieces, expected);
        assert_eq!(page.anchors(), ["a-b"]);
    }

    #[test]
    fn anchors_are_those_of_markdown_viewers() {
        assert_eq!(anchor("How fast, and against whom"), "how-fast-and-against-whom");
    }
}
