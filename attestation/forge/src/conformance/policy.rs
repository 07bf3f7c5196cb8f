//! V-5: policies that are refused. Nothing is judged under them, so these cases have no document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::case::Answer::{Accepted, PolicyRefused};
use super::case::{List, anchor, debug_image, image, image_of, tpm_image};
use crate::{Forge, pcr, pem};

pub(super) fn list(list: &mut List) {
    forms(list);
    missing(list);
    names(list);
    anchors(list);
    digests(list);
    images(list);
    tpm_images(list);
    ages(list);
    accepted(list);
}

/// The built-in root.
const AWS: &str = "[[trust_anchor]]\nname = \"aws\"\n";

/// A whole policy, and `more`.
fn whole(more: &str) -> String {
    format!("version = 1\n{AWS}{}{more}", image())
}

/// One refused policy.
fn refused(list: &mut List, id: &str, rule: &str, about: &str, policy: String) {
    list.add(format!("policy/{id}"), rule, about, PolicyRefused, |case| {
        case.policy = policy;
        case.rewrite = Some(Box::new(Vec::clear));
    });
}

/// V-5.1: not a policy of version 1.
fn forms(list: &mut List) {
    let image = image();
    refused(list, "empty", "V-5.1", "an empty file", String::new());
    refused(list, "not-toml", "V-5.1", "not TOML", "]".to_owned());
    refused(list, "without-version", "V-5.1", "no version", format!("{AWS}{image}"));
    refused(list, "version-2", "V-5.1", "version 2", format!("version = 2\n{AWS}{image}"));
    refused(list, "unknown-table", "V-5.1", "a table that does not exist", whole("[other]\n"));
    refused(
        list,
        "unknown-key",
        "V-5.1",
        "a key that does not exist",
        whole("[freshness]\nmaxage = \"5m\"\n"),
    );
    refused(
        list,
        "pcr-hexadecimal",
        "V-5.1",
        "a register that is too short",
        whole("").replace(&hex::encode(pcr(0)), "aa"),
    );
}

/// V-5.2: a question without an answer.
fn missing(list: &mut List) {
    let image = image();
    refused(list, "no-anchor", "V-5.2", "no trust anchor", format!("version = 1\n{image}"));
    refused(
        list,
        "empty-anchors",
        "V-5.2",
        "an empty set of trust anchors",
        format!("version = 1\ntrust_anchor = []\n{image}"),
    );
    refused(list, "no-image", "V-5.2", "no image", format!("version = 1\n{AWS}"));
    refused(
        list,
        "empty-images",
        "V-5.2",
        "an empty set of images",
        format!("version = 1\nimage = []\n{AWS}"),
    );
    refused(
        list,
        "empty-models",
        "V-5.2",
        "an empty set of models",
        format!("version = 1\nmodel = []\n{AWS}{image}"),
    );
    refused(list, "empty-deployment", "V-5.2", "a deployment that asks nothing", whole("[deployment]\n"));
    refused(
        list,
        "empty-pcr3",
        "V-5.2",
        "an empty set of values for PCR 3",
        whole("[deployment]\npcr3 = []\n"),
    );
    refused(list, "empty-freshness", "V-5.2", "a freshness that asks nothing", whole("[freshness]\n"));
}

/// V-5.3 and V-5.4: names, and things that are there twice.
fn names(list: &mut List) {
    let image = image();
    let three = hex::encode(pcr(3));
    refused(
        list,
        "name-empty",
        "V-5.3",
        "an empty name",
        format!("version = 1\n{AWS}{}", image_of("", [0, 1, 2])),
    );
    refused(
        list,
        "name-control",
        "V-5.3",
        "a name with a control character",
        format!("version = 1\n{AWS}{}", image_of("\\u001b[2J", [0, 1, 2])),
    );
    refused(list, "image-twice", "V-5.4", "an image twice", whole(&image));
    refused(
        list,
        "anchor-twice",
        "V-5.4",
        "one root under two names",
        format!("version = 1\n{}{}{image}", anchor("a", &"1".repeat(64)), anchor("b", &"1".repeat(64))),
    );
    refused(
        list,
        "pcr3-twice",
        "V-5.4",
        "a value of PCR 3 twice",
        whole(&format!("[deployment]\npcr3 = [\"{three}\", \"{three}\"]\n")),
    );
}

