"""What this program seals, pyca/cryptography opens; what pyca/cryptography seals goes back to be opened here.

Usage: sealed.py FOLDER. The folder holds models, `NAME.sealed` for each, and the key `weights.key`. This script opens each
sealed file, and writes `NAME.theirs`: the same model, sealed by pyca/cryptography with the same key.
"""

import pathlib
import sys

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor

CONTEXT = b"cleanroom/weights/1"

folder = pathlib.Path(sys.argv[1])
key = bytes.fromhex((folder / "weights.key").read_text())
for sealed in sorted(folder.glob("*.sealed")):
    model = sealed.with_suffix("").read_bytes()
    decryptor = Cobblestone256Decryptor(key, CONTEXT)
    opened = decryptor.update(sealed.read_bytes()) + decryptor.finalize()
    assert opened == model, sealed
    encryptor = Cobblestone256Encryptor(key, CONTEXT)
    theirs = encryptor.update(model) + encryptor.finalize()
    sealed.with_suffix(".theirs").write_bytes(theirs)
    print(f"opened {sealed.name}: {len(model)} bytes")
