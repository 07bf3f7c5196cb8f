use super::super::testing::{NOW, file, input, inputs, program, stub};
use super::*;
use crate::image::inspect::{Application, Ramdisk, inspect};

fn built(inputs: &Inputs) -> Built {
    build(inputs, None, NOW).unwrap()
}

#[test]
fn the_same_inputs_give_the_same_bits() {
    let mut other_order = inputs();
    other_order.application.reverse();
    assert_eq!(built(&inputs()).image, built(&other_order).image);
}

/// Which of PCR 0, 1 and 2 a change of the inputs changes.
fn changed(change: impl FnOnce(&mut Inputs)) -> [bool; 3] {
    let mut other = inputs();
    change(&mut other);
    let [before, after] = [built(&inputs()), built(&other)].map(|built| built.measurement);
    [before.pcr0 != after.pcr0, before.pcr1 != after.pcr1, before.pcr2 != after.pcr2]
}

#[test]
fn one_byte_changes_the_pcrs_that_the_documentation_says() {
    let last = |input: &mut Input| *input.contents.last_mut().unwrap() ^= 1;
    assert_eq!(changed(|inputs| last(&mut inputs.kernel)), [true, true, false]);
    assert_eq!(changed(|inputs| last(&mut inputs.init)), [true, true, false]);
    // A file of the application is in the second ramdisk, and its digest is in the first.
    for index in 0..3 {
        assert_eq!(changed(|inputs| last(&mut inputs.application[index].input)), [true, true, true]);
    }
    assert_eq!(changed(|inputs| inputs.application[0].executable = true), [true, true, true]);
    assert_eq!(changed(|inputs| inputs.application.push(file("/app/new", ""))), [true, true, true]);
    assert_eq!(changed(|inputs| inputs.name.push('x')), [false; 3]);
    assert_eq!(changed(|inputs| inputs.version.push('x')), [false; 3]);
    assert_eq!(changed(|inputs| inputs.time = NOW), [false; 3]);
    assert_eq!(changed(|inputs| inputs.init.name.push('x')), [false; 3]);
}

#[test]
fn the_ramdisks_hold_what_the_kernel_needs() {
    let built = built(&inputs());
    let inspection = inspect(&built.image).unwrap();
    assert!(matches!(inspection.application, Application::Whole { files: 3, .. }), "{inspection:?}");
    let listing = |index: usize| {
        let Ramdisk::Entries(entries) = &inspection.ramdisks[index] else { panic!() };
        entries
            .iter()
            .map(|entry| format!("{} {} {}", entry.kind, entry.permissions, entry.path))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        listing(0),
        ["folder 0755 dev", "device 5:1 0600 dev/console", "file 0755 init", "file 0444 manifest"]
    );
    assert_eq!(
        listing(1),
        ["folder 0755 app", "file 0755 app/enclave", "file 0644 app/enclave.toml", "file 0644 app/root.json"]
    );
    assert_eq!(inspection.measurement.command_line, COMMAND_LINE);
    assert_eq!(built.kernel_version, "6.12.1-test");
    // The kernel unpacks archives that follow each other only at multiples of four.
    assert!(built.measurement.sections.iter().skip(3).all(|section| section.length % 4 == 0));
}

#[test]
fn folders_come_before_what_is_in_them() {
    let mut inputs = inputs();
    inputs.application.push(file("/app/a/b/c", "x"));
    inputs.application.push(file("/app/a-b", "x"));
    let inspection = inspect(&built(&inputs).image).unwrap();
    assert!(matches!(inspection.application, Application::Whole { files: 5, .. }));
    let Ramdisk::Entries(entries) = &inspection.ramdisks[1] else { panic!() };
    let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths[..3], ["app", "app/a", "app/a/b"]);
}

