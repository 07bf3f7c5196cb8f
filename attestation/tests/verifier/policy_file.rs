//! `trust.toml`: what it can say, and how it is refused.

use core::time::Duration;

use base64::Engine as _;
use cleanroom_attestation::chain::Tier;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::{
    DEFAULT_MAX_SKEW, ImageMeasurement, MAX_POLICY_LENGTH, Policy, PolicyError,
};
use cleanroom_forge::pem;

const ANCHOR: &str = "[[trust_anchor]]\nname = \"aws\"\n";

fn pcr(digit: char) -> String {
    digit.to_string().repeat(96)
}

fn image() -> String {
    format!(
        "[[image]]\nname = \"one\"\npcr0 = \"{}\"\npcr1 = \"{}\"\npcr2 = \"{}\"\n",
        pcr('a'),
        pcr('b'),
        pcr('c')
    )
}

fn tpm_image() -> String {
    let (four, seven, twelve) = (pcr('4'), pcr('7'), pcr('0'));
    format!(
        "[[nitrotpm_image]]\nname = \"x\"\npcrs = {{ 4 = \"{four}\", 7 = \"{seven}\", 12 = \"{twelve}\" }}\n"
    )
}

fn read(text: &str) -> Result<Policy, PolicyError> {
    Policy::from_toml(&format!("version = 1\n{text}"))
}

/// The policy with one anchor, one image and `more`.
fn with(more: &str) -> Result<Policy, PolicyError> {
    read(&format!("{ANCHOR}{}{more}", image()))
}

fn with_anchors(anchors: &str) -> Result<Policy, PolicyError> {
    read(&format!("{anchors}{}", image()))
}

fn with_images(images: &str) -> Result<Policy, PolicyError> {
    read(&format!("{ANCHOR}{images}"))
}

#[test]
fn the_smallest_policy() {
    let policy = with("").unwrap();
    let [anchor] = policy.anchors() else { panic!("one anchor") };
    assert_eq!((anchor.name(), anchor.tier()), ("aws", Tier::Production));
    assert_eq!(
        anchor.sha256().to_string(),
        "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
    );
    let [image] = policy.images() else { panic!("one image") };
    assert_eq!(image.name(), "one");
    let ImageMeasurement::Measured { pcr0, pcr1, pcr2 } = image.measurement() else { panic!("measured") };
    assert_eq!([pcr0, pcr1, pcr2].map(ToString::to_string), ['a', 'b', 'c'].map(pcr));
    assert!(policy.tpm_images().is_empty());
    assert!(policy.deployment().is_none());
    assert!(policy.models().is_empty());
    let freshness = policy.freshness();
    assert_eq!((freshness.max_age, freshness.max_session), (None, None));
    assert_eq!(freshness.max_skew, DEFAULT_MAX_SKEW);
}

