#!/usr/bin/env python3
"""The channel's vectors, computed from docs/protocol.md alone (standard library only).

Prints channel.json. The Rust code computes the same values in a test; two implementations agree, or one is wrong.
"""
import hashlib
import hmac
import json
import struct


def lp(*fields):
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def frame(kind, body):
    return bytes([kind]) + struct.pack(">I", len(body)) + body


def sha384(data):
    return hashlib.sha384(data).digest()


def case(name, release, lease):
    nonce = bytes(range(32))
    binder = bytes(range(32, 64))
    enclave_leaf, partner_leaf = sha384(b"enclave leaf"), sha384(b"partner leaf")
    suite_and_group = bytes.fromhex("130211ec")
    model_id = b"demo"
    model_digest = hashlib.sha256(b"model").digest()
    receipt_key = bytes.fromhex("302a300506032b6570032100") + bytes(range(64, 96))
    document, signature = b"a document", bytes(range(96, 160))

    transcript = sha384(lp(b"cleanroom/channel/1", b"server-attest", nonce, binder, enclave_leaf, partner_leaf,
                           b"cleanroom/1", suite_and_group, model_id, model_digest, release, lease, receipt_key))
    user_data = lp(b"cleanroom/channel/1", transcript)
    public = sha384(lp(b"cleanroom/attestation/1", nonce, model_id, model_digest, release, lease, receipt_key))

    hello = frame(1, lp(nonce, model_id))
    unsigned = lp(document, b"", b"", model_digest)
    evidence = frame(2, unsigned + lp(signature))
    signed = lp(b"server-finished", transcript, sha384(hello + unsigned))
    finished_key = bytes(range(160, 208))
    finished = hmac.new(finished_key, sha384(hello + evidence), hashlib.sha384).digest()

    def once(data):
        return sha384(bytes(48) + sha384(data))

    return {
        "name": name,
        "input": {
            "nonce": nonce.hex(), "binder": binder.hex(), "enclave_leaf_sha384": enclave_leaf.hex(),
            "partner_leaf_sha384": partner_leaf.hex(), "cipher_suite": "1302", "group": "11ec",
            "model_id": model_id.decode(), "model_digest": model_digest.hex(), "release": release.hex(),
            "lease": lease.hex(), "receipt_key": receipt_key.hex(), "document": document.hex(),
            "signature": signature.hex(), "finished_key": finished_key.hex(),
        },
        "output": {
            "server_exporter_context": lp(b"server", nonce).hex(),
            "client_exporter_context": lp(b"client", nonce).hex(),
            "transcript": transcript.hex(),
            "channel_user_data": user_data.hex(),
            "public_user_data": lp(b"cleanroom/attestation/1", public).hex(),
            "hello_frame": hello.hex(),
            "evidence_frame": evidence.hex(),
            "server_finished_message": signed.hex(),
            "finished_frame": frame(3, finished).hex(),
            "pcr16": once(lp(b"cleanroom/pcr/model/1", model_digest)).hex(),
            "pcr17": once(lp(b"cleanroom/pcr/receipt-key/1", receipt_key)).hex(),
        },
    }


if __name__ == "__main__":
    digest = hashlib.sha256(b"release").digest()
    lease = hashlib.sha256(b"lease").digest()
    cases = [case("without a release", b"", b""), case("with a release and a lease", digest, lease)]
    print(json.dumps({"protocol": "cleanroom/1", "cases": cases}, indent=2))
