//! Documents with the shape of those that AWS's security modules sign, from 2021 until today. Together they vary everything
//! that is known to vary: both lengths of the payload's map, the three forms of a field without a value, both signatures,
//! certificates with and without key identifiers, leaves in their first and last seconds, more bytes than AWS documents.

use super::case::Answer::{Accepted, AcceptedDebug};
use super::case::{Case, List, TPM_MODULE_ID, debug_image};
use crate::{Cbor, Extension, NOW};

const SUBJECT_KEY_IDENTIFIER: u8 = 14;
const AUTHORITY_KEY_IDENTIFIER: u8 = 35;

pub(super) fn list(list: &mut List) {
    enclaves(list);
    optional_fields(list);
    leaves(list);
    let about = "a NitroTPM as of 2026: an indefinite map, registers 11 to 16 zero, 17 to 22 all ones";
    list.add("shape/nitrotpm", "V-2.1 V-2.7 V-6.8", about, Accepted, |case| {
        case.become_tpm();
        case.forge.document.open = true;
        (11..17).for_each(|index| case.forge.document.put_pcr(index, &[0; 48]));
        (17..23).for_each(|index| case.forge.document.put_pcr(index, &[0xff; 48]));
        case.put("nonce", Cbor::Bytes(vec![5; 64]));
        assert!(TPM_MODULE_ID.ends_with("-tpm0000000000000000"), "as AWS numbers them");
    });
}

/// All 16 registers of an enclave, most of them zero.
fn whole(case: &mut Case) {
    for index in 0..16 {
        if !matches!(index, 0..=4 | 8) {
            case.forge.document.put_pcr(index, &[0; 48]);
        }
    }
}

fn without_key_identifiers(case: &mut Case) {
    for index in 0..5 {
        case.certificate(index).remove_extension(AUTHORITY_KEY_IDENTIFIER);
    }
}

fn enclaves(list: &mut List) {
    let rules = "V-2.1 V-2.4 V-3.20 V-4.6";
    let about =
        "an enclave as of 2021: a definite map, an empty public key, no authority key identifiers, a high S";
    list.add("shape/enclave-2021", rules, about, Accepted, |case| {
        whole(case);
        without_key_identifiers(case);
        case.forge.document.high_s = true;
        case.put("public_key", Cbor::bytes(b""));
        case.put("user_data", Cbor::Bytes(vec![1; 64]));
        case.put("nonce", Cbor::Bytes(vec![2; 20]));
    });
    let about =
        "an enclave in debug mode as of 2022: PCR 0 to 2 zero and PCR 4 not, a key of 800 bytes, a low S";
    list.add("shape/debug-2022", "V-2.1 V-2.4 V-4.6 V-6.2", about, AcceptedDebug, |case| {
        whole(case);
        without_key_identifiers(case);
        case.forge.document.high_s = false;
        (0..4).for_each(|index| case.forge.document.put_pcr(index, &[0; 48]));
        case.put("public_key", Cbor::Bytes(vec![3; 800]));
        case.policy += &debug_image();
    });
    let about = "an enclave as of 2024: a definite map, authority key identifiers in every certificate, nulls, a low S";
    list.add("shape/enclave-2024", rules, about, Accepted, |case| {
        whole(case);
        for (index, above) in [(0, 0), (4, 3)] {
            let identifier = case.forge.chain[above].1.identifier();
            case.certificate(index).set_extension(Extension::authority_key_identifier(&identifier));
        }
        case.forge.leaf().remove_extension(SUBJECT_KEY_IDENTIFIER);
        case.forge.document.high_s = false;
    });
    let about = "an enclave as of 2025: an indefinite map, every optional field filled, a high S";
    list.add("shape/enclave-2025", rules, about, Accepted, |case| {
        whole(case);
        case.forge.document.open = true;
        case.forge.document.high_s = true;
        case.put("public_key", Cbor::Bytes(vec![3; 294]));
        case.put("user_data", Cbor::Bytes(vec![4; 59]));
        case.put("nonce", Cbor::Bytes(vec![5; 64]));
    });
}

/// Fields that a document may leave out, leave empty, or fill.
fn optional_fields(list: &mut List) {
    let rules = "V-2.1 V-2.4 V-3.20 V-4.6";
    let about = "an indefinite map without any optional field, a low S";
    list.add("shape/fields-absent", rules, about, Accepted, |case| {
        whole(case);
        case.forge.document.open = true;
        case.forge.document.high_s = false;
        ["public_key", "user_data", "nonce"].iter().for_each(|name| case.forge.document.remove(name));
    });
    let about = "an indefinite map with empty optional fields, a high S";
    list.add("shape/fields-empty", rules, about, Accepted, |case| {
        whole(case);
        case.forge.document.open = true;
        case.forge.document.high_s = true;
        ["public_key", "user_data", "nonce"].iter().for_each(|name| case.put(name, Cbor::bytes(b"")));
    });
    let about = "a nonce of 1025 bytes, which AWS has signed and does not document";
    list.add("shape/nonce-1025", "V-2.1 V-2.18", about, Accepted, |case| {
        whole(case);
        case.forge.document.open = true;
        case.put("nonce", Cbor::Bytes(vec![5; 1025]));
    });
}

/// A leaf lives for three hours from its first document on, here from 11:00 to 14:00, and signs many.
fn leaves(list: &mut List) {
    let first = NOW - 3600;
    let about = "a document three seconds after its leaf began, judged by a clock that is four seconds slow";
    list.add("shape/leaf-just-issued", "V-4.2 V-4.4", about, Accepted, |case| {
        whole(case);
        case.forge.document.open = true;
        case.put("timestamp", Cbor::Unsigned((first + 3) * 1000 + 407));
        case.at_ms = (first - 1) * 1000;
    });
    let about = "a document in the last second of its leaf, judged in that second";
    list.add("shape/leaf-about-to-end", "V-4.3 V-4.4", about, Accepted, |case| {
        whole(case);
        case.forge.document.open = true;
        case.put("timestamp", Cbor::Unsigned((first + 10_800) * 1000 + 3));
        case.at_ms = (first + 10_800) * 1000 + 900;
    });
}
