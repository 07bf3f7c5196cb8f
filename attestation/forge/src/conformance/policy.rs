//! V-5: policies that are refused. Nothing is judged under them, so these cases have no document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::case::Answer::{Accepted, PolicyRefused};
use super::case::{List, anchor, debug_image, image, image_of, tpm_image};
use crate::{Forge, pcr, pem};

pub(super) fn list(list: &mut List) {
    refused(list);
    accepted(list);
}

fn refused(list: &mut List) {
    let aws = "[[trust_anchor]]\nname = \"aws\"\n";
    let image = image();
    let whole = |more: &str| format!("version = 1\n{aws}{image}{more}");
    let [zero, three, a] = [[0; 48], pcr(3), pcr(10)].map(hex::encode);
    let mut refused = |id: &str, rule: &str, about: &str, policy: String| {
        list.add(format!("policy/{id}"), rule, about, PolicyRefused, |case| {
            case.policy = policy;
            case.rewrite = Some(Box::new(Vec::clear));
        });
    };
    refused("empty", "V-5.1", "an empty file", String::new());
    refused("not-toml", "V-5.1", "not TOML", "]".to_owned());
    refused("without-version", "V-5.1", "no version", format!("{aws}{image}"));
    refused("version-2", "V-5.1", "version 2", format!("version = 2\n{aws}{image}"));
    refused("unknown-table", "V-5.1", "a table that does not exist", whole("[other]\n"));
    refused("unknown-key", "V-5.1", "a key that does not exist", whole("[freshness]\nmaxage = \"5m\"\n"));
    refused(
        "pcr-hexadecimal",
        "V-5.1",
        "a register that is too short",
        whole("").replace(&hex::encode(pcr(0)), "aa"),
    );

    refused("no-anchor", "V-5.2", "no trust anchor", format!("version = 1\n{image}"));
    refused(
        "empty-anchors",
        "V-5.2",
        "an empty set of trust anchors",
        format!("version = 1\ntrust_anchor = []\n{image}"),
    );
    refused("no-image", "V-5.2", "no image", format!("version = 1\n{aws}"));
    refused("empty-images", "V-5.2", "an empty set of images", format!("version = 1\nimage = []\n{aws}"));
    refused(
        "empty-models",
        "V-5.2",
        "an empty set of models",
        format!("version = 1\nmodel = []\n{aws}{image}"),
    );
    refused("empty-deployment", "V-5.2", "a deployment that asks nothing", whole("[deployment]\n"));
    refused("empty-pcr3", "V-5.2", "an empty set of values for PCR 3", whole("[deployment]\npcr3 = []\n"));
    refused("empty-freshness", "V-5.2", "a freshness that asks nothing", whole("[freshness]\n"));

    refused("name-empty", "V-5.3", "an empty name", format!("version = 1\n{aws}{}", image_of("", [0, 1, 2])));
    refused(
        "name-control",
        "V-5.3",
        "a name with a control character",
        format!("version = 1\n{aws}{}", image_of("\\u001b[2J", [0, 1, 2])),
    );
    refused("image-twice", "V-5.4", "an image twice", whole(&image));
    refused(
        "anchor-twice",
        "V-5.4",
        "one root under two names",
        format!("version = 1\n{}{}{image}", anchor("a", &"1".repeat(64)), anchor("b", &"1".repeat(64))),
    );
    refused(
        "pcr3-twice",
        "V-5.4",
        "a value of PCR 3 twice",
        whole(&format!("[deployment]\npcr3 = [\"{three}\", \"{three}\"]\n")),
    );
    let pinned = format!("version = 1\n{aws}sha256 = \"{}\"\n{image}", "1".repeat(64));
    refused("built-in-pinned", "V-5.5", "a built-in root with another pin", pinned);
    let production = anchor("forge", &"1".repeat(64)).replace("development", "production");
    refused(
        "own-production",
        "V-5.5",
        "a root of one's own that calls itself production",
        format!("version = 1\n{production}{image}"),
    );
    refused(
        "anchor-without-tier",
        "V-5.5",
        "a root of one's own without a tier",
        format!("version = 1\n[[trust_anchor]]\nname = \"forge\"\nsha256 = \"{}\"\n{image}", "1".repeat(64)),
    );
    refused(
        "anchor-without-pin",
        "V-5.5",
        "a root of one's own without a pin",
        format!("version = 1\n[[trust_anchor]]\nname = \"forge\"\ntier = \"development\"\n{image}"),
    );
    let two_roots = anchor("forge", &"1".repeat(64)) + &certificate_of(&Forge::new().certificates()[0]);
    refused(
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
        "anchor-not-pem",
        "V-5.5",
        "a root of one's own whose certificate is not PEM",
        anchor_with("MIIB"),
    );
    refused(
        "digest-of-another-length",
        "V-5.10",
        "64 hexadecimal digits, which are also base64 of 48 bytes, in the place of a PCR",
        whole("").replace(&hex::encode(pcr(0)), &"a".repeat(64)),
    );
    refused(
        "digest-with-a-digit-missing",
        "V-5.10",
        "colons between bytes of which one has one digit",
        whole("").replace(&hex::encode(pcr(0)), &colons(&pcr(0)).replacen("01", "1", 1)),
    );
    refused(
        "image-without-pcr2",
        "V-5.6",
        "an image without PCR 2",
        format!(
            "version = 1\n{aws}{}",
            image
                .lines()
                .filter(|line| !line.starts_with("pcr2"))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        ),
    );
    refused(
        "debug-with-pcrs",
        "V-5.6",
        "an image in debug mode that names registers",
        format!("version = 1\n{aws}{image}debug = true\n"),
    );
    refused(
        "pcr0-zero",
        "V-5.7",
        "an image whose PCR 0 is zero",
        whole("").replace(&hex::encode(pcr(0)), &zero),
    );
    refused(
        "pcr8-zero",
        "V-5.7",
        "a deployment whose PCR 8 is zero",
        whole(&format!("[deployment]\npcr8 = [\"{zero}\"]\n")),
    );
    refused(
        "model-zero",
        "V-5.7",
        "a model whose digest is zero",
        whole(&format!("[[model]]\nid = \"m\"\nsha256 = \"{}\"\n", "0".repeat(64))),
    );
    refused(
        "tpm-without-secure-boot",
        "V-5.8",
        "a NitroTPM image without register 7",
        whole(&format!("[[nitrotpm_image]]\nname = \"x\"\npcrs = {{ 4 = \"{a}\", 12 = \"{zero}\" }}\n")),
    );
    refused(
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
            &format!("tpm-register-{register}-zero"),
            "V-5.7",
            &format!("a NitroTPM image whose register {register} is zero"),
            whole(&format!("[[nitrotpm_image]]\nname = \"x\"\npcrs = {{ {} }}\n", values.join(", "))),
        );
    }
    refused(
        "tpm-register-32",
        "V-5.8",
        "a NitroTPM image with register 32",
        whole(&tpm_image(4, 7).replace("pcrs = {", &format!("pcrs = {{ 32 = \"{a}\","))),
    );
    refused("age-zero", "V-5.9", "a greatest age of zero", whole("[freshness]\nmax_age = \"0s\"\n"));
    refused(
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