#[test]
fn everything_it_can_say() {
    let sha256 = |digit: &str| digit.repeat(64);
    let text = format!(
        "{ANCHOR}[[trust_anchor]]\nname = \"aws-us-gov\"\n\
         [[trust_anchor]]\nname = \"laptop\"\ntier = \"development\"\nsha256 = \"{}\"\n{}\
         [[image]]\nname = \"bench\"\ndebug = true\n\
         [[nitrotpm_image]]\nname = \"ami\"\npcrs = {{ 4 = \"{}\", 7 = \"{}\", 12 = \"{}\" }}\n\
         [deployment]\npcr3 = [\"{}\"]\npcr8 = [\"{}\", \"{}\"]\n\
         [[model]]\nid = \"demo\"\nsha256 = \"{}\"\n[[model]]\nid = \"demo\"\nsha256 = \"{}\"\n\
         [[model]]\nid = \"other\"\nsha256 = \"{}\"\n\
         [freshness]\nmax_age = \"5m\"\nmax_skew = \"1s\"\nmax_session = \"1h 30m\"\n",
        sha256("1"),
        image(),
        pcr('4'),
        pcr('7'),
        pcr('0'),
        pcr('d'),
        pcr('e'),
        pcr('f'),
        sha256("2"),
        sha256("3"),
        sha256("2"),
    );
    let policy = read(&text).unwrap();
    let anchors: Vec<_> = policy.anchors().iter().map(|anchor| (anchor.name(), anchor.tier())).collect();
    let expected =
        [("aws", Tier::Production), ("aws-us-gov", Tier::Production), ("laptop", Tier::Development)];
    assert_eq!(anchors, expected);
    assert_eq!(
        policy.anchors()[1].sha256().to_string(),
        "20bcd30a3e168ea03789e1c45912bc123c4de3c977b8a6e1c125c7929d668b3b"
    );
    assert_eq!(policy.anchors()[2].sha256().to_string(), sha256("1"));
    assert_eq!(*policy.images()[1].measurement(), ImageMeasurement::Debug);
    assert_eq!(policy.tpm_images()[0].name(), "ami");
    let indexes: Vec<_> = policy.tpm_images()[0].pcrs().keys().copied().collect();
    assert_eq!(indexes, [4, 7, 12]);
    assert!(policy.tpm_images()[0].pcrs()[&12].is_zero());
    let registers: Vec<_> =
        policy.deployment().unwrap().registers().map(|(index, values)| (index, values.len())).collect();
    assert_eq!(registers, [(3, 1), (8, 2)]);
    let digests: Vec<_> = policy.model_digests("demo").map(ToString::to_string).collect();
    assert_eq!(digests, [sha256("2"), sha256("3")]);
    assert_eq!(policy.model_digests("none").count(), 0);
    assert_eq!((policy.models()[2].id(), policy.models()[2].sha256().to_string()), ("other", sha256("2")));
    let freshness = policy.freshness();
    assert_eq!(freshness.max_age, Some(Duration::from_secs(300)));
    assert_eq!(freshness.max_skew, Duration::from_secs(1));
    assert_eq!(freshness.max_session, Some(Duration::from_secs(5400)));
}

#[test]
fn keys_that_do_not_exist() {
    for more in [
        "[other]\n",
        "[[image]]\nname = \"x\"\npcr3 = \"\"\n",
        "[[model]]\nid = \"x\"\nsha384 = \"\"\n",
        "[deployment]\npcr5 = []\n",
        "[freshness]\nmaxage = \"5m\"\n",
        "[[nitrotpm_image]]\nname = \"x\"\npcr4 = \"\"\n",
        "[[trust_anchor]]\nname = \"x\"\nroot = \"\"\n",
    ] {
        assert!(
            matches!(with(more), Err(PolicyError::Syntax(message)) if message.contains("unknown field")),
            "{more}"
        );
    }
    assert!(matches!(Policy::from_toml(&format!("{ANCHOR}{}", image())), Err(PolicyError::Syntax(_))));
    assert!(matches!(read("]"), Err(PolicyError::Syntax(_))));
    assert!(matches!(with("[freshness]\nmax_age = 5\n"), Err(PolicyError::Syntax(_))));
    let short = image().replace(&pcr('a'), "aa");
    assert!(matches!(with_images(&short), Err(PolicyError::Syntax(message)) if message.contains("48 bytes")));
}

#[test]
fn version() {
    for actual in [0, 2] {
        let text = format!("version = {actual}\n{ANCHOR}{}", image());
        assert_eq!(Policy::from_toml(&text), Err(PolicyError::Version { actual }));
    }
}

#[test]
fn length() {
    let text = format!("version = 1\n{ANCHOR}{}", image());
    let padded = |length: usize| format!("{text}{}", " ".repeat(length - text.len()));
    assert!(Policy::from_toml(&padded(MAX_POLICY_LENGTH)).is_ok());
    let actual = MAX_POLICY_LENGTH + 1;
    assert_eq!(Policy::from_toml(&padded(actual)), Err(PolicyError::TooLong { actual }));
}