#[test]
fn the_command_line_is_one_line_of_words() {
    assert!(COMMAND_LINE.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
    for word in ["rootfstype=ramfs", "panic=-1", "random.trust_bootloader=off"] {
        assert!(COMMAND_LINE.split(' ').any(|other| other == word), "{word}");
    }
}

#[test]
fn inputs_that_would_not_boot_are_refused() {
    let refused = |change: &dyn Fn(&mut Inputs)| {
        let mut other = inputs();
        change(&mut other);
        build(&other, None, NOW).unwrap_err().to_string()
    };
    for kernel in [&b""[..], b"\x7fELF", &[0; 0x300]] {
        assert!(refused(&|inputs| inputs.kernel = input(kernel)).contains("bzImage"));
    }
    let cut = |length: usize| move |inputs: &mut Inputs| inputs.kernel.contents.truncate(length);
    for length in [0x206, 0x20f, 0x280, 0x284] {
        assert!(refused(&cut(length)).contains("bzImage"), "{length}");
    }
    let dynamic = program(3, b"");
    for text in [
        refused(&|inputs| inputs.init = input(dynamic.clone())),
        refused(&|inputs| inputs.application[2].input = input(dynamic.clone())),
    ] {
        assert!(text.contains("crt-static"), "{text}");
    }
    assert!(refused(&|inputs| inputs.init = input("#!/bin/sh\n")).contains("ELF"));
    for length in 0..120 {
        let error = refused(&|inputs| inputs.init.contents.truncate(length));
        assert!(error.contains("ELF"), "{length}: {error}");
    }
    assert!(refused(&|inputs| drop(inputs.application.remove(1))).contains("/app/enclave.toml"));
    assert!(refused(&|inputs| drop(inputs.application.remove(2))).contains("/app/enclave"));
    assert!(
        refused(&|inputs| inputs.application.push(file("/app/root.json", ""))).contains("/app/root.json")
    );
}

#[test]
fn an_image_of_an_instance_has_the_same_ramdisks_and_names_its_platform() {
    // A stub of this version starts the kernel itself, so the kernel need not be an executable here.
    let (inputs, stub) = (inputs(), stub("258.1"));
    let built = build_unified(&inputs, &stub).unwrap();
    assert_eq!(built.measurement.command_line.as_deref(), Some(NITROTPM_COMMAND_LINE));
    let section = |name: &str| {
        let section = built.measurement.sections.iter().find(|section| section.name == name).unwrap();
        let start = usize::try_from(section.offset).unwrap();
        built.image[start..start + usize::try_from(section.length).unwrap()].to_vec()
    };
    assert_eq!(section(".linux"), inputs.kernel.contents);
    let boot = boot_ramdisk(&inputs.init.contents, &built.manifest, Some(NITROTPM)).unwrap();
    let application = application_ramdisk(&inputs.application).unwrap();
    assert_eq!(section(".initrd"), [boot, application].concat());
    // Every input is in register 4, and nothing else is.
    fn last(input: &mut Input) {
        *input.contents.last_mut().unwrap() ^= 1;
    }
    let register = |change: fn(&mut Inputs)| {
        let mut other = super::super::testing::inputs();
        change(&mut other);
        build_unified(&other, &stub).unwrap().measurement.pcr4
    };
    assert_eq!(register(|inputs| inputs.application.reverse()), built.measurement.pcr4);
    assert_eq!(register(|inputs| inputs.name.push('x')), built.measurement.pcr4);
    let changes: [fn(&mut Inputs); 3] = [
        |inputs| last(&mut inputs.kernel),
        |inputs| last(&mut inputs.init),
        |inputs| last(&mut inputs.application[1].input),
    ];
    for change in changes {
        assert_ne!(register(change), built.measurement.pcr4);
    }
}

#[test]
fn an_image_of_an_instance_needs_the_same_inputs_and_a_stub() {
    let mut no_kernel = inputs();
    no_kernel.kernel = input("kernel");
    assert!(matches!(build_unified(&no_kernel, &stub("258.1")), Err(BuildError::Kernel)));
    assert!(matches!(build_unified(&inputs(), b"stub"), Err(BuildError::Stub(_))));
    // An older stub has the firmware start the kernel, so that has to be an executable.
    assert!(matches!(build_unified(&inputs(), &stub("252.39")), Err(BuildError::UnifiedImage { .. })));
}

#[test]
fn the_command_line_of_an_instance_says_where_its_address_comes_from_and_nothing_that_is_said_elsewhere() {
    let words: Vec<_> = NITROTPM_COMMAND_LINE.split(' ').collect();
    assert!(NITROTPM_COMMAND_LINE.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
    for word in ["panic=-1", "rootfstype=ramfs", "random.trust_bootloader=off", "ip=dhcp"] {
        assert!(words.contains(&word), "{word}");
    }
}
