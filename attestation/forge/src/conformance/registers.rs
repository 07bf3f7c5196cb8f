//! V-6: what the registers have to be.

use aws_lc_rs::digest::{SHA384, digest};

use super::case::Answer::{Accepted, AcceptedDebug, Fails, FailsDebug};
use super::case::{Case, List, TPM_MODULE_ID, anchor, debug_image, deployment, image_of, tpm_image};
use crate::{Name, pcr};

pub(super) fn list(list: &mut List) {
    debug(list);
    images(list);
    deployments(list);
    commitments(list);
    tpm(list);
}

fn debug(list: &mut List) {
    let failures = [("platform", "debug-enclave"), ("image", "image-debug")];
    for index in 0..3 {
        let about = format!("PCR {index} is zero");
        list.add(format!("registers/debug-pcr{index}-zero"), "V-6.1", about, FailsDebug(&failures), |case| {
            case.forge.document.put_pcr(index, &[0; 48]);
        });
    }
    list.add("registers/debug-pcr1-absent", "V-6.1", "no PCR 1", FailsDebug(&failures), |case| {
        case.forge.document.remove_pcr(1);
    });
    let about = "PCR 0 to 2 are zero and PCR 4 is not, as AWS makes it";
    list.add("registers/debug-as-aws", "V-6.1", about, FailsDebug(&failures), zero_image);
    let about = "an enclave in debug mode under a policy that expects one";
    list.add("registers/debug-expected", "V-6.2", about, AcceptedDebug, |case| {
        zero_image(case);
        case.policy += &debug_image();
    });
    let about = "an enclave that is not in debug mode under a policy that also accepts debug mode";
    list.add("registers/not-debug-and-accepted", "V-6.2", about, Accepted, |case| {
        case.policy += &debug_image();
    });
    let about = "an enclave that is not in debug mode under a policy that accepts nothing but debug mode";
    list.add(
        "registers/only-debug-accepted",
        "V-6.4",
        about,
        Fails(&[("image", "image-platform")]),
        |case| {
            case.policy = format!("version = 1\n{}{}", anchor("forge", "{root}"), debug_image());
        },
    );
}

fn zero_image(case: &mut Case) {
    (0..3).for_each(|index| case.forge.document.put_pcr(index, &[0; 48]));
}

fn images(list: &mut List) {
    for (index, code) in [(0, "pcr0-mismatch"), (1, "pcr1-mismatch"), (2, "pcr2-mismatch")] {
        let about = format!("another PCR {index}");
        list.add(format!("registers/pcr{index}"), "V-6.3", about, Fails(&[("image", code)]), |case| {
            case.forge.document.put_pcr(index, &pcr(99));
        });
    }
    let failures = [("image", "pcr1-mismatch"), ("image", "pcr2-mismatch")];
    let about = "PCR 1 and 2 in each other's place";
    list.add("registers/pcr1-and-pcr2-swapped", "V-6.3 V-8.3", about, Fails(&failures), |case| {
        case.forge.document.put_pcr(1, &pcr(2));
        case.forge.document.put_pcr(2, &pcr(1));
    });
    list.add("registers/second-image", "V-6.3", "the second of two images", Accepted, |case| {
        case.policy += &image_of("second", [10, 11, 12]);
        (0..3).for_each(|index| case.forge.document.put_pcr(index.into(), &pcr(index + 10)));
    });
    let about = "registers that are partly of one image and partly of another";
    list.add("registers/mixed-images", "V-6.3", about, Fails(&[("image", "pcr2-mismatch")]), |case| {
        case.policy += &image_of("second", [10, 11, 12]);
        case.forge.document.put_pcr(2, &pcr(12));
    });
    let about = "other registers that nobody asks about";
    list.add("registers/others", "V-6.9", about, Accepted, |case| {
        for index in [3, 4, 7, 8, 20] {
            case.forge.document.put_pcr(index, &pcr(99));
        }
    });
}