#[test]
fn empty_sets() {
    let empty = |list, removable| Err(PolicyError::Empty { list, removable });
    assert_eq!(with_anchors(""), empty("trust_anchor", false));
    assert_eq!(with_anchors("trust_anchor = []\n"), empty("trust_anchor", false));
    assert_eq!(with_images(""), empty("image", false));
    assert_eq!(read(&format!("image = []\n{ANCHOR}")), empty("image", false));
    assert_eq!(read(&format!("nitrotpm_image = []\n{ANCHOR}")), empty("nitrotpm_image", true));
    assert_eq!(read(&format!("model = []\n{ANCHOR}{}", image())), empty("model", true));
    assert_eq!(with("[deployment]\n"), empty("deployment", true));
    assert_eq!(with("[freshness]\n"), empty("freshness", true));
    for list in ["pcr3", "pcr4", "pcr8"] {
        assert_eq!(with(&format!("[deployment]\n{list} = []\n")), empty(list, true));
    }
    assert!(with("[deployment]\n").unwrap_err().to_string().ends_with("or remove the key to not ask"));
    assert!(with_images("").unwrap_err().to_string().ends_with("name at least one value"));
    let tpm = tpm_image();
    assert!(with_images(&tpm).unwrap().images().is_empty());
    assert_eq!(read(&format!("image = []\n{ANCHOR}{tpm}")), empty("image", false));
    for (key, one) in [
        ("max_age", Duration::from_secs(1)),
        ("max_skew", Duration::from_secs(1)),
        ("max_session", Duration::from_secs(1)),
    ] {
        let policy = with(&format!("[freshness]\n{key} = \"1s\"\n")).unwrap();
        let freshness = policy.freshness();
        let values = [
            freshness.max_age,
            Some(freshness.max_skew).filter(|skew| *skew != DEFAULT_MAX_SKEW),
            freshness.max_session,
        ];
        assert_eq!(values.into_iter().flatten().collect::<Vec<_>>(), [one], "{key}");
    }
}

#[test]
fn too_many() {
    let models = |count: usize| -> String {
        (0..count)
            .map(|index| format!("[[model]]\nid = \"{index}\"\nsha256 = \"{}\"\n", "1".repeat(64)))
            .collect()
    };
    assert_eq!(with(&models(1024)).unwrap().models().len(), 1024);
    assert_eq!(with(&models(1025)), Err(PolicyError::TooMany { list: "model", actual: 1025 }));
    for list in ["pcr3", "pcr4", "pcr8"] {
        let values: Vec<_> = (1..=1025).map(|index| format!("\"{index:096x}\"")).collect();
        let text = format!("[deployment]\n{list} = [{}]\n", values.join(","));
        assert_eq!(with(&text), Err(PolicyError::TooMany { list, actual: 1025 }));
    }
}

#[test]
fn names() {
    let images = |name: &str| with_images(&image().replace("\"one\"", &format!("\"{name}\"")));
    assert!(images(&"x".repeat(128)).is_ok());
    for wrong in ["", "\\u001b[2J", "a\\nb", &"x".repeat(129)] {
        assert_eq!(images(wrong), Err(PolicyError::Name { list: "image" }), "{wrong}");
    }
    let model = format!("[[model]]\nid = \"\"\nsha256 = \"{}\"\n", "1".repeat(64));
    assert_eq!(with(&model), Err(PolicyError::Name { list: "model" }));
    assert_eq!(
        with_anchors("[[trust_anchor]]\nname = \"\"\n"),
        Err(PolicyError::Name { list: "trust_anchor" })
    );
    let tpm = "[[nitrotpm_image]]\nname = \"\"\npcrs = {}\n";
    assert_eq!(with(tpm), Err(PolicyError::Name { list: "nitrotpm_image" }));
}

#[test]
fn duplicates() {
    let duplicate = |result: Result<Policy, PolicyError>, expected: &str| match result {
        Err(PolicyError::Duplicate { list, .. }) => assert_eq!(list, expected),
        other => panic!("{other:?}"),
    };
    duplicate(with_anchors(&ANCHOR.repeat(2)), "trust_anchor");
    let development = |name: &str| {
        format!(
            "[[trust_anchor]]\nname = \"{name}\"\ntier = \"development\"\nsha256 = \"{}\"\n",
            "1".repeat(64)
        )
    };
    assert!(with_anchors(&development("a")).is_ok());
    duplicate(with_anchors(&(development("a") + &development("b"))), "trust_anchor");
    duplicate(with_images(&image().repeat(2)), "image");
    let tpm = tpm_image();
    duplicate(with_images(&tpm.repeat(2)), "nitrotpm_image");
    let model = format!("[[model]]\nid = \"x\"\nsha256 = \"{}\"\n", "1".repeat(64));
    duplicate(with(&model.repeat(2)), "model");
    for list in ["pcr3", "pcr4", "pcr8"] {
        duplicate(with(&format!("[deployment]\n{list} = [\"{0}\", \"{0}\"]\n", pcr('a'))), list);
    }
}

