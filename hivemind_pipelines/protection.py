"""The commands of people who protect data: erase, and verify what a receipt promises."""

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime

from rich.console import Console

from hivemind_pipelines import presentation
from hivemind_pipelines.commands import Answer, UsageError, connect
from hivemind_pipelines.core.model import ItemId
from hivemind_pipelines.settings import Settings, load_policy
from hivemind_pipelines.settings import load as load_settings
from hivemind_pipelines.stages import erasing
from hivemind_pipelines.stages.erasing import ErasureError, Issued, Office, Outcome, ReceiptError, Verified
from hivemind_pipelines.store.connection import Store

REASON_CHARACTERS_MAX = 2_000
NAMED = 20


def erase(arguments: argparse.Namespace) -> Answer:
    """Erase items, or verify a receipt."""
    if arguments.verify is not None:
        return _verify(arguments)
    reason = _reason(arguments.reason)
    if not arguments.ids:
        raise UsageError("erase: name at least one ITEM_ID, or a receipt with --verify (see --help)")
    settings = load_settings()
    policy = load_policy(settings)
    with connect(settings) as store:
        try:
            done = erasing.erase(
                _office(settings, store), policy, [ItemId(one) for one in arguments.ids],
                reason=reason, with_copies=arguments.with_copies, now=datetime.now(UTC),
            )  # fmt: skip
        except ErasureError as error:
            raise UsageError(str(error)) from None
    data = {
        "receipts": [{"file": str(one.file), **one.receipt} for one in done.issued],
        "already_erased": {str(item_id): _text(erasure) for item_id, erasure in done.already_erased.items()},
        "residue": {str(one.file): dict(one.residue) for one in done.issued if one.residue},
    }
    return Answer(
        data,
        lambda console: _show(console, done),
        tuple(_complaints(done)),
        exit_code=1 if data["residue"] else 0,
    )


def _reason(given: str | None) -> str:
    reason = " ".join((given or "").split())
    if not reason:
        raise UsageError("erase: --reason takes a text that says why; the receipt keeps it")
    if len(reason) > REASON_CHARACTERS_MAX:
        raise UsageError(f"erase: --reason is longer than {REASON_CHARACTERS_MAX:,} characters")
    return reason


def _office(settings: Settings, store: Store) -> Office:
    # Dagster takes seconds to import.
    from hivemind_pipelines.defs.erasure_office import office_of
    from hivemind_pipelines.defs.in_process import opened_instance

    with opened_instance(settings.home) as instance:
        return office_of(instance, settings, store)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _complaints(done: Outcome) -> list[str]:
    lines = []
    for one in done.issued:
        lines += [f"residue: {count:,} in {place}" for place, count in list(one.residue.items())[:NAMED]]
        scan = one.receipt["scan"]
        assert isinstance(scan, dict)
        if missed := scan["not_scanned"]:
            more = f" and {len(missed) - NAMED} more" if len(missed) > NAMED else ""
            lines.append(f"could not be scanned: {', '.join(missed[:NAMED])}{more}")
    return lines


def _show(console: Console, done: Outcome) -> None:
    for item_id, erasure in done.already_erased.items():
        by = f" (erasure {erasure})" if erasure else ""
        console.print(f"{item_id} is erased already{by}: nothing was changed", soft_wrap=True)
    for one in done.issued:
        _show_issued(console, one)


def _show_issued(console: Console, one: Issued) -> None:
    receipt = one.receipt
    erased, derived, copies = (_rows(receipt[name]) for name in ("erased", "derived", "copies"))
    console.print(
        f"org {presentation.printable(str(receipt['org_id']))}: {len(erased):,} erased,"
        f" {len(derived):,} summaries with them",
        soft_wrap=True,
    )
    removed = receipt["removed"]
    assert isinstance(removed, dict)
    for place, count in removed.items():
        console.print(f"  {count:>8,}  {place}", soft_wrap=True)
    for copy in copies[:NAMED]:
        whose = "same contributor" if copy["same_contributor"] else "another contributor"
        console.print(
            f"  copy, not erased: {copy['table']} {copy['id']} in org"
            f" {presentation.printable(str(copy['org_id']))}, {copy['state']}, {whose}",
            soft_wrap=True,
        )
    if len(copies) > NAMED:
        console.print(f"  {int(str(receipt['copies_total'])) - NAMED:,} more copies are in the receipt")
    left = sum(one.residue.values())
    console.print(f"residual scan: {f'{left:,} places left' if left else 'nothing is left'}")
    console.print(f"receipt: {one.file}", soft_wrap=True)


def _rows(value: object) -> list[Mapping[str, object]]:
    assert isinstance(value, list)
    return value


def _verify(arguments: argparse.Namespace) -> Answer:
    if arguments.ids or arguments.reason or arguments.with_copies:
        raise UsageError("erase: --verify takes a receipt and nothing else (see --help)")
    settings = load_settings()
    with connect(settings) as store:
        try:
            verified = erasing.verify(store, arguments.verify, settings.receipt_key)
        except ReceiptError as error:
            raise UsageError(str(error)) from None
    data = {
        "receipt": str(arguments.verify),
        "erasure_id": verified.receipt.get("erasure_id"),
        "valid": not verified.faults,
        "faults": list(verified.faults),
    }
    return Answer(
        data,
        lambda console: _show_verified(console, verified),
        tuple(f"{arguments.verify}: {fault}" for fault in verified.faults[:NAMED]),
        exit_code=1 if verified.faults else 0,
    )


def _show_verified(console: Console, verified: Verified) -> None:
    if verified.faults:
        console.print("the receipt does not hold")
        return
    rows = len(_rows(verified.receipt["erased"])) + len(_rows(verified.receipt["derived"]))
    console.print(
        f"the receipt holds: signed by us, unchanged, and its {rows:,} rows stand as erased", soft_wrap=True
    )
