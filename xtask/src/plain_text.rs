//! Fields that own plain text, bytes or tokens, where prompts and answers pass.
//!
//! In an enclave, a prompt or an answer lives in types that erase it when they are dropped and that nothing can
//! print: `SecretString`, `Zeroizing<…>`, and types made of them. The programs' allocator erases the rest, but a
//! `String` can still reach a log or an error, is easily written, and is hard to see. So each field
//! of a struct or an enum in [`FOLDERS`] that owns plain text, bytes or tokens needs a line in
//! `plain_text/permitted.txt`, which says why no partner's text can be in it. The check sees fields, no local
//! variables.

use std::collections::BTreeMap;

use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Fields, GenericArgument, Item, PathArguments, Token, Type};

use crate::Outcome;
use crate::repository::Repository;

/// Where prompts and answers pass.
const FOLDERS: [&str; 7] = [
    "attestation/safeguard/src/",
    "enclave/backend/src/",
    "enclave/engine/src/",
    "enclave/native/src/",
    "enclave/openai/src/",
    "enclave/protocol/src/",
    "enclave/worker/src/",
];

/// The list of fields that may.
const PERMITTED: &str = "xtask/src/plain_text/permitted.txt";

/// Types that own text and do not erase it.
const PLAIN: [&str; 9] =
    ["String", "Value", "RawValue", "Bytes", "BytesMut", "HeaderValue", "Uri", "PathBuf", "Cow"];

/// Types whose contents erase themselves.
const ERASED: [&str; 2] = ["Zeroizing", "Secret"];

/// Types that own what they hold, and would hold text, bytes or tokens of these elements.
const HOLDERS: [&str; 5] = ["Vec", "VecDeque", "Box", "Arc", "Rc"];
const ELEMENTS: [&str; 4] = ["u8", "u32", "str", "char"];

/// Compares the fields with the list.
pub(crate) fn check(repository: &Repository) -> Result<Outcome, String> {
    let mut permitted = permitted(&repository.text(PERMITTED)?)?;
    let listed = permitted.len();
    let mut faults = Vec::new();
    let mut looked_at = 0;
    for path in repository.files()? {
        let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
        if is_test || !path.ends_with(".rs") || !FOLDERS.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let file = syn::parse_file(&repository.text(&path)?).map_err(|error| format!("{path}: {error}"))?;
        looked_at += 1;
        let mut fields = plain_fields(&file.items);
        if !fields.is_empty() && permitted.remove(&format!("{path} *")).is_some() {
            fields.clear();
        }
        for field in fields {
            if permitted.remove(&format!("{path} {}", field.name)).is_none() {
                let (line, name, kind) = (field.line, field.name, field.kind);
                faults.push(format!(
                    "{path}:{line}: {name} owns plain text ({kind}): use SecretString or Zeroizing, or say in \
                     {PERMITTED} why no partner's text is in it"
                ));
            }
        }
    }
    faults.extend(permitted.into_iter().map(|(field, line)| {
        format!("{PERMITTED}:{line}: {field}: there is no such field, or it holds no plain text any more")
    }));
    Ok(Outcome { summary: format!("{looked_at} files, {listed} permitted fields"), faults })
}

/// The lines of the list, `FILE NAME: reason`, as `FILE NAME` with the line's number. The name `*` stands for all
/// fields of a file.
fn permitted(text: &str) -> Result<BTreeMap<String, usize>, String> {
    let mut fields = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let field = match line.split_once(": ") {
            Some((field, reason)) if field.split(' ').count() == 2 && !reason.trim().is_empty() => field,
            _ => return Err(format!("{PERMITTED}:{number}: expected \"FILE NAME: reason\", got {line:?}")),
        };
        if fields.insert(field.to_owned(), number).is_some() {
            return Err(format!("{PERMITTED}:{number}: {field} stands there twice"));
        }
    }
    Ok(fields)
}

/// A field that owns plain text.
#[derive(Debug, PartialEq)]
struct Field {
    line: usize,
    /// `Struct.field`, or `Enum.Variant.field`; an unnamed field has its number.
    name: String,
    kind: &'static str,
}

