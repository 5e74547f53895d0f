"""What a stage is given: the store, one org, one instant, one policy and the outside services."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hivemind_pipelines.core import prescreen
from hivemind_pipelines.core.confirmation import CONFIRM_PROMPT_VERSION
from hivemind_pipelines.core.injection import suspicion_stamp
from hivemind_pipelines.core.model import ItemId, OrgId, RunId, TopicCluster
from hivemind_pipelines.core.policy import DistillationPolicy, PiiPolicy
from hivemind_pipelines.services.cross_encoder import CrossEncoder, MiniLmCrossEncoder
from hivemind_pipelines.services.embedding import Embedder, MiniLmEmbedder
from hivemind_pipelines.services.gliner_names import name_finders
from hivemind_pipelines.services.llm import ClaudeLlm, Llm
from hivemind_pipelines.services.pii import FindingScanner, GatedScanner, PiiScanner, without_persons
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.store import screening
from hivemind_pipelines.store.connection import Store

#: Called with (stage name, done, total) while a stage works through many rows.
Progress = Callable[[str, int, int], None]


def silent(_stage: str, _done: int, _total: int) -> None:
    """Report nothing."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Services:
    """The outside services of a run; `llm` is None without a key, `llm_model` names the model anyway.

    Reports are written below `reports_dir`, none without it. `cross_encoder` reads near pairs, `queue_scanner`
    looks at pending rows; with the receipt key those are told that say what was erased.
    """

    embedder: Embedder
    scanner: PiiScanner
    llm: Llm | None
    llm_model: str
    reports_dir: Path | None = None
    cross_encoder: CrossEncoder = field(default_factory=MiniLmCrossEncoder)
    queue_scanner: FindingScanner = field(default_factory=lambda: without_persons(PiiPolicy()))
    receipt_key: bytes | None = field(default=None, repr=False)


def build_services(settings: Settings, policy: DistillationPolicy) -> Services:
    """The real services as the settings name them; nothing heavy is loaded before its first use."""
    key = settings.anthropic_api_key
    llm = (
        ClaudeLlm(
            api_key=key.get_secret_value(),
            model=settings.llm_model,
            base_url=settings.anthropic_base_url,
            call_timeout_s=policy.safety.llm_call_timeout.total_seconds(),
        )
        if key is not None
        else None
    )
    scanner = GatedScanner(policy.pii, more_names=name_finders(settings.gliner_model))
    return Services(
        MiniLmEmbedder(), scanner, llm, settings.llm_model, settings.home / "reports",
        queue_scanner=scanner if policy.prescreen.detect_persons else without_persons(policy.pii),
        receipt_key=settings.receipt_key,
    )  # fmt: skip


def settled_stamp(policy: DistillationPolicy, llm_model: str) -> str:
    """The stamp of a clustering under a policy and the cached verdicts of a model."""
    return f"{policy.fingerprint('matching')}:{llm_model}:{CONFIRM_PROMPT_VERSION}"


def topic_stamp(policy: DistillationPolicy, llm_model: str) -> str:
    """The stamp of a placement in topics: what shapes them, and what keeps suspicious items out."""
    return f"{policy.fingerprint('summary')}:{summary_model(policy, llm_model)}:{suspicion_stamp()}"


def summary_model(policy: DistillationPolicy, llm_model: str) -> str:
    """The model that shapes the text of a summary."""
    return llm_model if policy.summary.method == "llm" else "extractive"


def screening_stamps(policy: DistillationPolicy, model_stamp: str, scanner_stamp: str) -> screening.Stamps:
    """The stamps of labels under a policy, an embedding model and a scanner."""
    return screening.Stamps(
        quality=policy.fingerprint("quality"),
        features=policy.feature_stamp(model_stamp),
        texts=prescreen.text_stamp(scanner_stamp),
        matches=prescreen.match_stamp(policy, model_stamp),
    )


@dataclass(slots=True)
class Planned:
    """What earlier stages of a dry run would have changed, seen by the later ones."""

    expired: set[ItemId] = field(default_factory=set)
    revived: set[ItemId] = field(default_factory=set)
    canonical_of: dict[ItemId, ItemId] = field(default_factory=dict)
    in_case: set[ItemId] = field(default_factory=set)
    out_of_case: set[ItemId] = field(default_factory=set)
    topics: dict[str, TopicCluster] | None = None


@dataclass(frozen=True, slots=True)
class StageContext:
    """One org's turn in one run."""

    store: Store
    org_id: OrgId
    run_id: RunId
    as_of: datetime
    policy: DistillationPolicy
    services: Services
    dry_run: bool = False
    full: bool = False
    allow_mass_change: bool = False
    planned: Planned = field(default_factory=Planned)
    progress: Progress = silent
    clock: Callable[[], datetime] = _now

    @property
    def feature_stamp(self) -> str:
        """The stamp of current item features."""
        return self.policy.feature_stamp(self.services.embedder.model_stamp)

    @property
    def probe_stamp(self) -> str:
        """The stamp of a current search for candidates."""
        return self.policy.probe_stamp(self.services.embedder.model_stamp)

    @property
    def screening_stamps(self) -> screening.Stamps:
        """The stamps of current labels of the review queue."""
        return screening_stamps(
            self.policy, self.services.embedder.model_stamp, self.services.queue_scanner.stamp
        )

    @property
    def settled_stamp(self) -> str:
        """The stamp of a current clustering: the policy, and whose verdicts settle what is possible."""
        return settled_stamp(self.policy, self.services.llm_model)

    @property
    def summary_model(self) -> str:
        """The model that shapes the text of a summary."""
        return summary_model(self.policy, self.services.llm_model)

    @property
    def topic_stamp(self) -> str:
        """The stamp of a current placement in topics."""
        return topic_stamp(self.policy, self.services.llm_model)