fn deployments(list: &mut List) {
    list.add("registers/deployment", "V-6.5", "the deployment that is asked about", Accepted, |case| {
        case.policy += &deployment();
    });
    let about = "one of two values of PCR 4";
    list.add("registers/deployment-set", "V-6.5", about, Accepted, |case| {
        case.policy +=
            &format!("[deployment]\npcr4 = [\"{}\", \"{}\"]\n", hex::encode(pcr(70)), hex::encode(pcr(4)));
    });
    for (index, code) in [(3, "pcr3-mismatch"), (4, "pcr4-mismatch"), (8, "pcr8-mismatch")] {
        let failures = [("deployment", code)];
        let about = format!("another PCR {index}");
        list.add(format!("registers/pcr{index}"), "V-6.5", about, Fails(&failures), |case| {
            case.policy += &deployment();
            case.forge.document.put_pcr(index, &pcr(99));
        });
        let about = format!("no PCR {index}");
        list.add(format!("registers/pcr{index}-absent"), "V-6.5", about, Fails(&failures), |case| {
            case.policy += &deployment();
            case.forge.document.remove_pcr(index);
        });
    }
    let about = "PCR 8 is zero, as that of an image that nobody signed";
    list.add("registers/pcr8-zero", "V-6.5", about, Fails(&[("deployment", "pcr8-mismatch")]), |case| {
        case.policy += &deployment();
        case.forge.document.put_pcr(8, &[0; 48]);
    });
}

fn commitments(list: &mut List) {
    for (index, rule, axis, code) in
        [(16, "V-6.6", "model", "pcr16-mismatch"), (17, "V-6.7", "session", "pcr17-mismatch")]
    {
        let expect = move |case: &mut Case| {
            let value = Some(hex::encode(pcr(index)));
            if index == 16 {
                case.expected.pcr16 = value;
            } else {
                case.expected.pcr17 = value;
            }
        };
        list.add(
            format!("registers/pcr{index}-right"),
            rule,
            format!("the expected PCR {index}"),
            Accepted,
            |case| {
                expect(case);
                case.forge.document.put_pcr(index.into(), &pcr(index));
            },
        );
        let failures = [(axis, code)];
        list.add(
            format!("registers/pcr{index}"),
            rule,
            format!("another PCR {index}"),
            Fails(&failures),
            |case| {
                expect(case);
                case.forge.document.put_pcr(index.into(), &pcr(99));
            },
        );
        let about = format!("no PCR {index}: the enclave has not committed");
        list.add(format!("registers/pcr{index}-absent"), rule, about, Fails(&failures), expect);
    }
}

/// The code for a register of a `NitroTPM`.
const TPM_MISMATCH: &str = "nitrotpm-pcr-mismatch";

/// The value of a register of a `NitroTPM` that is closed: SHA-384(before ‖ SHA-384(LP("cleanroom/pcr/cap/1"))).
fn closed(before: &[u8]) -> Vec<u8> {
    let cap = digest(&SHA384, b"\0\0\0\x13cleanroom/pcr/cap/1");
    digest(&SHA384, &[before, cap.as_ref()].concat()).as_ref().to_vec()
}

fn tpm_commitments(list: &mut List) {
    for (what, register, enclave, axis) in [("model", 14, 16, "model"), ("receipt-key", 15, 17, "session")] {
        let mut add = |name: &str, about: &str, right: bool, value: Option<&[u8]>| {
            let failures = [(axis, TPM_MISMATCH)];
            let outcome = if right { Accepted } else { Fails(&failures) };
            let about = format!("a NitroTPM whose register {register} {about}");
            list.add(format!("registers/tpm-{what}-{name}"), "V-6.10", about, outcome, |case| {
                case.become_tpm();
                let expected = Some(hex::encode(pcr(enclave)));
                if enclave == 16 {
                    case.expected.pcr16 = expected;
                } else {
                    case.expected.pcr17 = expected;
                }
                match value {
                    Some(value) => case.forge.document.put_pcr(register, value),
                    None => case.forge.document.remove_pcr(register),
                }
            });
        };
        let committed = pcr(enclave);
        let once = closed(&committed);
        add("closed", "has the expected commitment, closed", true, Some(&once));
        add("open", "has the expected commitment and is not closed", false, Some(&committed));
        add("closed-twice", "has the expected commitment, closed twice", false, Some(&closed(&once)));
        add("other", "has another commitment, closed", false, Some(&closed(&pcr(99))));
        add("absent", "is absent", false, None);
    }
}

