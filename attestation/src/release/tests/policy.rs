//! `[release]` of `trust.toml`: a partner that pins the root alone.

use super::*;
use crate::chain::Tier;
use crate::policy::{ImageMeasurement, Policy, PolicyError};

const ANCHOR: &str = "version = 1\n[[trust_anchor]]\nname = \"aws\"\n";

fn root_text(world: &World) -> String {
    String::from_utf8(world.seal_root(&world.root())).unwrap()
}

fn read(release: &str, more: &str) -> Result<Policy, PolicyError> {
    Policy::from_toml(&format!("{ANCHOR}{more}[release]\n{release}"))
}

#[test]
fn a_root_and_a_choice_are_enough() {
    let world = World::new();
    let root = root_text(&world);
    let policy = read(&format!("root = '''{root}'''\nmodel = \"m\"\n"), "").unwrap();
    let trust = policy.release().unwrap();
    assert_eq!((trust.root().version, trust.model()), (1, Some("m")));
    assert!(policy.images().is_empty() && policy.models().is_empty() && policy.deployment().is_none());
    let [anchor] = policy.anchors() else { panic!("one anchor") };
    assert_eq!(anchor.tier(), Tier::Production);
    assert_eq!(read(&format!("root = '''{root}'''\n"), "").unwrap().release().unwrap().model(), None);
}

#[test]
fn what_is_no_root_is_refused() {
    let world = World::new();
    let one = seal(PayloadType::Root, &world.root().to_payload(), &[&world.offline[0]]);
    let strangers = [9, 10].map(Signer::ed25519);
    let others = seal(PayloadType::Root, &world.root().to_payload(), &[&strangers[0], &strangers[1]]);
    let release = world.seal_release(&world.release(1));
    for (envelope, expected) in [(one, "threshold"), (others, "threshold"), (release, "payload-type")] {
        let text = String::from_utf8(envelope).unwrap();
        match read(&format!("root = '''{text}'''\n"), "") {
            Err(PolicyError::ReleaseRoot(error)) => assert_eq!(error.code(), expected),
            other => panic!("{other:?}"),
        }
    }
    for text in ["", "{}", "not JSON"] {
        assert!(
            matches!(read(&format!("root = '''{text}'''\n"), ""), Err(PolicyError::ReleaseRoot(_))),
            "{text}"
        );
    }
}

#[test]
fn a_section_without_its_root_or_with_more_is_refused() {
    let root = root_text(&World::new());
    for release in [
        String::new(),
        "model = \"m\"\n".to_owned(),
        format!("root = '''{root}'''\nversion = 1\n"),
        format!("root = ['''{root}''']\n"),
    ] {
        assert!(matches!(read(&release, ""), Err(PolicyError::Syntax(_))), "{:?}", read(&release, ""));
    }
}

#[test]
fn reference_values_beside_a_root_are_refused() {
    let root = root_text(&World::new());
    let digest = "a".repeat(64);
    let pcr = "b".repeat(96);
    for (list, text) in [
        ("image", format!("[[image]]\nname = \"x\"\npcr0 = \"{pcr}\"\npcr1 = \"{pcr}\"\npcr2 = \"{pcr}\"\n")),
        (
            "nitrotpm_image",
            format!(
                "[[nitrotpm_image]]\nname = \"x\"\npcrs = {{ 4 = \"{pcr}\", 7 = \"{pcr}\", 12 = \"{pcr}\" }}\n"
            ),
        ),
        ("deployment", format!("[deployment]\npcr4 = [\"{pcr}\"]\n")),
        ("model", format!("[[model]]\nid = \"m\"\nsha256 = \"{digest}\"\n")),
    ] {
        match read(&format!("root = '''{root}'''\n"), &text) {
            Err(PolicyError::TwoSources { list: actual }) => assert_eq!(actual, list),
            other => panic!("{list}: {other:?}"),
        }
    }
    // Without either there is nothing to compare with.
    assert!(Policy::from_toml(ANCHOR).is_err());
}

#[test]
fn the_release_becomes_the_reference_values() {
    let world = World::new();
    let policy = read(&format!("root = '''{}'''\n", root_text(&world)), "").unwrap();
    let mut release = world.release(1);
    let pcr = |name: &[u8]| Sha384Digest::of(&[name]);
    let place = |name: &str, pcr4, pcr8| Deployment {
        name: name.parse().unwrap(),
        pcr3: None,
        pcr4: Some(pcr(pcr4)),
        pcr8,
    };
    release.deployments = Some(list([place("x", b"1", None), place("y", b"2", Some(pcr(b"8")))]));
    let full = policy.with_release(&release);
    assert_eq!(full.images().len(), release.images.len());
    let image = &release.images[0];
    let expected = ImageMeasurement::Measured { pcr0: image.pcr0, pcr1: image.pcr1, pcr2: image.pcr2 };
    assert_eq!(full.images()[0].measurement(), &expected);
    let models: Vec<&str> = full.models().iter().map(crate::policy::ModelReference::id).collect();
    assert_eq!(models, release.models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>());
    // PCR 8 is asked about only where every place gives it; that the registers are of one place is asked separately.
    let registers: Vec<_> = full.deployment().unwrap().registers().collect();
    assert_eq!(registers, [(4, &[pcr(b"1"), pcr(b"2")][..])]);
    assert!(release.permits_deployment(None, Some(&pcr(b"1")), None));
    assert!(release.permits_deployment(None, Some(&pcr(b"2")), Some(&pcr(b"8"))));
    assert!(!release.permits_deployment(None, Some(&pcr(b"2")), None));
    assert!(!release.permits_deployment(None, Some(&pcr(b"3")), Some(&pcr(b"8"))));
}

#[test]
fn nothing_of_a_policys_own_reference_values_stays_beside_a_release() {
    let world = World::new();
    let digest = Sha384Digest::of(&[b"a machine image"]);
    let own = Policy::from_toml(&format!(
        "{ANCHOR}[[nitrotpm_image]]\nname = \"ami\"\npcrs = {{ 4 = \"{digest}\", 7 = \"{digest}\", 12 = \"{digest}\" }}\n[deployment]\npcr3 = [\"{digest}\"]\n"
    ))
    .unwrap();
    assert!(own.tpm_images().len() == 1 && own.deployment().is_some());
    let released = own.with_release(&world.release(1));
    assert!(released.tpm_images().is_empty(), "this release names images of enclaves alone");
    assert!(released.deployment().is_none());
    assert!(!released.images().is_empty() && !released.models().is_empty());
}

#[test]
fn a_release_names_instances_as_well_as_enclaves() {
    let world = World::new();
    let policy = read(&format!("root = '''{}'''\n", root_text(&world)), "").unwrap();
    let release = Release { nitrotpm_images: Some(list([tpm_image("4")])), ..world.release(1) };
    let full = policy.with_release(&release);
    let [image] = full.tpm_images() else { panic!("one image") };
    let expected = [(4, Sha384Digest::of(&[b"4"])), (7, Sha384Digest::of(&[b"7"])), (12, zero())];
    assert_eq!((image.name(), image.pcrs()), ("cleanroom 0.1.0, NitroTPM", &expected.into()));
    assert_eq!(full.images().len(), 1);
    // A policy that was filled from a release keeps nothing of it under the next one.
    assert!(full.with_release(&world.release(2)).tpm_images().is_empty());
}
