//! The build summary: an in-toto Statement (v1) with SLSA provenance (v1), which says what an image was made
//! of.
//!
//! It has no times and no names of machines or people: the same build gives the same summary, except that a
//! signed image has another digest each time.

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use serde_json::{Map, Value, json};

use super::build::{Built, BuiltUnified, Input, Inputs};
use super::{COMMAND_LINE, NITROTPM_COMMAND_LINE};

/// What kind of build the predicate's parameters are to be read as.
pub const BUILD_TYPE: &str = "urn:cleanroom:image-build:1";

/// The summary of a build. `image_name` is the image file's name, without its folder. `materials` are further
/// things that shaped the inputs (a compiler's version, the kernel's source), each with whatever is known of
/// it.
#[must_use]
pub fn summary(image_name: &str, inputs: &Inputs, built: &Built, materials: &Map<String, Value>) -> Value {
    let measurement = &built.measurement;
    let mut registers = json!({
        "PCR0": measurement.pcr0,
        "PCR1": measurement.pcr1,
        "PCR2": measurement.pcr2,
    });
    if let (Some(pcr8), Value::Object(registers)) = (measurement.pcr8, &mut registers) {
        registers.insert("PCR8".to_owned(), json!(pcr8));
    }
    let facts = Facts {
        image: &built.image,
        kernel_version: &built.kernel_version,
        manifest: built.manifest.to_string(),
        command_line: COMMAND_LINE,
        registers,
        signed: measurement.pcr8.is_some(),
    };
    statement(image_name, inputs, &facts, &[], materials)
}

/// The same of a unified kernel image, behind `stub`.
#[must_use]
pub fn summary_unified(
    image_name: &str,
    inputs: &Inputs,
    stub: &Input,
    built: &BuiltUnified,
    materials: &Map<String, Value>,
) -> Value {
    let measurement = &built.measurement;
    let facts = Facts {
        image: &built.image,
        kernel_version: &built.kernel_version,
        manifest: built.manifest.to_string(),
        command_line: NITROTPM_COMMAND_LINE,
        registers: json!({
            "PCR4": measurement.pcr4,
            "PCR7": measurement.pcr7,
            "PCR12": measurement.pcr12,
        }),
        signed: false,
    };
    let stub = dependency("stub", stub, &json!({ "version": measurement.stub }));
    statement(image_name, inputs, &facts, &[stub], materials)
}

/// What came of a build.
struct Facts<'a> {
    image: &'a [u8],
    kernel_version: &'a str,
    manifest: String,
    command_line: &'a str,
    registers: Value,
    signed: bool,
}

fn statement(
    image_name: &str,
    inputs: &Inputs,
    facts: &Facts<'_>,
    further: &[Value],
    materials: &Map<String, Value>,
) -> Value {
    let Facts { image, kernel_version, manifest, command_line, registers, signed } = facts;
    let mut dependencies = vec![
        dependency("kernel", &inputs.kernel, &json!({ "version": kernel_version })),
        dependency("init", &inputs.init, &Value::Null),
    ];
    dependencies.extend_from_slice(further);
    for file in &inputs.application {
        dependencies.push(dependency(file.path.as_str(), &file.input, &Value::Null));
    }
    dependencies.extend(materials.iter().map(|(name, known)| json!({ "name": name, "annotations": known })));
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": image_name, "digest": digests(image) }],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "name": inputs.name,
                    "version": inputs.version,
                    "time": inputs.time,
                    "signed": signed,
                },
                "internalParameters": { "commandLine": command_line, "manifest": manifest },
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
