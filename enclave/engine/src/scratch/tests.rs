//! What buffers leave behind, read from the process's own memory as a stranger would.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use super::*;

/// Nothing else in the process has it: a pattern, and never the same element twice in a row.
const MARK: u64 = 0x7a61_756e_6b6f_6e69;

/// Elements that tell where they came from.
fn marks(count: usize) -> impl Iterator<Item = u64> {
    (0..count as u64).map(|index| MARK.wrapping_mul(2 * index + 3))
}

/// How many of the marks stand, at their places, in the memory from `address` on. Memory that is no longer
/// mapped holds none.
fn marks_at(address: usize, count: usize) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut bytes = vec![0; count * size_of::<u64>()];
    if memory.read_exact_at(&mut bytes, address as u64).is_err() {
        return 0;
    }
    let words = bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    words.zip(marks(count)).filter(|(word, mark)| word == mark).count()
}

const COUNT: usize = 200;

fn marked() -> (Scratch<u64>, usize) {
    let mut list = Scratch::with_capacity(COUNT + 8);
    list.extend(marks(COUNT));
    let address = list.as_ptr() as usize;
    (list, address)
}

#[test]
fn a_search_finds_what_a_plain_list_leaves_behind() {
    let mut list: Vec<u64> = Vec::with_capacity(COUNT + 8);
    list.extend(marks(COUNT));
    let address = list.as_ptr() as usize;
    assert_eq!(marks_at(address, COUNT), COUNT);
    list.clear();
    assert_eq!(marks_at(address, COUNT), COUNT, "a plain list keeps what it held");
}

#[test]
fn a_list_erases_what_leaves_it() {
    let (mut list, address) = marked();
    assert_eq!(marks_at(address, COUNT), COUNT, "the search finds what is there");
    list.truncate(150);
    assert_eq!(marks_at(address, COUNT), 150);
    assert_eq!(list.pop(), marks(150).last());
    assert_eq!(marks_at(address, COUNT), 149);
    list.retain(|element| marks(50).any(|mark| mark == *element));
    assert_eq!(marks_at(address, COUNT), 50);
    list.clear();
    assert_eq!(marks_at(address, COUNT), 0);
    list.push(7);
    assert_eq!((list.len(), list.as_ptr() as usize), (1, address), "and goes on in the same place");
}

#[test]
fn a_list_erases_the_place_it_moves_from_and_what_it_held_when_it_is_dropped() {
    let (mut list, address) = marked();
    list.reserve(COUNT);
    assert_ne!(list.as_ptr() as usize, address);
    // The allocator may have written its own words over the first ones.
    assert_eq!(marks_at(address + 32, COUNT - 4), 0);
    assert!(list.iter().copied().eq(marks(COUNT)));
    let address = list.as_ptr() as usize;
    drop(list);
    assert_eq!(marks_at(address, COUNT), 0);
    let (list, _) = marked();
    let copy: Scratch<u64> = list.iter().copied().collect();
    assert_eq!(marks_at(copy.as_ptr() as usize, COUNT), COUNT);
}

#[test]
fn a_list_that_is_taken_over_has_nothing_behind_its_length() {
    let mut list = Zeroizing::new(Vec::with_capacity(COUNT + 8));
    list.extend(marks(COUNT));
    let address = list.as_ptr() as usize;
    list.truncate(10);
    assert_eq!(marks_at(address, COUNT), COUNT);
    let list = Scratch::from(list);
    assert_eq!((list.len(), list.as_ptr() as usize), (10, address));
    assert_eq!(marks_at(address, COUNT), 10);
}

#[test]
fn a_text_erases_what_leaves_it() {
    let whole: String = marks(COUNT).map(|mark| format!("{mark:016x}")).collect();
    let found = |address: usize| {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut bytes = vec![0; whole.len()];
        memory.read_exact_at(&mut bytes, address as u64).is_ok()
            && bytes.chunks(16).zip(whole.as_bytes().chunks(16)).any(|(a, b)| a == b)
    };
    let mut text = ScratchText::from(whole.as_str());
    let address = text.as_ptr() as usize;
    assert!(found(address));
    text.push_str("and more");
    assert!(!found(address), "it moved");
    let address = text.as_ptr() as usize;
    assert!(found(address));
    text.clear();
    assert!(!found(address));
    text.push_str(&whole);
    assert_eq!(text.as_ptr() as usize, address);
    drop(text);
    assert!(!found(address));
}

#[test]
fn a_heap_erases_what_it_held() {
    let mut heap = ScratchHeap::with_capacity(COUNT);
    marks(COUNT).for_each(|mark| heap.push(mark));
    let address = heap.0.as_slice().as_ptr() as usize;
    let held = |address: usize| {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut bytes = vec![0; COUNT * size_of::<u64>()];
        let words = memory.read_exact_at(&mut bytes, address as u64).map(|()| bytes.as_chunks::<8>().0);
        let held = |word: &[u8; 8]| marks(COUNT).any(|mark| mark.to_le_bytes() == *word);
        words.map_or(0, |words| words.iter().filter(|word| held(word)).count())
    };
    assert_eq!(held(address), COUNT);
    heap.reserve(1);
    assert_eq!(held(address), 0, "it moved");
    assert_eq!(heap.pop(), marks(COUNT).max());
    let address = heap.0.as_slice().as_ptr() as usize;
    drop(heap);
    assert_eq!(held(address), 0);
}

