"""Which part of the work a document serves."""

import hashlib

from safesail.domain.records import Split

TRAIN_SHARE = 0.60


def split_of(document_id: str, seed: int) -> Split:
    """`train` (60 % of the documents) or `test`, by a hash of id and seed: never by order."""
    digest = hashlib.blake2b(f"{seed}/{document_id}".encode(), digest_size=8).digest()
    return "train" if int.from_bytes(digest, "big") / 2**64 < TRAIN_SHARE else "test"