fn tpm(list: &mut List) {
    let about =
        "a NitroTPM under a policy that names enclaves alone, with the same values in the same registers";
    list.add("registers/tpm-for-an-enclave", "V-6.4", about, Fails(&[("image", "image-platform")]), |case| {
        case.forge.document.become_tpm(TPM_MODULE_ID);
        case.forge.leaf().subject = Name::of(TPM_MODULE_ID);
    });
    let about = "an enclave under a policy that names NitroTPM images alone";
    list.add("registers/enclave-for-a-tpm", "V-6.4", about, Fails(&[("image", "image-platform")]), |case| {
        case.policy = format!("version = 1\n{}{}", anchor("forge", "{root}"), tpm_image(4, 7));
    });
    let other = |four: u8, seven: u8| {
        move |case: &mut Case| {
            case.become_tpm();
            case.policy = case.policy.replace(&tpm_image(4, 7), &tpm_image(four, seven));
        }
    };
    let failures = [("image", "nitrotpm-pcr-mismatch")];
    list.add("registers/tpm-boot-loader", "V-6.8", "another boot loader", Fails(&failures), other(5, 7));
    list.add("registers/tpm-secure-boot", "V-6.8", "another Secure Boot", Fails(&failures), other(4, 8));
    let about = "a NitroTPM whose register 12 says that something was added to the image at boot";
    list.add("registers/tpm-command-line-added", "V-6.8", about, Fails(&failures), |case| {
        case.become_tpm();
        case.forge.document.put_pcr(12, &pcr(12));
    });
    let about = "a NitroTPM without register 12 under a policy that wants zero there: absent is not zero";
    list.add("registers/tpm-register-12-absent", "V-6.8", about, Fails(&failures), |case| {
        case.become_tpm();
        case.forge.document.remove_pcr(12);
    });
    let about = "a NitroTPM whose register 12 has the value that the policy names";
    list.add("registers/tpm-register-12-pinned", "V-6.8 V-5.8", about, Accepted, |case| {
        case.become_tpm();
        case.forge.document.put_pcr(12, &pcr(12));
        case.policy = case.policy.replace(&hex::encode([0; 48]), &hex::encode(pcr(12)));
    });
    let about = "a NitroTPM whose registers have the values of the enclave deployment that is asked about";
    let failures =
        [("deployment", "pcr3-mismatch"), ("deployment", "pcr4-mismatch"), ("deployment", "pcr8-mismatch")];
    list.add("registers/tpm-deployment", "V-6.8 V-8.3", about, Fails(&failures), |case| {
        case.become_tpm();
        case.policy += &deployment();
    });
    let about =
        "a NitroTPM whose register 16 has the value of the model that is asked about, as an enclave's would";
    list.add("registers/tpm-model", "V-6.8 V-6.10", about, Fails(&[("model", TPM_MISMATCH)]), |case| {
        case.become_tpm();
        case.expected.pcr16 = Some(hex::encode(pcr(16)));
    });
    tpm_commitments(list);
    let about = "a NitroTPM whose register 0 is zero: debug mode is a notion of enclaves";
    list.add("registers/tpm-register-0-zero", "V-6.8 V-6.1", about, Accepted, |case| {
        case.become_tpm();
        case.forge.document.put_pcr(0, &[0; 48]);
    });
}