/// V-5.5: roots.
fn anchors(list: &mut List) {
    let image = image();
    let pinned = format!("version = 1\n{AWS}sha256 = \"{}\"\n{image}", "1".repeat(64));
    refused(list, "built-in-pinned", "V-5.5", "a built-in root with another pin", pinned);
    let production = anchor("forge", &"1".repeat(64)).replace("development", "production");
    refused(
        list,
        "own-production",
        "V-5.5",
        "a root of one's own that calls itself production",
        format!("version = 1\n{production}{image}"),
    );
    refused(
        list,
        "anchor-without-tier",
        "V-5.5",
        "a root of one's own without a tier",
        format!("version = 1\n[[trust_anchor]]\nname = \"forge\"\nsha256 = \"{}\"\n{image}", "1".repeat(64)),
    );
    refused(
        list,
        "anchor-without-pin",
        "V-5.5",
        "a root of one's own without a pin",
        format!("version = 1\n[[trust_anchor]]\nname = \"forge\"\ntier = \"development\"\n{image}"),
    );
    let two_roots = anchor("forge", &"1".repeat(64)) + &certificate_of(&Forge::new().certificates()[0]);
    refused(
        list,
        "anchor-of-two-roots",
        "V-5.5",
        "a root of one's own whose pin is not that of its certificate",
        format!("version = 1\n{two_roots}{image}"),
    );
    let anchor_with = |certificate: &str| {
        let anchor = "[[trust_anchor]]\nname = \"forge\"\ntier = \"development\"\n";
        format!("version = 1\n{anchor}certificate = \"{certificate}\"\n{image}")
    };
    refused(
        list,
        "anchor-not-pem",
        "V-5.5",
        "a root of one's own whose certificate is not PEM",
        anchor_with("MIIB"),
    );
}

/// V-5.10: digests that are not spelled as one.
fn digests(list: &mut List) {
    refused(
        list,
        "digest-of-another-length",
        "V-5.10",
        "64 hexadecimal digits, which are also base64 of 48 bytes, in the place of a PCR",
        whole("").replace(&hex::encode(pcr(0)), &"a".repeat(64)),
    );
    refused(
        list,
        "digest-with-a-digit-missing",
        "V-5.10",
        "colons between bytes of which one has one digit",
        whole("").replace(&hex::encode(pcr(0)), &colons(&pcr(0)).replacen("01", "1", 1)),
    );
}

/// V-5.6 and V-5.7: images in debug mode, and values that nothing has.
fn images(list: &mut List) {
    let image = image();
    let zero = hex::encode([0; 48]);
    refused(
        list,
        "image-without-pcr2",
        "V-5.6",
        "an image without PCR 2",
        format!(
            "version = 1\n{AWS}{}",
            image
                .lines()
                .filter(|line| !line.starts_with("pcr2"))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        ),
    );
    refused(
        list,
        "debug-with-pcrs",
        "V-5.6",
        "an image in debug mode that names registers",
        format!("version = 1\n{AWS}{image}debug = true\n"),
    );
    refused(
        list,
        "pcr0-zero",
        "V-5.7",
        "an image whose PCR 0 is zero",
        whole("").replace(&hex::encode(pcr(0)), &zero),
    );
    refused(
        list,
        "pcr8-zero",
        "V-5.7",
        "a deployment whose PCR 8 is zero",
        whole(&format!("[deployment]\npcr8 = [\"{zero}\"]\n")),
    );
    refused(
        list,
        "model-zero",
        "V-5.7",
        "a model whose digest is zero",
        whole(&format!("[[model]]\nid = \"m\"\nsha256 = \"{}\"\n", "0".repeat(64))),
    );
}

