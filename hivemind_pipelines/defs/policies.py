"""Policy sections as assets whose data version is their fingerprint: a change shows what became stale."""

from collections.abc import Iterable

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetsDefinition,
    DagsterInstance,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
)
from dagster._core.definitions.data_version import (
    DATA_VERSION_TAG,
    extract_data_version_from_entry,
    get_input_data_version_tag,
)

from hivemind_pipelines.core.policy import SECTION_GROUPS, DistillationPolicy, SectionGroup
from hivemind_pipelines.defs.glossary import Metadata
from hivemind_pipelines.defs.resources import Commons

GROUP = "policy"

_SECTIONS: dict[SectionGroup, tuple[str, ...]] = {
    "matching": ("matching",),
    "contradiction": ("contradiction",),
    "summary": ("summary", "topics"),
    "pii": ("pii",),
    "quality": ("quality", "prescreen"),
}

_DECIDES: dict[SectionGroup, str] = {
    "matching": "which items are blocked together, compared and taken for duplicates",
    "contradiction": "how contradiction signals are grouped into cases",
    "summary": "which items form a topic and how its summary is written",
    "pii": "what the gate in front of every stored generated text looks for, its rules and models included",
    "quality": "the weights of the quality score and when a pending row counts as low quality",
}


def policy_key(group: SectionGroup) -> AssetKey:
    """The asset key of a section group, such as `matching_policy`."""
    return AssetKey(f"{group}_policy")


def data_version(policy: DistillationPolicy, group: SectionGroup, scanner_stamp: str) -> str:
    """The fingerprint of the group; of pii the scanner's stamp, which covers its rules and models too."""
    return scanner_stamp if group == "pii" else policy.fingerprint(group)


def current_events(
    policy: DistillationPolicy, groups: Iterable[SectionGroup], scanner_stamp: str
) -> list[AssetMaterialization]:
    """Materialisations of the policy assets as a sensor may report them, without a run."""
    return [
        AssetMaterialization(
            policy_key(group),
            metadata=_metadata(policy, group, scanner_stamp),
            tags={DATA_VERSION_TAG: data_version(policy, group, scanner_stamp)},
        )
        for group in groups
    ]


def moved_groups(
    instance: DagsterInstance, policy: DistillationPolicy, scanner_stamp: str
) -> list[SectionGroup]:
    """The section groups whose current data version is not the one that was materialised last."""
    return [
        group
        for group in SECTION_GROUPS
        if _materialised(instance, group) != data_version(policy, group, scanner_stamp)
    ]


def observe(instance: DagsterInstance, commons: Commons) -> None:
    """Materialise the policies that moved, as the sensor does: what runs from now on is fresh under them."""
    policy, scanner = commons.policy, commons.current_models().scanner
    moved = moved_groups(instance, policy, scanner_stamp=scanner)
    for event in current_events(policy, moved, scanner_stamp=scanner):
        instance.report_runless_asset_event(event)


def is_outdated(instance: DagsterInstance, asset: AssetKey, group: SectionGroup) -> bool:
    """Whether an unpartitioned asset was last materialised under another fingerprint than was observed last."""
    observed = _materialised(instance, group)
    event = instance.get_latest_materialization_event(asset)
    materialisation = event.asset_materialization if event is not None else None
    used = (materialisation.tags or {}) if materialisation is not None else {}
    return observed is not None and used.get(get_input_data_version_tag(policy_key(group))) != observed


def _materialised(instance: DagsterInstance, group: SectionGroup) -> str | None:
    event = instance.get_latest_materialization_event(policy_key(group))
    version = extract_data_version_from_entry(event) if event is not None else None
    return version.value if version is not None else None


def _metadata(policy: DistillationPolicy, group: SectionGroup, scanner_stamp: str) -> Metadata:
    document = {name: getattr(policy, name).model_dump(mode="json") for name in _SECTIONS[group]}
    return {
        "fingerprint": MetadataValue.text(data_version(policy, group, scanner_stamp)),
        "policy_version": MetadataValue.text(policy.version),
        "sections": MetadataValue.json(document),
    }


def _policy_asset(group: SectionGroup) -> AssetsDefinition:
    @asset(
        key=policy_key(group),
        group_name=GROUP,
        kinds={"yaml", "pydantic"},
        owners=["team:knowledge-operations"],
        description=_description(group),
    )
    def policy_section(commons: ResourceParam[Commons]) -> MaterializeResult[None]:
        policy, scanner_stamp = commons.policy, commons.services.scanner.stamp
        version = DataVersion(data_version(policy, group, scanner_stamp))
        return MaterializeResult(metadata=_metadata(policy, group, scanner_stamp), data_version=version)

    return policy_section


def _description(group: SectionGroup) -> str:
    sections = " and ".join(f"`{name}`" for name in _SECTIONS[group])
    return (
        f"The policy in force, {sections}: {_DECIDES[group]}.\n\n"
        "Its data version is the fingerprint of these values. When they change, exactly the assets that "
        "depend on them show as stale, and their rows are due again. The backlog sensor materialises it "
        "as soon as the fingerprint moves.\n\n"
        "| key | meaning |\n|---|---|\n"
        "| `fingerprint` | 16 hex digits over the values; rows derived under it carry it as their stamp |\n"
        "| `policy_version` | 16 hex digits over the whole policy document |\n"
        "| `sections` | the values themselves |"
    )


policy_assets: list[AssetsDefinition] = [_policy_asset(group) for group in SECTION_GROUPS]
