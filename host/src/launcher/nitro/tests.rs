use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use cleanroom_attestation::measurement::{Architecture, SectionKind};
use tempfile::TempDir;

use super::*;
use crate::image::writer;

const ID: &str = "i-0123456789abcdef0-enc0190c0ffee000001";

const METADATA: &[u8] = br#"{"ImageName":"","ImageVersion":"","BuildMetadata":{"BuildTime":"","BuildTool":"","BuildToolVersion":"","OperatingSystem":"","KernelVersion":""},"DockerInfo":{}}"#;

/// A folder with an image, a model, and a program that answers as nitro-cli 1.4 does. It writes its arguments
/// to `calls` and answers with the files `run`, `describe` and `errors`, which a test can change. Before the
/// first start, and after an end, it describes no enclave. A file `hang-SUBCOMMAND` makes it hang.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        let sections: [(SectionKind, &[u8]); 5] = [
            (SectionKind::Kernel, b"kernel"),
            (SectionKind::CommandLine, b"line"),
            (SectionKind::Metadata, METADATA),
            (SectionKind::Ramdisk, b"boot"),
            (SectionKind::Ramdisk, b"application"),
        ];
        fs::write(scene.path("image.eif"), writer::write(Architecture::X86_64, &sections).unwrap()).unwrap();
        fs::write(scene.path("model"), "a model").unwrap();
        scene.answer("run", &started(16));
        scene.answer("describe", &scene.described("NONE", |pcr| pcr));
        let folder = scene.folder.path().display();
        let program = format!(
            "#!/bin/sh\ncd '{folder}'\necho \"$*\" >> calls\n[ ! -f hang-$1 ] || exec sleep 1000\n[ ! -f errors ] || {{ cat errors >&2; exit 1; }}\ncase $1 in\n\
             run-enclave) touch running; echo 'Start allocating memory...' >&2; cat run ;;\n\
             describe-enclaves) if [ -f running ]; then cat describe; else echo '[]'; fi ;;\n\
             terminate-enclave) echo '[]' > describe; echo '{{\"EnclaveID\": \"x\", \"Terminated\": true}}' ;;\nesac\n"
        );
        fs::write(scene.path("nitro-cli"), program).unwrap();
        fs::set_permissions(scene.path("nitro-cli"), fs::Permissions::from_mode(0o755)).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn answer(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn described(&self, flags: &str, change: impl Fn(String) -> String) -> String {
        let Measurement { pcr0, pcr1, pcr2, .. } = Image::read(&self.path("image.eif")).unwrap().measurement;
        let [pcr0, pcr1, pcr2] = [pcr0, pcr1, pcr2].map(|pcr| change(pcr.to_string()));
        format!(
            r#"[{{"EnclaveName": "image", "EnclaveID": "{ID}", "ProcessID": 4242, "EnclaveCID": 16, "NumberOfCPUs": 2,
                "CPUIDs": [1, 3], "MemoryMiB": 2048, "State": "RUNNING", "Flags": "{flags}", "Measurements":
                {{"HashAlgorithm": "Sha384 {{ ... }}", "PCR0": "{pcr0}", "PCR1": "{pcr1}", "PCR2": "{pcr2}"}}}}]"#
        )
    }

    fn settings(&self) -> Settings {
        Settings {
            image: self.path("image.eif"),
            image_sha384: None,
            model: self.path("model"),
            cid: 16,
            memory_mib: 2048,
            processors: 2,
            nitro_cli: self.path("nitro-cli"),
            state: self.path("state"),
        }
    }

    fn nitro(&self) -> Nitro {
        Nitro::prepare(&self.settings()).unwrap()
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }

    /// Waits until the program has been called this way: terminating is not waited for by anybody else.
    async fn called(&self, call: &str) {
        while !self.calls().lines().any(|line| line == call) {
            tokio::task::yield_now().await;
        }
    }

    async fn refused(&self) -> LaunchError {
        match self.nitro().launch().await {
            Err(error) => error,
            Ok(_) => panic!("expected no enclave"),
        }
    }
}

fn started(cid: u32) -> String {
    format!(
        r#"{{"EnclaveName": "image", "EnclaveID": "{ID}", "ProcessID": 4242, "EnclaveCID": {cid}, "NumberOfCPUs": 2,
            "CPUIDs": [1, 3], "MemoryMiB": 2048}}"#
    )
}

fn terminated() -> String {
    format!("terminate-enclave --enclave-id {ID}")
}

#[tokio::test]
async fn an_enclave_is_started_with_its_context_id_and_without_a_console() {
    let scene = Scene::new();
    let mut nitro = scene.nitro();
    let mut enclave = nitro.launch().await.unwrap();
    let image = scene.path("image.eif");
    let expected = format!(
        "describe-enclaves\nrun-enclave --eif-path {} --enclave-name {} --enclave-cid 16 --memory 2048 --cpu-count 2\n\
         describe-enclaves\n",
        image.display(),
        nitro.name
    );
    assert_eq!(scene.calls(), expected);
    assert_eq!(nitro.partner_port(), EnclaveAddress::Vsock { cid: 16, port: 5000 });
    assert!(
        fs::read_to_string(scene.path("state/measurements.json")).unwrap().contains(&nitro.description.pcr0)
    );

    enclave.kill();
    scene.called(&terminated()).await;
    assert_eq!(enclave.ended().await, Exit { how: How::Unknown, last_words: None });
}