/// V-5.7 and V-5.8: images of a `NitroTPM`.
fn tpm_images(list: &mut List) {
    let zero = hex::encode([0; 48]);
    let three = hex::encode(pcr(3));
    let a = hex::encode(pcr(10));
    refused(
        list,
        "tpm-without-secure-boot",
        "V-5.8",
        "a NitroTPM image without register 7",
        whole(&format!("[[nitrotpm_image]]\nname = \"x\"\npcrs = {{ 4 = \"{a}\", 12 = \"{zero}\" }}\n")),
    );
    refused(
        list,
        "tpm-without-command-lines",
        "V-5.8",
        "a NitroTPM image that says nothing about what was added at boot, register 12",
        whole(&format!("[[nitrotpm_image]]\nname = \"x\"\npcrs = {{ 4 = \"{a}\", 7 = \"{three}\" }}\n")),
    );
    for register in [4, 7] {
        let values = [4, 7, 12].map(|index| {
            format!("{index} = \"{}\"", if index == register || index == 12 { &zero } else { &a })
        });
        refused(
            list,
            &format!("tpm-register-{register}-zero"),
            "V-5.7",
            &format!("a NitroTPM image whose register {register} is zero"),
            whole(&format!("[[nitrotpm_image]]\nname = \"x\"\npcrs = {{ {} }}\n", values.join(", "))),
        );
    }
    refused(
        list,
        "tpm-register-32",
        "V-5.8",
        "a NitroTPM image with register 32",
        whole(&tpm_image(4, 7).replace("pcrs = {", &format!("pcrs = {{ 32 = \"{a}\","))),
    );
}

/// V-5.9: ages.
fn ages(list: &mut List) {
    refused(list, "age-zero", "V-5.9", "a greatest age of zero", whole("[freshness]\nmax_age = \"0s\"\n"));
    refused(
        list,
        "age-without-unit",
        "V-5.9",
        "a greatest age without a unit",
        whole("[freshness]\nmax_age = \"5\"\n"),
    );
}

/// Bytes in hexadecimal with colons, as other tools print fingerprints.
fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// A certificate as the policy takes it.
fn certificate_of(der: &[u8]) -> String {
    format!("certificate = \"\"\"\n{}\"\"\"\n", pem(der))
}

fn accepted(list: &mut List) {
    for (id, about, write) in [
        ("prefix", "digests with 0x", (|bytes| format!("0x{}", hex::encode(bytes))) as fn(&[u8]) -> String),
        ("colons", "digests with colons and capital letters", colons),
        ("base64", "digests in base64", |bytes| STANDARD.encode(bytes)),
    ] {
        list.add(format!("policy/digest-{id}"), "V-5.10", about, Accepted, |case| {
            for index in 0..3 {
                case.policy = case.policy.replace(&hex::encode(pcr(index)), &write(&pcr(index)));
            }
        });
    }
    list.add("policy/anchor-certificate", "V-5.5", "a root of one's own as PEM", Accepted, |case| {
        // Signed once, so that the document and the policy have the same bytes.
        let root = case.forge.certificates()[0].clone();
        case.policy = case.policy.replace("sha256 = \"{root}\"\n", &certificate_of(&root));
        case.rearrange = Some(Box::new(move |certificates| certificates[0] = root));
    });
    let about = "a policy that says everything that it can";
    list.add("policy/everything", "V-5.1 V-5.5 V-5.6 V-5.8", about, Accepted, |case| {
        let text = format!(
            "version = 1\n[[trust_anchor]]\nname = \"aws\"\n[[trust_anchor]]\nname = \"aws-us-gov\"\n{}{}{}{}\
             [deployment]\npcr8 = [\"{}\", \"{}\"]\n[[model]]\nid = \"demo\"\nsha256 = \"{}\"\n\
             [freshness]\nmax_age = \"5m\"\nmax_skew = \"1s\"\nmax_session = \"1h 30m\"\n",
            anchor("forge", "{root}"),
            image(),
            debug_image(),
            tpm_image(4, 7),
            hex::encode(pcr(90)),
            hex::encode(pcr(8)),
            "1".repeat(64),
        );
        case.policy = text;
    });
}