#[test]
fn anchors() {
    let name = |name: &str| name.to_owned();
    let sha256 = format!("sha256 = \"{}\"\n", "1".repeat(64));
    let tier = "tier = \"development\"\n";
    let root = cleanroom_forge::Forge::new().certificates().swap_remove(0);
    let certificate = |pem: &str| format!("certificate = \'\'\'\n{pem}\'\'\'\n");
    let anchor =
        |name: &str, more: &str| with_anchors(&format!("[[trust_anchor]]\nname = \"{name}\"\n{more}"));
    for built_in in ["aws", "aws-us-gov"] {
        let pem = certificate(&pem(&root));
        for more in [sha256.clone(), tier.to_owned(), format!("{tier}{sha256}"), pem] {
            assert_eq!(anchor(built_in, &more), Err(PolicyError::BuiltInAnchor { name: name(built_in) }));
        }
    }
    assert_eq!(anchor("laptop", &sha256), Err(PolicyError::AnchorTier { name: name("laptop") }));
    let production = format!("tier = \"production\"\n{sha256}");
    assert_eq!(anchor("laptop", &production), Err(PolicyError::AnchorTier { name: name("laptop") }));
    assert_eq!(anchor("aws-cn", ""), Err(PolicyError::AnchorTier { name: name("aws-cn") }));
    assert_eq!(anchor("laptop", tier), Err(PolicyError::AnchorPin { name: name("laptop") }));
    assert!(anchor("laptop", &format!("{tier}{sha256}")).is_ok());

    // A root as it is, beside or instead of its fingerprint.
    let fingerprint = Sha256Digest::of(&[&root]);
    let colons = fingerprint.as_bytes().map(|byte| format!("{byte:02X}")).join(":");
    let written = certificate(&pem(&root));
    for more in
        [written.clone(), format!("{written}sha256 = \"{colons}\"\n"), format!("sha256 = \"{colons}\"\n")]
    {
        assert_eq!(*anchor("laptop", &format!("{tier}{more}")).unwrap().anchors()[0].sha256(), fingerprint);
    }
    let other = anchor("laptop", &format!("{tier}{written}{sha256}"));
    assert!(matches!(other, Err(PolicyError::AnchorMismatch { actual, .. }) if actual == fingerprint));
    for wrong in [String::new(), pem(&root).repeat(2), pem(b"0"), pem(&root).replace("CERTIFICATE", "KEY")] {
        let refused = anchor("laptop", &format!("{tier}{}", certificate(&wrong)));
        assert!(matches!(refused, Err(PolicyError::AnchorCertificate { .. })), "{wrong}: {refused:?}");
    }
}

#[test]
fn image_measurements() {
    let refused = Err(PolicyError::ImageMeasurement { name: "one".to_owned() });
    for register in ["pcr0", "pcr1", "pcr2"] {
        let without: String =
            image().lines().filter(|line| !line.starts_with(register)).map(|l| format!("{l}\n")).collect();
        assert_eq!(with_images(&without), refused, "{register}");
        let digit = match register {
            "pcr0" => 'a',
            "pcr1" => 'b',
            _ => 'c',
        };
        let zero = image().replace(&pcr(digit), &pcr('0'));
        let subject = format!("{register} of image `one`");
        assert_eq!(with_images(&zero), Err(PolicyError::ZeroReference { subject }));
        // An entry for debug enclaves with a measurement would be a measurement that nobody compares.
        let value = format!("[[image]]\nname = \"one\"\ndebug = true\n{register} = \"{}\"\n", pcr('a'));
        assert_eq!(with_images(&value), refused);
    }
    assert_eq!(with_images(&format!("{}debug = true\n", image())), refused);
    assert_eq!(with_images("[[image]]\nname = \"one\"\n"), refused);
    assert_eq!(with_images("[[image]]\nname = \"one\"\ndebug = false\n"), refused);
    assert!(with_images(&format!("{}debug = false\n", image())).is_ok());
}

