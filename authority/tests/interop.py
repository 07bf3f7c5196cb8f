"""What this program signs, `securesystemslib` verifies; what `securesystemslib` signs goes back to be verified here.

Usage: interop.py FOLDER. The folder holds a root and what was signed under it; this script verifies each envelope under the keys that the
root names for it, and writes `their.json`: a release that securesystemslib signed with the keys `a.pem` (Ed25519) and `c.pem` (P-384).
"""

import base64
import json
import pathlib
import sys

import jsonschema
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

SCHEMAS = pathlib.Path(__file__).parents[2] / "docs" / "schema"
RELEASE = "application/vnd.cleanroom.release.v1+json"


def schema(name):
    loaded = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(loaded)
    return loaded


def keys_of(root, role):
    """The role's keys, under the key ids that our envelopes use."""
    import hashlib

    keys = []
    for key in root["keys"]:
        if key["name"] in root["roles"][role]["keys"]:
            spki = base64.b64decode(key["spki"])
            keys.append(SSlibKey.from_crypto(load_der_public_key(spki), keyid=hashlib.sha256(spki).hexdigest()))
    return keys


def verify(folder, root, name, role):
    text = json.loads((folder / f"{name}.json").read_text())
    jsonschema.validate(text, schema("envelope"))
    envelope = Envelope.from_dict(text)
    payload = json.loads(envelope.payload)
    jsonschema.validate(payload, schema(envelope.payload_type.split(".")[2]))
    keys, threshold = keys_of(root, role), root["roles"][role]["threshold"]
    accepted = envelope.verify(keys, threshold)
    assert len(accepted) >= threshold

    envelope.payload += b" "
    try:
        envelope.verify(keys, threshold)
    except VerificationError:
        pass
    else:
        raise AssertionError("securesystemslib accepted a changed payload")
    print(f"verified {name}: {len(accepted)} keys")


def sign(folder):
    payload = (folder / "release.draft.json").read_bytes()
    envelope = Envelope(payload, RELEASE, {})
    for name in ("a", "c"):
        private = load_pem_private_key((folder / f"{name}.pem").read_bytes(), None)
        # Its own key ids, which are not ours.
        envelope.sign(CryptoSigner(private))
    (folder / "their.json").write_text(json.dumps(envelope.to_dict()))
    print("signed their.json")


def main():
    folder = pathlib.Path(sys.argv[1])
    root = json.loads(base64.b64decode(json.loads((folder / "root.json").read_text())["payload"]))
    for name, role in [("root", "root"), ("release", "release"), ("denial", "deny")]:
        verify(folder, root, name, role)
    for example in SCHEMAS.glob("*.example.json"):
        name = example.name.removesuffix(".example.json")
        jsonschema.validate(json.loads(example.read_text()), schema(name))
        print(f"example {name} fits its schema")
    sign(folder)


main()