#[tokio::test]
async fn an_enclave_of_an_earlier_life_is_ended_and_one_of_somebody_else_is_named() {
    let scene = Scene::new();
    let mut nitro = scene.nitro();
    scene.answer("running", "");
    scene.answer(
        "describe",
        &scene.described("NONE", |pcr| pcr).replace("\"image\"", &format!("\"{}\"", nitro.name)),
    );
    // The scene describes nothing once an enclave was terminated, so the new one is missed in the end.
    assert!(matches!(nitro.launch().await.err(), Some(LaunchError::Nitro(NitroError::Gone))));
    let calls = scene.calls();
    assert!(calls.starts_with(&format!("describe-enclaves\n{}\nrun-enclave", terminated())), "{calls}");

    // A nitro-cli that tells no names: the id is in the state folder since the enclave was started.
    let scene = Scene::new();
    let without_name = scene.described("NONE", |pcr| pcr).replace(r#""EnclaveName": "image", "#, "");
    scene.answer("describe", &without_name);
    std::mem::forget(scene.nitro().launch().await.unwrap());
    assert!(matches!(scene.nitro().launch().await.err(), Some(LaunchError::Nitro(NitroError::Gone))));
    assert!(scene.calls().contains(&terminated()), "{}", scene.calls());

    let scene = Scene::new();
    scene.answer("running", "");
    let error = scene.refused().await;
    assert!(matches!(error, LaunchError::Nitro(NitroError::ContextIdTaken { cid: 16, .. })), "{error}");
    assert!(error.to_string().contains(&format!("terminate-enclave --enclave-id {ID}")), "{error}");
    assert_eq!(scene.calls(), "describe-enclaves\n", "somebody else's enclave is left alone");
}

#[tokio::test]
async fn a_start_that_hangs_can_be_given_up_and_leaves_nothing_behind() {
    let scene = Scene::new();
    scene.answer("hang-run-enclave", "");
    let mut nitro = scene.nitro();
    let name = nitro.name.clone();
    let hangs = async {
        let _ = nitro.launch().await;
        panic!("it does not come to its end");
    };
    let called = async {
        while !scene.calls().contains("run-enclave") {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = hangs => {}
        () = called => {}
    }
    scene.called(&format!("terminate-enclave --enclave-name {name}")).await;
}

#[tokio::test]
async fn an_enclave_that_is_let_go_is_terminated() {
    let scene = Scene::new();
    drop(scene.nitro().launch().await.unwrap());
    scene.called(&terminated()).await;
}

#[tokio::test]
async fn an_enclave_that_goes_by_itself_has_ended() {
    let scene = Scene::new();
    let mut enclave = scene.nitro().launch().await.unwrap();
    scene.answer("describe", "[]");
    assert_eq!(enclave.ended().await.how, How::Unknown);
}

#[tokio::test]
async fn only_the_image_that_was_measured_is_started() {
    let scene = Scene::new();
    let other = Settings { image_sha384: Some(Sha384Digest::of(&[b"other"])), ..scene.settings() };
    assert!(matches!(Nitro::prepare(&other), Err(LaunchError::ImageDigest { .. })));

    let mut nitro = scene.nitro();
    let sections: [(SectionKind, &[u8]); 4] = [
        (SectionKind::Kernel, b"another kernel"),
        (SectionKind::CommandLine, b"line"),
        (SectionKind::Metadata, METADATA),
        (SectionKind::Ramdisk, b"boot"),
    ];
    fs::write(scene.path("image.eif"), writer::write(Architecture::X86_64, &sections).unwrap()).unwrap();
    assert!(matches!(nitro.launch().await, Err(LaunchError::ImageDigest { .. })));
    assert!(!scene.calls().contains("run-enclave"), "nothing was started");
}

#[tokio::test]
async fn an_enclave_that_is_not_the_image_is_terminated() {
    for (flags, zero) in [("DEBUG_MODE", false), ("NONE", true)] {
        let scene = Scene::new();
        let change = |pcr: String| if zero { "0".repeat(96) } else { pcr };
        scene.answer("describe", &scene.described(flags, change));
        let error = scene.refused().await;
        assert!(
            matches!(error, LaunchError::Nitro(NitroError::Flags { .. } | NitroError::Register { .. })),
            "{error}"
        );
        scene.called(&terminated()).await;
    }
    let scene = Scene::new();
    scene.answer("run", &started(17));
    assert!(matches!(scene.refused().await, LaunchError::Nitro(NitroError::ContextId { actual: 17, .. })));
    scene.called(&terminated()).await;

    let scene = Scene::new();
    scene.answer("describe", "[]");
    assert!(matches!(scene.refused().await, LaunchError::Nitro(NitroError::Gone)));
}

#[tokio::test]
async fn known_errors_are_explained() {
    let scene = Scene::new();
    scene.answer(
        "errors",
        "[ E27 ] Insufficient memory available. User provided `memory` is 4096 MB, which is more than the available \
         hugepage memory.\n\nFor more details, please visit https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html#E27\n",
    );
    let text = scene.refused().await.to_string();
    assert!(text.contains("Insufficient memory") && text.contains("allocator.yaml"), "{text}");
    assert!(!text.contains('\n'));

    scene.answer("errors", "[ E99 ] something\u{1b}[31m new");
    let text = scene.refused().await.to_string();
    assert!(text.contains("something") && !text.contains("what to do") && !text.contains('\u{1b}'), "{text}");

    let missing =
        Settings { nitro_cli: scene.path("absent"), state: scene.path("other"), ..scene.settings() };
    let error = Nitro::prepare(&missing).unwrap().launch().await.err().unwrap();
    assert!(error.to_string().contains("aws-nitro-enclaves-cli"), "{error}");
}

#[tokio::test]
async fn answers_that_are_not_documented_are_errors() {
    for answer in ["", "null", "{}", "Started enclave"] {
        let scene = Scene::new();
        scene.answer("run", answer);
        assert!(matches!(scene.refused().await, LaunchError::Nitro(NitroError::Answer { .. })), "{answer}");
    }
}
