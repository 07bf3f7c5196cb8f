//! The build summary: an in-toto Statement (v1) with SLSA provenance (v1), which says what an image was made
//! of.
//!
//! It has no times and no names of machines or people: the same build gives the same summary, except that a
//! signed image has another digest each time.

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use serde_json::{Map, Value, json};

use super::COMMAND_LINE;
use super::build::{Built, Input, Inputs};

/// What kind of build the predicate's parameters are to be read as.
pub const BUILD_TYPE: &str = "urn:cleanroom:image-build:1";

/// The summary of a build. `image_name` is the image file's name, without its folder. `materials` are further
/// things that shaped the inputs (a compiler's version, the kernel's source), each with whatever is known of
/// it.
#[must_use]
pub fn summary(image_name: &str, inputs: &Inputs, built: &Built, materials: &Map<String, Value>) -> Value {
    let measurement = &built.measurement;
    let mut dependencies = vec![
        dependency("kernel", &inputs.kernel, &json!({ "version": built.kernel_version })),
        dependency("init", &inputs.init, &Value::Null),
    ];
    for file in &inputs.application {
        dependencies.push(dependency(file.path.as_str(), &file.input, &Value::Null));
    }
    dependencies.extend(materials.iter().map(|(name, known)| json!({ "name": name, "annotations": known })));
    let mut registers = json!({
        "PCR0": measurement.pcr0,
        "PCR1": measurement.pcr1,
        "PCR2": measurement.pcr2,
    });
    if let (Some(pcr8), Value::Object(registers)) = (measurement.pcr8, &mut registers) {
        registers.insert("PCR8".to_owned(), json!(pcr8));
    }
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": image_name, "digest": digests(&built.image) }],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "name": inputs.name,
                    "version": inputs.version,
                    "time": inputs.time,
                    "signed": measurement.pcr8.is_some(),
                },
                "internalParameters": { "commandLine": COMMAND_LINE, "manifest": built.manifest.to_string() },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {
                    "id": concat!("urn:cleanroom:", env!("CARGO_PKG_NAME")),
                    "version": { env!("CARGO_PKG_NAME"): env!("CARGO_PKG_VERSION") },
                },
                "byproducts": [{ "name": "measurements", "annotations": registers }],
            },
        },
    })
}

fn dependency(name: &str, input: &Input, known: &Value) -> Value {
    let mut dependency = json!({ "name": name, "digest": digests(&input.contents) });
    if let Value::Object(dependency) = &mut dependency {
        let mut annotations = json!({ "file": input.name, "size": input.contents.len() });
        if let (Value::Object(annotations), Value::Object(known)) = (&mut annotations, known) {
            annotations.extend(known.clone());
        }
        dependency.insert("annotations".to_owned(), annotations);
    }
    dependency
}

fn digests(contents: &[u8]) -> Value {
    json!({ "sha256": Sha256Digest::of(&[contents]), "sha384": Sha384Digest::of(&[contents]) })
}
