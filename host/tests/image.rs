//! `cleanroom-host image` as an operator runs it, and what other programs say about the images that it
//! builds.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with inputs that are what they should be in every point that is checked.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        let mut kernel = vec![0; 0x300];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x20e..0x210].copy_from_slice(&0x80_u16.to_le_bytes());
        kernel[0x280..0x28c].copy_from_slice(b"6.12.1-test ");
        bench.write("bzImage", &kernel);
        let mut program = [0; 120];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (program[18], program[32], program[54], program[56], program[64]) = (62, 64, 56, 1, 1);
        bench.write("init", &[&program[..], b"init"].concat());
        bench.write("enclave", &[&program[..], b"enclave"].concat());
        bench.write("enclave.toml", b"x = 1\n");
        bench.write("root.json", b"{}");
        bench.write("kernel.json", br#"{"sha384": "00"}"#);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, contents: &[u8]) {
        fs::write(self.path(name), contents).unwrap();
    }

    fn host(&self, line: &str) -> Output {
        let program = env!("CARGO_BIN_EXE_cleanroom-host");
        Command::new(program).args(line.split(' ')).current_dir(self.folder.path()).output().unwrap()
    }

    fn build(&self, output: &str, rest: &str) -> Output {
        let line = format!(
            "image build --kernel bzImage --init init --enclave enclave --config enclave.toml --output {output}{rest}"
        );
        self.host(&line)
    }

    /// A self-signed certificate for a new P-384 key, by openssl; `false` where there is no openssl.
    fn identity(&self) -> bool {
        let line = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout key.pem -out certificate.pem -days 365 -subj /CN=test";
        let made = Command::new("openssl").args(line.split(' ')).current_dir(self.folder.path()).output();
        made.is_ok_and(|output| output.status.success())
    }
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> Value {
    assert_eq!(status(output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_summary_names_every_input_and_every_register() {
    let bench = Bench::new();
    let report =
        json(&bench.build("a.eif", " --add /app/root.json=root.json --record kernel=kernel.json --json"));
    let beside: Value = serde_json::from_slice(&fs::read(bench.path("a.eif.summary.json")).unwrap()).unwrap();
    assert_eq!(report, beside);
    assert_eq!(report["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(report["predicateType"], "https://slsa.dev/provenance/v1");
    let dependencies = report["predicate"]["buildDefinition"]["resolvedDependencies"].as_array().unwrap();
    let names: Vec<&str> = dependencies.iter().map(|input| input["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["kernel", "init", "/app/enclave", "/app/enclave.toml", "/app/root.json", "kernel"]);
    assert!(dependencies[..5].iter().all(|input| input["digest"]["sha384"].as_str().unwrap().len() == 96));

    let inspection = json(&bench.host("image inspect a.eif --json"));
    let registers = &report["predicate"]["runDetails"]["byproducts"][0]["annotations"];
    for (name, field) in [("PCR0", "pcr0"), ("PCR1", "pcr1"), ("PCR2", "pcr2")] {
        assert_eq!(registers[name], inspection["measurement"][field]);
    }
    assert_eq!(inspection["application"]["whole"]["files"], 3);
    assert!(String::from_utf8(bench.host("image inspect a.eif").stdout).unwrap().contains("app/root.json"));
}

#[test]
fn differences_have_an_exit_status_of_their_own() {
    let bench = Bench::new();
    assert_eq!(status(&bench.build("a.eif", "")), 0);
    assert_eq!(status(&bench.build("b.eif", "")), 0);
    assert_eq!(fs::read(bench.path("a.eif")).unwrap(), fs::read(bench.path("b.eif")).unwrap());
    assert_eq!(status(&bench.host("image diff a.eif b.eif")), 0);
    bench.write("enclave.toml", b"x = 2\n");
    assert_eq!(status(&bench.build("b.eif", "")), 0);
    let diff = bench.host("image diff a.eif b.eif");
    assert_eq!(status(&diff), 5);
    assert!(String::from_utf8(diff.stdout).unwrap().contains("ramdisk 1: app/enclave.toml (PCR 0 and 2)"));
    assert_eq!(json_of_different(&bench)["same"], false);
    bench.write("b.eif", b"no image");
    assert_eq!(status(&bench.host("image diff a.eif b.eif")), 1);
    assert_eq!(status(&bench.host("image inspect absent.eif")), 1);
}

/// docs/reproduce.md says which registers each input is measured into.
#[test]
fn one_byte_of_an_input_changes_the_registers_that_are_documented() {
    const ADDED: &str = " --add /app/root.json=root.json";
    let registers = |bench: &Bench| {
        let built = bench.build("a.eif", ADDED);
        assert_eq!(status(&built), 0, "{}", String::from_utf8_lossy(&built.stderr));
        let measurement = json(&bench.host("image inspect a.eif --json"))["measurement"].take();
        [0, 1, 2].map(|register| measurement[format!("pcr{register}")].as_str().unwrap().to_owned())
    };
    for (input, changed) in [
        ("bzImage", [true, true, false]),
        ("init", [true, true, false]),
        // The list of the application's files is in the boot ramdisk.
        ("enclave", [true, true, true]),
        ("enclave.toml", [true, true, true]),
        ("root.json", [true, true, true]),
    ] {
        let bench = Bench::new();
        let before = registers(&bench);
        let mut contents = fs::read(bench.path(input)).unwrap();
        *contents.last_mut().unwrap() ^= 1;
        bench.write(input, &contents);
        let after = registers(&bench);
        assert_eq!([0, 1, 2].map(|register| before[register] != after[register]), changed, "{input}");
    }
    let bench = Bench::new();
    let before = registers(&bench);
    assert_eq!(status(&bench.build("a.eif", &format!("{ADDED} --name other --image-version 9"))), 0);
    let measurement = json(&bench.host("image inspect a.eif --json"))["measurement"].take();
    assert_eq!(measurement["pcr0"], *before[0], "metadata is in no register");
}

fn json_of_different(bench: &Bench) -> Value {
    serde_json::from_slice(&bench.host("image diff a.eif b.eif --json").stdout).unwrap()
}

#[test]
fn an_image_that_was_to_be_signed_and_is_not_is_not_written() {
    let bench = Bench::new();
    if !bench.identity() {
        eprintln!("not tested: there is no openssl on this machine");
        return;
    }
    for rest in [
        " --sign-certificate certificate.pem",
        " --sign-certificate certificate.pem --sign-command true",
        " --sign-certificate certificate.pem --sign-key enclave.toml",
        " --sign-certificate absent.pem --sign-key key.pem",
    ] {
        assert_eq!(status(&bench.build("a.eif", rest)), 1, "{rest}");
        assert!(!bench.path("a.eif").exists(), "{rest}");
    }
    assert_eq!(status(&bench.build("a.eif", " --sign-key key.pem")), 2, "a key without a certificate");
    let report = json(&bench.build("a.eif", " --sign-certificate certificate.pem --sign-key key.pem --json"));
    assert_eq!(report["predicate"]["buildDefinition"]["externalParameters"]["signed"], true);

    // Beside an unsigned image of the same inputs, the signature is all that differs.
    assert_eq!(status(&bench.build("b.eif", "")), 0);
    let differences = json_of_different(&bench)["differences"].take();
    let places: Vec<&str> =
        differences.as_array().unwrap().iter().map(|place| place["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["signing certificate", "signature"]);
}

/// An independent reader and writer of images, kept outside of this project.
fn other_reader() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let named = std::env::var_os("CLEANROOM_EIF_PY").map(PathBuf::from);
    let path = named.unwrap_or_else(|| root.join("../shared/spikes/boot/eif.py"));
    path.exists().then_some(path)
}

#[test]
fn an_independent_reader_measures_the_same_and_its_writer_writes_the_same() {
    let Some(reader) = other_reader() else {
        eprintln!("not tested: no independent reader at ../shared/spikes/boot/eif.py or in CLEANROOM_EIF_PY");
        return;
    };
    let bench = Bench::new();
    let python = |arguments: &[&str]| {
        let output = Command::new("python3")
            .arg(&reader)
            .args(arguments)
            .current_dir(bench.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let mut signings = vec![""];
    if bench.identity() {
        signings.push(" --sign-certificate certificate.pem --sign-key key.pem");
    }
    for signing in signings {
        let report = json(&bench.build("a.eif", &format!("{signing} --json")));
        let theirs: Value = serde_json::from_slice(&python(&["measure", "a.eif"])).unwrap();
        let ours = &report["predicate"]["runDetails"]["byproducts"][0]["annotations"];
        for name in ["PCR0", "PCR1", "PCR2"] {
            assert_eq!(ours[name], theirs[name], "{name}{signing}");
        }
        if !signing.is_empty() {
            let inspection = json(&bench.host("image inspect a.eif --json"));
            assert_eq!(inspection["measurement"]["pcr8"], theirs["PCR8"]);
        }
    }
    json(&bench.build("a.eif", " --json"));
    fs::create_dir(bench.path("parts")).unwrap();
    python(&["unpack", "a.eif", "parts"]);
    let parts = ["parts/kernel", "parts/cmdline", "parts/metadata.json", "parts/ramdisk0", "parts/ramdisk1"];
    python(&[&["build", "b.eif"], &parts[..]].concat());
    assert_eq!(fs::read(bench.path("a.eif")).unwrap(), fs::read(bench.path("b.eif")).unwrap());
}

/// A token in software (`SoftHSM`), used through `OpenSC`'s `pkcs11-tool`, as a token in hardware would be.
#[test]
fn a_pkcs_11_token_signs() {
    let module = "/usr/lib/softhsm/libsofthsm2.so";
    let tools = ["pkcs11-tool", "softhsm2-util", "openssl"];
    let there = |tool: &&str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|folder| folder.join(tool).exists())
    };
    if !Path::new(module).exists() || !tools.iter().all(there) {
        eprintln!("not tested: this needs the packages softhsm2, opensc and openssl");
        return;
    }
    let bench = Bench::new();
    assert!(bench.identity());
    let folder = bench.folder.path().display();
    fs::create_dir(bench.path("tokens")).unwrap();
    bench.write("softhsm2.conf", format!("directories.tokendir = {folder}/tokens\n").as_bytes());
    let set_up = "export SOFTHSM2_CONF=$PWD/softhsm2.conf && openssl pkcs8 -topk8 -nocrypt -in key.pem -out key.p8 && \
        softhsm2-util --init-token --free --label t --so-pin 1234 --pin 1234 && \
        softhsm2-util --import key.p8 --token t --label k --id 01 --pin 1234";
    let made = Command::new("sh").args(["-c", set_up]).current_dir(bench.folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let sign = format!(
        "SOFTHSM2_CONF=$PWD/softhsm2.conf pkcs11-tool --module {module} --login --pin 1234 --sign --mechanism ECDSA --id 01 \
         --signature-format openssl --input-file /dev/stdin --output-file /dev/stdout 2>/dev/null"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_cleanroom-host"))
        .args("image build --kernel bzImage --init init --enclave enclave --config enclave.toml --output a.eif --json".split(' '))
        .args(["--sign-certificate", "certificate.pem", "--sign-command", &sign])
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    assert!(json(&output)["predicate"]["runDetails"]["byproducts"][0]["annotations"]["PCR8"].is_string());
}

#[test]
fn an_image_of_an_instance_is_built_behind_a_stub_with_the_same_bits_each_time() {
    let bench = Bench::new();
    let magic = b"#### LoaderInfo: systemd-stub 258.1 ####\0";
    let sections = [".text", ".reloc", ".data", ".sbat"].map(|name| (name, &b"stub"[..]));
    let sections: Vec<_> = sections.into_iter().chain([(".sdmagic", &magic[..])]).collect();
    bench.write("stub", &cleanroom_forge::boot_image::Executable::new(&sections).bytes());
    for output in ["one.efi", "two.efi"] {
        let built = bench.build(output, " --stub stub");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let page = String::from_utf8(built.stdout).unwrap();
        assert!(page.contains("PCR 4: ") && page.contains("PCR 12: 000000"), "{page}");
    }
    let image = fs::read(bench.path("one.efi")).unwrap();
    assert_eq!(image, fs::read(bench.path("two.efi")).unwrap());
    let measured = cleanroom_attestation::measured_boot::BootMeasurement::of(&image).unwrap();
    let summary: Value =
        serde_json::from_slice(&fs::read(bench.path("one.efi.summary.json")).unwrap()).unwrap();
    let registers = &summary["predicate"]["runDetails"]["byproducts"][0]["annotations"];
    assert_eq!(registers["PCR4"], measured.pcr4.to_string());
    let signed = bench.build("three.efi", " --stub stub --sign-certificate certificate.pem");
    assert_eq!(signed.status.code(), Some(2), "nothing would check the signature");
}
