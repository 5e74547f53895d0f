"""Erasure: what stands in place of a text, the keyed names that remember it, and the receipt that proves it.

Keyed names are HMACs: whoever lacks the receipt key cannot try out which short text had been there.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Literal, NewType
from uuid import UUID

from hivemind_pipelines.core import text
from hivemind_pipelines.core.model import ItemId, OrgId

RECEIPT_FORMAT = "hivemind-erasure/1"

#: An HMAC in 64 hex digits.
KeyedName = NewType("KeyedName", str)

#: How a text is the same as an erased one: to the letter, or but for case, spacing and final punctuation.
Sameness = Literal["exact", "normalised"]

#: Why a receipt does not hold.
ReceiptFault = Literal["malformed", "wrong_key", "tampered"]

#: What no scan of ours can reach; part of every receipt.
OUT_OF_REACH = (
    "the write-ahead log of the database, its replicas and its backups",
    "dead row versions and index entries, until VACUUM has run",
    "log files of the database server, where it logs parameters of statements",
    "the LLM provider, where a text was sent to it",
    "copies that readers made before, and the contributor's own",
    "columns that the contract leaves to the server: category, framework, language, version, source_agent_id",
    "ids that `load` derived from a text that had none; a short text can be guessed from its id",
)


def tombstone_text(item_id: ItemId) -> str:
    """The content of an erased row; unlike an empty text it is unique in its org."""
    return f"[erased {item_id}]"


def keyed_name(key: bytes, purpose: str, *parts: str) -> KeyedName:
    """The HMAC-SHA256 of some parts for one purpose; equal parts under another purpose differ."""
    message = json.dumps([purpose, *parts]).encode()
    return KeyedName(hmac.new(key, message, hashlib.sha256).hexdigest())


def text_names(key: bytes, org_id: OrgId, content: str) -> dict[KeyedName, Sameness]:
    """The two names by which an org remembers an erased text: as it is, and in normal form."""
    normal = text.normalise(content)
    return {
        keyed_name(key, "normalised", org_id, text.content_hash(normal)): "normalised",
        keyed_name(key, "exact", org_id, text.content_hash(content)): "exact",
    }


def erased_as(key: bytes, org_id: OrgId, content: str, erased: Mapping[KeyedName, object]) -> Sameness | None:
    """How a text is the same as one of the org's erased ones, None when it is not."""
    found = {sameness for name, sameness in text_names(key, org_id, content).items() if name in erased}
    return "exact" if "exact" in found else "normalised" if found else None


def sign(receipt: Mapping[str, object], key: bytes) -> dict[str, object]:
    """The receipt with its signature; the key's own name tells a wrong key from a changed receipt."""
    signature = {"algorithm": "HMAC-SHA256", "key": key_name(key), "value": _signature(receipt, key)}
    return {**receipt, "signature": signature}


def receipt_fault(receipt: object, key: bytes) -> ReceiptFault | None:
    """Why a decoded receipt does not hold under a key; None when it was signed with it and is unchanged."""
    if not isinstance(receipt, dict) or receipt.get("format") != RECEIPT_FORMAT:
        return "malformed"
    signature = receipt.get("signature")
    if not isinstance(signature, dict) or not isinstance(signature.get("value"), str):
        return "malformed"
    if signature.get("key") != key_name(key):
        return "wrong_key"
    unsigned = {name: value for name, value in receipt.items() if name != "signature"}
    is_ours = hmac.compare_digest(_signature(unsigned, key).encode(), signature["value"].encode())
    return None if is_ours and _names_items(receipt) else "tampered"


def _names_items(receipt: Mapping[str, object]) -> bool:
    rows = receipt.get("erased")
    return isinstance(rows, list) and all(isinstance(row, dict) and _is_id(row.get("id")) for row in rows)


def _is_id(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


def key_name(key: bytes) -> str:
    """What a key may be called in public."""
    return keyed_name(key, "receipt key")[:16]


def _signature(receipt: Mapping[str, object], key: bytes) -> str:
    document = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key, b"receipt\n" + document.encode(), hashlib.sha256).hexdigest()
