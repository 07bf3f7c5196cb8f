//! Searching for a model's weights: where they are, where they are not, and where nobody can look.

use std::process::{Command, Stdio};

use crate::folder::Folder;

/// Bytes that look like weights.
fn weights(length: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn weights_are_found_in_files_and_below_folders_and_sealed_ones_are_not() {
    let folder = Folder::new();
    let model = weights(100_000);
    folder.write("m", &model);
    std::fs::create_dir_all(folder.path("host/deep/er")).unwrap();
    folder.ok("seal m --new-key weights.key --out host/deep/m.sealed");
    let clean = folder.json("search m host");
    assert_eq!((&clean["pieces"], &clean["places"][0]["found"]), (&7.into(), &0.into()));
    assert!(clean["places"][0]["bytes"].as_u64().unwrap() > 100_000);

    // One chunk, at an odd offset, in a file among others.
    folder.write("host/deep/er/dump", &[&[1, 2, 3], &model[16 * 1024..32 * 1024]].concat());
    assert_eq!(folder.refused("search m host"), "weights-found");
    let found = folder.run("search m host host/deep/m.sealed m");
    assert_eq!(found.status, 1);
    for line in [
        "host: 1 of 7 pieces",
        "in host/deep/er/dump",
        "host/deep/m.sealed: 0 of 7 pieces",
        "m: 7 of 7 pieces",
    ] {
        assert!(found.stderr.contains(line), "{line}: {}", found.stderr);
    }
    // A model of several files, of which one is there.
    std::fs::create_dir(folder.path("parts")).unwrap();
    folder.write("parts/1", &model[..50_000]);
    folder.write("parts/2", &model[50_000..]);
    folder.write("half", &model[50_000..]);
    assert_eq!(folder.refused("search parts half"), "weights-found");
}

#[test]
fn what_cannot_be_searched_is_no_success() {
    let folder = Folder::new();
    folder.write("m", &weights(20_000));
    folder.write("text", &b"Not a weight far and wide, and so on. ".repeat(1000));
    for (line, status) in [
        ("search m", 2),
        ("search text m", 2),
        ("search m absent", 3),
        ("search absent m", 3),
        // Beyond the greatest process id.
        ("search m --process 4194305", 3),
    ] {
        assert_eq!(folder.run(line).status, status, "{line}");
    }
}

#[test]
fn weights_are_found_in_the_memory_of_a_process() {
    let folder = Folder::new();
    folder.write("m", &weights(200_000));
    // It keeps what it reads until there is no more, and its end does not come here.
    let mut reader = Command::new("tail")
        .args(["--bytes", "1M"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let line = format!("search m --process {}", reader.id());
    assert_eq!(folder.run(&line).status, 0);
    let mut input = reader.stdin.take().unwrap();
    // Whatever a pipe holds, this program has read the first half when the last byte is written.
    std::io::Write::write_all(&mut input, &folder.read("m")).unwrap();
    assert_eq!(folder.refused(&line), "weights-found");
    drop(input);
    assert!(reader.wait().unwrap().success());
}
