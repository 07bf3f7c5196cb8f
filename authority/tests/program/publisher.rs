//! Models that their publishers signed with `OpenSSF`'s model-signing.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::folder::{Folder, Run};
use crate::interop::python_with;

/// A folder with a release, and the vectors: a model, its signatures and the publishers' keys.
fn with_vectors() -> Folder {
    let folder = Folder::new();
    folder.released();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/model-signature");
    for name in ["weights.gguf", "file.json", "folder.json", "p256.pub.pem", "p384.pub.pem"] {
        std::fs::copy(vectors.join(name), folder.path(name)).unwrap();
    }
    folder
}

/// Drafts a release with this model and this signature.
fn draft(model: &str, signature: &str, out: &str) -> String {
    format!(
        "release draft --root root.json --from release.json --model {model} --model-signature {signature} --out {out}"
    )
}

#[test]
fn a_model_that_its_publisher_signed_is_drafted_with_its_own_identity() {
    let folder = with_vectors();
    let model = folder.json("identify weights.gguf")["model_sha256"].clone();
    for (signature, name, key) in
        [("file.json", ".", "p256.pub.pem"), ("folder.json", "weights.gguf", "p384.pub.pem")]
    {
        let out = format!("{signature}.draft.json");
        let drafted = folder.json(&draft("demo=weights.gguf", &format!("demo={signature},{key}"), &out));
        assert_eq!(drafted["model_signatures"][0]["name"], name);
        let models = drafted["release"]["models"].as_array().unwrap();
        assert!(models.iter().any(|each| each["id"] == "demo" && each["sha256"] == model), "{models:?}");
    }
    let said = folder.ok(&draft("demo=weights.gguf", "demo=file.json,p256.pub.pem", "said.draft.json"));
    assert!(said.contains("signed      weights.gguf as \".\" of \"weights.gguf\", by the key "), "{said}");
}

#[test]
fn what_the_publisher_did_not_sign_is_not_drafted() {
    let folder = with_vectors();
    folder.write("other.gguf", b"Other weights.\n");
    let mut keyless: Value = serde_json::from_slice(&folder.read("file.json")).unwrap();
    keyless["verificationMaterial"] = json!({ "certificate": { "rawBytes": "AAAA" } });
    folder.write("keyless.json", keyless.to_string().as_bytes());
    for (model, signature, code) in [
        ("other.gguf", "file.json,p256.pub.pem", "model-signature-other-file"),
        ("weights.gguf", "file.json,p384.pub.pem", "model-signature"),
        ("weights.gguf", "file.json,a.pem.pub", "model-signature-key"),
        ("weights.gguf", "weights.gguf,p256.pub.pem", "model-signature-form"),
        ("weights.gguf", "keyless.json,p256.pub.pem", "model-signature-certificate"),
    ] {
        let line = draft(&format!("demo={model}"), &format!("demo={signature}"), "refused.draft.json");
        assert_eq!(folder.refused(&line), code, "{line}");
        assert!(!folder.exists("refused.draft.json"));
    }
    // A signature is about a file. A digest alone, or another model's file, has none.
    for line in [
        draft(&format!("demo={}", "a".repeat(64)), "demo=file.json,p256.pub.pem", "refused.draft.json"),
        draft("demo=weights.gguf", "other=file.json,p256.pub.pem", "refused.draft.json"),
        draft("demo=weights.gguf", "demo=file.json", "refused.draft.json"),
    ] {
        assert_ne!(folder.run(&line).status, 0, "{line}");
        assert!(!folder.exists("refused.draft.json"));
    }
}

/// The outside check: `model-signing` (`PyPI`), the `OpenSSF`'s own program, signs with a key of OpenSSL.
#[test]
fn what_model_signing_signs_today_is_accepted() {
    let packages = ["model-signing==1.1.1", "pyOpenSSL>=25,<27"];
    let python = match python_with("model-signing", &packages) {
        Ok(python) => python,
        Err(problem) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "model-signing is needed in CI: {problem}");
            println!("NOT CHECKED: model-signing could not be installed: {problem}");
            return;
        }
    };
    let folder = with_vectors();
    let run = |program: &mut Command| {
        let run = Run::of(program.current_dir(folder.path("")).output().unwrap());
        assert_eq!(run.status, 0, "{program:?}: {}{}", run.stdout, run.stderr);
    };
    for (curve, key) in [("P-256", "new256"), ("P-384", "new384")] {
        let parameter = format!("ec_paramgen_curve:{curve}");
        let private = format!("{key}.pem");
        run(Command::new("openssl")
            .args(["genpkey", "-algorithm", "EC", "-pkeyopt"])
            .arg(parameter)
            .args(["-out", &private]));
        run(Command::new("openssl").args([
            "pkey",
            "-pubout",
            "-in",
            &private,
            "-out",
            &format!("{key}.pub"),
        ]));
        let signature = format!("{key}.sig");
        run(Command::new(&python)
            .args(["-m", "model_signing", "sign", "key", "weights.gguf", "--private_key", &private])
            .args(["--signature", &signature]));
        let line =
            draft("demo=weights.gguf", &format!("demo={signature},{key}.pub"), &format!("{key}.draft.json"));
        assert_eq!(folder.json(&line)["model_signatures"][0]["name"], ".");
    }
}