fn plain_fields(items: &[Item]) -> Vec<Field> {
    let mut found = Vec::new();
    for item in items {
        match item {
            Item::Struct(item) => collect(&item.ident.to_string(), &item.fields, &mut found),
            Item::Enum(item) => {
                for variant in &item.variants {
                    collect(&format!("{}.{}", item.ident, variant.ident), &variant.fields, &mut found);
                }
            }
            Item::Mod(item) if !is_for_tests(&item.attrs) => {
                if let Some((_, items)) = &item.content {
                    found.extend(plain_fields(items));
                }
            }
            _ => {}
        }
    }
    found
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "test")
    })
}

fn collect(owner: &str, fields: &Fields, found: &mut Vec<Field>) {
    for (number, field) in fields.iter().enumerate() {
        if let Some(kind) = plain(&field.ty) {
            let name = field.ident.as_ref().map_or_else(|| number.to_string(), ToString::to_string);
            found.push(Field { line: field.span().start().line, name: format!("{owner}.{name}"), kind });
        }
    }
}

/// The plain type that a type owns. References own nothing.
fn plain(kind: &Type) -> Option<&'static str> {
    match kind {
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            let name = last.ident.to_string();
            if ERASED.contains(&name.as_str()) {
                return None;
            }
            if let Some(name) = PLAIN.iter().find(|plain| **plain == name) {
                return Some(name);
            }
            let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
            if let Some(name) = HOLDERS.iter().find(|holder| **holder == name)
                && holds_elements(&arguments.args)
            {
                return Some(name);
            }
            arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Type(inner) => plain(inner),
                _ => None,
            })
        }
        Type::Tuple(tuple) => tuple.elems.iter().find_map(plain),
        Type::Array(array) => plain(&array.elem),
        Type::Slice(slice) => plain(&slice.elem),
        Type::Paren(inner) => plain(&inner.elem),
        _ => None,
    }
}

/// Whether a holder holds text, bytes or tokens themselves: `Vec<u8>`, `Box<[u32]>`, `Arc<str>`.
fn holds_elements(arguments: &Punctuated<GenericArgument, Token![,]>) -> bool {
    let Some(GenericArgument::Type(held)) = arguments.first() else { return false };
    let element = match held {
        Type::Slice(slice) => &*slice.elem,
        other => other,
    };
    matches!(element, Type::Path(path)
        if path.path.get_ident().is_some_and(|name| ELEMENTS.contains(&name.to_string().as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str) -> Vec<String> {
        let file = syn::parse_file(source).unwrap();
        plain_fields(&file.items).into_iter().map(|field| format!("{} {}", field.name, field.kind)).collect()
    }

    #[test]
    fn plain_fields_are_found_in_every_shape() {
        let source = "
            struct Named { a: String, b: Option<Vec<String>>, c: std::borrow::Cow<'static, str>, d: [Vec<u8>; 2] }
            struct Unnamed(u8, Box<[u32]>, (bool, Arc<str>));
            enum Kind { Bare, Held { text: Result<String, u8> }, Tuple(bytes::Bytes) }
            mod inner { struct Deep { tokens: VecDeque<u32> } }
        ";
        let expected = [
            "Named.a String",
            "Named.b String",
            "Named.c Cow",
            "Named.d Vec",
            "Unnamed.1 Box",
            "Unnamed.2 Arc",
            "Kind.Held.text String",
            "Kind.Tuple.0 Bytes",
            "Deep.tokens VecDeque",
        ];
        assert_eq!(names(source), expected);
    }

    #[test]
    fn what_is_erased_borrowed_or_for_tests_is_left_out() {
        let source = "
            struct Held<'a> {
                a: SecretString, b: Zeroizing<String>, c: Option<Zeroizing<Vec<u8>>>, d: &'a str, e: Vec<f32>,
                f: Box<dyn Fn(String)>, g: zeroize::Zeroizing<Vec<u32>>, h: Box<[Entry]>,
            }
            #[cfg(test)] mod tests { struct Recorder { text: String } }
        ";
        assert_eq!(names(source), <[&str; 0]>::default());
    }

    #[test]
    fn the_list_has_a_file_a_name_and_a_reason() {
        assert_eq!(permitted("# a comment\n\na.rs B.c: because\n").unwrap().get("a.rs B.c"), Some(&3));
        for wrong in ["a.rs B.c", "a.rs B.c: ", "B.c: because", "a.rs B.c: because\na.rs B.c: again"] {
            assert!(permitted(wrong).is_err(), "{wrong}");
        }
    }
}
