"""Which part of the work a document serves."""

import hashlib

from safesail.domain.records import Split

_TRAIN, _CALIBRATION = 0.50, 0.65


def split_of(document_id: str, seed: int) -> Split:
    """`train` (50 %), `calibration` (15 %) or `test` (35 %), by a hash of id and seed: never by order."""
    digest = hashlib.blake2b(f"{seed}/{document_id}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < _TRAIN:
        return "train"
    return "calibration" if place < _CALIBRATION else "test"
