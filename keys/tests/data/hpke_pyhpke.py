"""Seals with pyhpke 0.6.5 (MIT) what tests/hpke.rs opens, and has it open what the test has to seal byte for byte.

    pip install pyhpke==0.6.5 && python3 hpke_pyhpke.py > hpke_pyhpke.json

The ephemeral key is recorded too: whoever seals with the same one must make the same bytes, and this program opens them.
"""

import hashlib
import json

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey, KEMKeyPair

SUITE = CipherSuite.new(KEMId.DHKEM_P256_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)


def pair(name):
    secret = hashlib.sha256(name.encode()).digest()
    key = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return secret, point, KEMKey.from_pyca_cryptography_key(key), KEMKey.from_pyca_cryptography_key(key.public_key())


vectors = []
for number, length in enumerate([0, 1, 4, 15, 16, 17, 100, 500, 1000, 2000]):
    secret, point, private, public = pair(f"receiver {number}")
    seed, _, ephemeral, ephemeral_public = pair(f"ephemeral {number}")
    info, aad = f"info {number}".encode() * number, f"aad {number}".encode() * (number % 3)
    plaintext = bytes((number + at) % 256 for at in range(length))
    enc, sender = SUITE.create_sender_context(public, info, eks=KEMKeyPair(ephemeral, ephemeral_public))
    ct = sender.seal(plaintext, aad)
    assert SUITE.create_recipient_context(enc, private, info).open(ct, aad) == plaintext
    row = dict(private=secret, public=point, ephemeral=seed, info=info, aad=aad, plaintext=plaintext, enc=enc, ct=ct)
    vectors.append({name: value.hex() for name, value in row.items()})
print(json.dumps(vectors, indent=1))