#[test]
fn a_steps_buffer_erases_what_was_written() {
    let mut buffer: StepBuffer<u64> = StepBuffer::new(COUNT);
    let address = buffer.as_ptr() as usize;
    buffer.first_mut(COUNT).iter_mut().zip(marks(COUNT)).for_each(|(element, mark)| *element = mark);
    // A shorter step follows, as after a prompt.
    buffer.first_mut(1).fill(1);
    assert_eq!(marks_at(address, COUNT), COUNT - 1);
    buffer.erase();
    assert!(buffer.iter().all(|element| *element == 0));
    buffer.first_mut(COUNT).iter_mut().zip(marks(COUNT)).for_each(|(element, mark)| *element = mark);
    drop(buffer);
    assert_eq!(marks_at(address, COUNT), 0);
    assert_eq!(StepBuffer::<u64>::new(3).first_mut(9).len(), 3);
}

/// Files that hold a model, a processor's arithmetic or the measuring of both, and nothing that a partner
/// wrote.
const WITHOUT_SECRETS: [&str; 17] = [
    "gguf",
    "classifier/file.rs",
    "scheduling/memory_search.rs",
    "kernels/",
    "model/",
    "matrix.rs",
    "pool.rs",
    "lib.rs",
    "owner.rs",
    "scratch.rs",
    "gguf_writer.rs",
    "constraint/tokens.rs",
    "tokenizer/vocabulary.rs",
    "tokenizer/bytes.rs",
    "scheduling/sharing.rs",
    "scheduling/clock.rs",
    "tests.rs",
];

/// Plain buffers by their element, as this crate names what it makes of prompts and answers.
const PLAIN: [&str; 14] = [
    "Vec<f32>",
    "Vec<u32>",
    "Vec<u16>",
    "Vec<u8>",
    "Vec<Row>",
    "Vec<(f32, u32)>",
    "Vec<(u32, f32)>",
    "Vec<Block>",
    "Vec<String>",
    "Vec<Symbol>",
    ": String",
    "String::new",
    "String::with_capacity",
    "Zeroizing::",
];

/// Lines where one is right, and why.
const EXCEPTIONS: [(&str, &str, &str); 26] = [
    ("classifier.rs", "labels: Vec<String>", "names out of the file"),
    ("classifier.rs", "ones: Vec<f32>", "a weight"),
    ("classifier.rs", "frequencies: Vec<f32>", "rotations, which no text changes"),
    ("classifier.rs", "Zeroizing", "tokens for a caller who measures"),
    ("cache.rs", "pool: Vec<u16>", "the pages, which are erased one by one"),
    ("forward.rs", "fn last_row", "for a test"),
    ("sampling.rs", "bias: Zeroizing<Vec<(u32, f32)>>", "a job's biases, on their way"),
    // What callers hand over; it is turned into scratch memory at once.
    ("scheduling.rs", "Zeroizing<Vec<(u32, f32)>>", "the type of a job's biases"),
    ("scheduling.rs", "bias: Zeroizing::default()", "none"),
    ("scheduling.rs", "Vec<Zeroizing<String>>", "the type of a job's stop strings, never grown"),
    ("model.rs", "Zeroizing<Vec<u32>>", "tokens from a caller"),
    ("model.rs", "marks: Vec<u32>", "control tokens of the vocabulary"),
    ("model.rs", "String", "facts about the file, and errors about it"),
    ("evaluate.rs", "Zeroizing::new(tokens", "tokens for a caller who measures"),
    ("evaluate.rs", "Zeroizing<Vec<u32>>", "tokens for a caller who measures"),
    ("constraint.rs", "Zeroizing<Vec<u8>>", "an answer without a model, for a caller who measures"),
    ("constraint/json.rs", "Zeroizing", "serde hands over a text of its own, which is not grown"),
    ("constraint/schema/keywords.rs", "Zeroizing::new(name.replace", "a name, made once"),
    ("tokenizer.rs", "Vec<u32>", "tokens that end a turn"),
    ("tokenizer.rs", "text: String", "a control token's text"),
    ("tokenizer.rs", "String", "errors about the file"),
    ("tokenizer/bpe.rs", "Option<Vec<u8>>", "merges of the file"),
    ("template.rs", "String", "the template's own functions"),
    ("template/comparisons.rs", "String::with_capacity", "the template itself, from the model file"),
    ("template/python.rs", "Option<Vec<String>>", "the template's own separators"),
    ("template/python.rs", "let mut out = String::new();", "a date"),
];

/// Forgetting is a failure: whoever adds a plain buffer to a file that handles text, tokens or activations
/// meets this test.
#[test]
fn what_is_made_of_prompts_and_answers_is_held_in_scratch_memory() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut files = 0;
    visit(&source, &mut |path| {
        let name = path.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
        if WITHOUT_SECRETS.iter().any(|known| name.starts_with(known) || name.ends_with(known)) {
            return;
        }
        files += 1;
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            let code = line.split("//").next().unwrap();
            let excepted = || EXCEPTIONS.iter().any(|(file, part, _)| name == *file && code.contains(part));
            if PLAIN.iter().any(|plain| code.contains(plain)) && !excepted() {
                found.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    });
    assert!(files > 15, "{files} files");
    assert!(found.is_empty(), "use a type of `scratch`, or say why not:\n{}", found.join("\n"));
}

fn visit(folder: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, each);
        } else {
            each(&path);
        }
    }
}
