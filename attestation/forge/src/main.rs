//! Runs a verifier against the conformance vectors, and makes the vectors.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use cleanroom_forge::conformance;

const HELP: &str = "\
Runs a verifier against the conformance vectors of docs/verification.md.

Usage:
  conformance run [--only PREFIX] COMMAND [ARGUMENT...]   ask COMMAND every question and compare its answers
  conformance write                                       make the vectors anew, and the table in the document
  conformance table                                       make the table in the document anew

Exit codes of `run`: 0 it agrees with every vector, 1 it does not, 2 it was not run.
";

/// The lines in `docs/verification.md` between which the table of coverage stands.
const TABLE: [&str; 2] = ["<!-- table: begin -->\n", "<!-- table: end -->\n"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let result = match arguments.as_slice() {
        ["run", "--only", prefix, command @ ..] if !command.is_empty() => run(&repository, prefix, command),
        ["run", command @ ..] if command.first().is_some_and(|program| !program.starts_with('-')) => {
            run(&repository, "", command)
        }
        ["write"] => {
            conformance::write(&repository, &conformance::generate()).and_then(|()| table(&repository))
        }
        ["table"] => table(&repository),
        ["-h" | "--help"] | ["run", "-h" | "--help"] => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprint!("{HELP}");
            Ok(ExitCode::from(2))
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("conformance: {error}");
        ExitCode::from(2)
    })
}

fn run(repository: &Path, prefix: &str, command: &[&str]) -> io::Result<ExitCode> {
    let mut vectors = conformance::read(repository)?;
    vectors.retain(|vector| vector.id.starts_with(prefix));
    if vectors.is_empty() {
        return Err(io::Error::other(format!("no vector's name begins with {prefix:?}")));
    }
    let command: Vec<String> = command.iter().map(|&argument| argument.to_owned()).collect();
    let report = conformance::run(&command, &vectors)?;
    print!("{report}");
    Ok(ExitCode::from(u8::from(!report.agrees())))
}

fn table(repository: &Path) -> io::Result<ExitCode> {
    let path = repository.join("docs/verification.md");
    let document = fs::read_to_string(&path)?;
    let vectors = conformance::read(repository)?;
    let parts =
        document.split_once(TABLE[0]).and_then(|(before, rest)| Some((before, rest.split_once(TABLE[1])?.1)));
    let (before, after) = parts.ok_or_else(|| io::Error::other("the document has no place for the table"))?;
    let table = conformance::table(&document, &vectors);
    fs::write(&path, format!("{before}{}{table}{}{after}", TABLE[0], TABLE[1]))?;
    Ok(ExitCode::SUCCESS)
}
