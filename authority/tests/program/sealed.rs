//! Sealing a model, and opening it again: whole, in pieces, interrupted, damaged, and by another implementation.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use cleanroom_attestation::model::model_digest;
use serde_json::Value;

use crate::folder::{Folder, Run};
use crate::interop::python;

/// The length of a chunk, and of a sealed one with the header before it, in bytes.
const CHUNK: usize = 16 * 1024;
const HEADER: usize = 56;

fn model(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

/// A folder with a model of three chunks and a bit, sealed in `m.sealed` under `weights.key`.
fn sealed() -> Folder {
    let folder = Folder::new();
    folder.write("m", &model(3 * CHUNK + 5));
    folder.ok("seal m --new-key weights.key");
    folder
}

#[test]
fn a_model_is_sealed_and_opened() {
    let folder = sealed();
    let bytes = folder.read("m");
    let identity = model_digest(&bytes).to_string();
    let record: Value = serde_json::from_slice(&folder.read("m.sealed.json")).unwrap();
    assert_eq!(record["model_sha256"], *identity);
    assert_eq!(record["bytes"], bytes.len());
    assert_eq!(record["sealed_bytes"], folder.read("m.sealed").len());
    assert_eq!(record["context"], "cleanroom/weights/1");
    let mode = std::fs::metadata(folder.path("weights.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let shown = folder.json("inspect m.sealed");
    for member in ["bytes", "sealed_bytes", "salt", "commitment", "format"] {
        assert_eq!(shown[member], record[member], "{member}");
    }
    let verified = folder.json(&format!("verify m.sealed --key weights.key --model {identity}"));
    assert_eq!(verified["model_sha256"], *identity);
    assert!(folder.ok("verify m.sealed --key weights.key").contains("whole and undamaged"));
    // Nothing is overwritten, and nothing of the model is in what was written.
    assert_eq!(folder.run("seal m --key weights.key").status, 2);
    assert_eq!(folder.run("seal m --new-key weights.key --out other").status, 2);
    assert!(!folder.exists("m.sealed.part") && !folder.exists("other"));
    assert!(!folder.read("m.sealed").windows(16).any(|window| window == &bytes[..16]));
    // The same model again has another salt: nobody sees that it is the same.
    folder.ok("seal m --key weights.key --out again");
    assert_ne!(folder.json("inspect again")["salt"], record["salt"]);
}

#[test]
fn a_sealed_folder_is_shown_with_its_files() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("m/sub")).unwrap();
    folder.write("m/b", &model(CHUNK + 1));
    folder.write("m/sub/a", &model(5));
    folder.ok("seal m --new-key weights.key");
    let shown = folder.json("inspect m.sealed");
    let files = serde_json::json!([{ "name": "b", "bytes": CHUNK + 1 }, { "name": "sub/a", "bytes": 5 }]);
    assert_eq!(shown["files"], files);
    assert_eq!(shown["model_sha256"], folder.json("verify m.sealed --key weights.key")["model_sha256"]);
    let text = folder.ok("inspect m.sealed");
    assert!(text.contains("b of 16385 bytes") && text.contains("sub/a of 5 bytes"), "{text}");
    // The record of another file is none, and without a record there is no list.
    folder.write("other", &model(3 * CHUNK + 1));
    folder.ok("seal other --key weights.key");
    std::fs::copy(folder.path("other.sealed.json"), folder.path("m.sealed.json")).unwrap();
    assert_eq!(folder.refused("inspect m.sealed"), "record");
    std::fs::remove_file(folder.path("m.sealed.json")).unwrap();
    assert!(folder.json("inspect m.sealed")["files"].is_null());
    // A name cannot steer a terminal.
    std::fs::write(folder.path("m/\u{1b}[2J"), [1]).unwrap();
    folder.ok("seal m --key weights.key --out again");
    assert!(!folder.ok("inspect again").contains('\u{1b}'));
}

#[test]
fn what_was_not_sealed_like_this_is_refused() {
    let folder = sealed();
    let whole = folder.read("m.sealed");
    let chunk = CHUNK + 16;
    let mut damaged = whole.clone();
    damaged[HEADER + chunk + 7] ^= 1;
    let mut exchanged = whole.clone();
    exchanged[HEADER..HEADER + 2 * chunk].rotate_left(chunk);
    for (bytes, code) in [
        (damaged, "sealed-damaged"),
        (exchanged, "sealed-damaged"),
        (whole[..HEADER + chunk].to_vec(), "sealed-truncated"),
        (whole[..whole.len() - 1].to_vec(), "sealed-damaged"),
        ([whole.as_slice(), &[0]].concat(), "sealed-damaged"),
        (whole[..20].to_vec(), "sealed-length"),
        (folder.read("m"), "sealed-wrong-key"),
    ] {
        folder.write("bad", &bytes);
        assert_eq!(folder.refused("verify bad --key weights.key"), code);
    }
    folder.write("m2", &model(10));
    folder.ok("seal m2 --new-key other.key");
    assert_eq!(folder.refused("verify m.sealed --key other.key"), "sealed-wrong-key");
    let other = "ee".repeat(32);
    let line = format!("verify m.sealed --key weights.key --model {other}");
    assert_eq!(folder.refused(&line), "model-digest");
    for wrong in ["", "abc", &"zz".repeat(32), &"00".repeat(31), &"00".repeat(33)] {
        folder.write("other.key", wrong.as_bytes());
        assert_eq!(folder.refused("verify m.sealed --key other.key"), "key", "{wrong}");
    }
    std::fs::set_permissions(folder.path("weights.key"), Permissions::from_mode(0o644)).unwrap();
    let exposed = folder.run("verify m.sealed --key weights.key");
    assert_eq!(exposed.status, 3);
    assert!(exposed.stderr.contains("chmod 600"), "{}", exposed.stderr);
}

#[test]
fn an_interrupted_run_is_continued() {
    let folder = sealed();
    let (whole, salt) = (folder.read("m.sealed"), folder.json("inspect m.sealed")["salt"].clone());
    let lengths =
        [0, 10, HEADER, HEADER + 1, HEADER + CHUNK + 16, HEADER + 40_000, whole.len() - 1, whole.len()];
    for length in lengths {
        std::fs::remove_file(folder.path("m.sealed")).unwrap();
        folder.write("m.sealed.part", &whole[..length]);
        let sealed = folder.json("seal m --key weights.key");
        // What was begun goes on. A header that is not whole was no beginning.
        assert_eq!(sealed["salt"] == salt, length >= HEADER, "{length}");
        assert_eq!(folder.read("m.sealed") == whole, length >= HEADER, "{length}");
        folder.ok("verify m.sealed --key weights.key");
        assert!(!folder.exists("m.sealed.part"));
    }
    // Another model, or another key, under the same salt: nothing is written.
    std::fs::remove_file(folder.path("m.sealed")).unwrap();
    let part = &whole[..HEADER + CHUNK];
    let mut changed = folder.read("m");
    changed[100] ^= 1;
    folder.write("m", &changed);
    folder.write("m.sealed.part", part);
    assert_eq!(folder.refused("seal m --key weights.key"), "model-changed");
    assert_eq!(folder.read("m.sealed.part"), part);
    folder.write("m", &model(CHUNK / 2));
    assert_eq!(folder.refused("seal m --key weights.key"), "model-changed");
    assert_eq!(folder.refused("seal m --new-key other.key"), "sealed-wrong-key");
    assert_eq!(folder.read("m.sealed.part"), part);
    assert!(!folder.exists("m.sealed"));
}

#[test]
fn several_files_are_one_model() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("m/tokenizer")).unwrap();
    let shards = ["m/x-00001-of-00002.gguf", "m/x-00002-of-00002.gguf", "m/tokenizer/vocabulary.json"];
    for (index, name) in shards.iter().enumerate() {
        folder.write(name, &model(CHUNK * index + 100));
    }
    let identity = folder.json("identify m")["model_sha256"].clone();
    let sealed = folder.json("seal m/ --new-key weights.key");
    assert_eq!(sealed["model_sha256"], identity);
    let names: Vec<_> =
        sealed["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["tokenizer/vocabulary.json", "x-00001-of-00002.gguf", "x-00002-of-00002.gguf"]);
    let verified = folder.json("verify m.sealed --key weights.key");
    assert_eq!((&verified["model_sha256"], &verified["files"]), (&identity, &sealed["files"]));
    assert!(folder.ok("verify m.sealed --key weights.key").contains("3 files"));
    // The files are where the format says, and nothing else is.
    let files = shards.map(|name| (name.trim_start_matches("m/").to_owned(), folder.read(name)));
    let mut whole = [&17_u32.to_be_bytes()[..], b"cleanroom/files/1", &3_u32.to_be_bytes()].concat();
    let of = |name: &&str| &files.iter().find(|(each, _)| each == name).unwrap().1;
    for name in &names {
        whole.extend((name.len() as u32).to_be_bytes());
        whole.extend(name.as_bytes());
        whole.extend((of(name).len() as u64).to_be_bytes());
    }
    whole.resize(CHUNK, 0);
    for name in &names {
        whole.extend(of(name));
        whole.resize(whole.len().next_multiple_of(CHUNK), 0);
    }
    assert_eq!(identity, model_digest(&whole).to_string());
    // Several paths are the same model as their folder, in any order.
    let [first, second, _] = shards;
    std::fs::remove_dir_all(folder.path("m/tokenizer")).unwrap();
    let two = folder.json("identify m")["model_sha256"].clone();
    assert_ne!(two, identity);
    assert_eq!(folder.json(&format!("identify {second} {first}"))["model_sha256"], two);
    // Names belong to the model.
    std::fs::rename(folder.path(second), folder.path("m/y.gguf")).unwrap();
    assert_ne!(folder.json("identify m")["model_sha256"], two);
    assert_eq!(folder.run(&format!("seal {first} m/y.gguf --key weights.key")).status, 2);
    std::fs::create_dir(folder.path("empty")).unwrap();
    assert_eq!(folder.refused("identify empty"), "model-files");
    // One file is itself.
    assert_eq!(
        folder.json(&format!("identify {first}"))["model_sha256"],
        model_digest(&model(100)).to_string()
    );
}

