"""Receipts between assets: one jsonb row per (asset, org) in Postgres; the rows themselves never travel."""

from datetime import UTC, datetime
from typing import get_args

from dagster import InputContext, IOManager, OutputContext

from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.defs.partitions import org_of
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.store import runs


class ReceiptIOManager(IOManager):
    """Stores `dict[str, XReceipt]` by org; an org without a stored receipt loads as an empty one."""

    def __init__(self, commons: Commons) -> None:
        self._commons = commons

    def handle_output(self, context: OutputContext, obj: dict[str, Receipt]) -> None:
        asset = context.asset_key.to_user_string()
        at = datetime.now(UTC)
        with self._commons.store.begin() as connection:
            for key in sorted(obj):
                payload = obj[key].model_dump(mode="json")
                runs.write_receipt(connection, asset, org_of(key), payload, at)

    def load_input(self, context: InputContext) -> dict[str, Receipt]:
        receipt_type = _receipt_type(context.dagster_type.typing_type)
        org_of_key = {key: org_of(key) for key in context.asset_partition_keys}
        with self._commons.store.read() as connection:
            stored = runs.read_receipts(
                connection, context.asset_key.to_user_string(), list(org_of_key.values())
            )
        return {
            key: receipt_type.model_validate(stored.get(org_id, {})) for key, org_id in org_of_key.items()
        }


def _receipt_type(annotation: object) -> type[Receipt]:
    arguments = get_args(annotation)
    if len(arguments) != 2 or not isinstance(arguments[1], type) or not issubclass(arguments[1], Receipt):
        raise TypeError("an input must be annotated as dict[str, <a receipt>]")
    return arguments[1]