#[test]
fn tpm_registers() {
    let image = |pcrs: &str| with_images(&format!("[[nitrotpm_image]]\nname = \"x\"\npcrs = {{ {pcrs} }}\n"));
    let register = |index: &str| format!("\"{index}\" = \"{}\"", pcr('a'));
    for index in ["32", "256", "-1", "+5", "05", "x", ""] {
        let expected = Err(PolicyError::TpmRegister { name: "x".to_owned(), index: index.to_owned() });
        let pcrs = [register("4"), register("7"), register("12"), register(index)];
        assert_eq!(image(&pcrs.join(", ")), expected);
    }
    // Nothing in register 7 says whether Secure Boot keeps a command line out that somebody adds, so 12 is not left open.
    for indexes in [&[][..], &["4", "7"], &["4", "12"], &["7", "12"], &["0", "1"]] {
        let pcrs: Vec<_> = indexes.iter().map(|index| register(index)).collect();
        let error = image(&pcrs.join(", ")).unwrap_err();
        assert_eq!(error, PolicyError::TpmRegisters { name: "x".to_owned() });
        assert!(error.to_string().contains("12 (command lines"), "{error}");
    }
    // Zero is a value there like any other, except where every machine measures something.
    for (zero, accepted) in [("4", false), ("7", false), ("12", true), ("0", true)] {
        let values = ["0", "4", "7", "12"]
            .map(|index| format!("\"{index}\" = \"{}\"", pcr(if index == zero { '0' } else { 'a' })));
        let policy = image(&values.join(", "));
        assert_eq!(policy.is_ok(), accepted, "{zero}: {policy:?}");
        assert!(accepted || matches!(policy, Err(PolicyError::ZeroReference { .. })), "{zero}");
    }
}

#[test]
fn digests_as_people_write_them() {
    let with_pcr0 = |text: &str| with_images(&image().replace(&pcr('a'), text));
    let bytes = [0xaa; 48];
    for text in [
        format!("0x{}", pcr('a')),
        pcr('A'),
        format!("sha384:{}", pcr('a')),
        bytes.map(|_| "AA".to_owned()).join(":"),
        base64::engine::general_purpose::STANDARD.encode(bytes),
    ] {
        let policy = with_pcr0(&text).unwrap();
        let ImageMeasurement::Measured { pcr0, .. } = policy.images()[0].measurement() else {
            panic!("measured")
        };
        assert_eq!(pcr0.as_bytes(), &bytes, "{text}");
    }
    // Where it stands, what was expected, and what came: in the units of what came.
    let error = with_pcr0(&format!("0x{}", "a".repeat(98))).unwrap_err().to_string();
    assert!(error.contains("line 6") && error.contains("got 98 hexadecimal digits"), "{error}");
    let error = with("[deployment]\npcr4 = [\"i-0abc0abc0abc0abc0\"]\n").unwrap_err().to_string();
    assert!(error.contains("cleanroom measure --instance"), "{error}");
}

#[test]
fn zero_references() {
    for list in ["pcr3", "pcr4", "pcr8"] {
        let text = format!("[deployment]\n{list} = [\"{}\", \"{}\"]\n", pcr('a'), pcr('0'));
        assert!(matches!(with(&text), Err(PolicyError::ZeroReference { .. })), "{list}");
    }
    let model = format!("[[model]]\nid = \"x\"\nsha256 = \"{}\"\n", "0".repeat(64));
    assert!(matches!(with(&model), Err(PolicyError::ZeroReference { .. })));
}

#[test]
fn durations() {
    for key in ["max_age", "max_skew", "max_session"] {
        for wrong in ["", "0s", "5", "-5m", "soon", "99999999999999999999y"] {
            let expected = Err(PolicyError::Duration { key, actual: wrong.to_owned() });
            assert_eq!(with(&format!("[freshness]\n{key} = \"{wrong}\"\n")), expected);
        }
    }
}