#[test]
fn the_model_is_never_in_memory() {
    let folder = Folder::new();
    let file = std::fs::File::create(folder.path("m")).unwrap();
    file.set_len(400 << 20).unwrap();
    // 256 MiB of addresses, for a model of 400 MiB.
    let limited = |line: &str| {
        let program = env!("CARGO_BIN_EXE_cleanroom-authority");
        let script = format!("ulimit -v 262144; exec {program} {line}");
        Run::of(Command::new("sh").args(["-c", &script]).current_dir(folder.path("")).output().unwrap())
    };
    for line in ["seal m --new-key weights.key", "verify m.sealed --key weights.key"] {
        let run = limited(line);
        assert_eq!(run.status, 0, "{line}: {}", run.stderr);
    }
}

#[test]
fn pyca_cryptography_and_we_open_each_others_files() {
    let python = match python() {
        Ok(python) => python,
        Err(problem) => {
            let in_ci = std::env::var("CI").as_deref() == Ok("true");
            assert!(!in_ci, "pyca/cryptography is needed in CI: {problem}");
            println!("NOT CHECKED: pyca/cryptography could not be installed: {problem}");
            return;
        }
    };
    let folder = Folder::new();
    let lengths = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 100_000];
    for (index, length) in lengths.iter().enumerate() {
        folder.write(&format!("m{index}"), &model(*length));
        let key = if index == 0 { "--new-key" } else { "--key" };
        folder.ok(&format!("seal m{index} {key} weights.key"));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sealed.py");
    let run = Run::of(Command::new(python).arg(script).arg(folder.path("")).output().unwrap());
    assert_eq!(run.status, 0, "{}{}", run.stdout, run.stderr);
    assert_eq!(run.stdout.lines().count(), lengths.len(), "{}", run.stdout);
    for index in 0..lengths.len() {
        let identity = model_digest(&folder.read(&format!("m{index}")));
        folder.ok(&format!("verify m{index}.theirs --key weights.key --model {identity}"));
    }
}
