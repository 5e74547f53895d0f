"""The columns of the tables behind the assets, for the catalogue: (name, type, meaning), keys with a `*`."""

ORG = ("org_id*", "varchar(255)", "the org; every statement of ours carries it")

ITEM_FEATURES = (
    ORG,
    ("item_id*", "uuid", "an original of `public.knowledge_items`"),
    ("content_hash", "varchar(64)", "SHA-256 of the content the features were computed from"),
    ("class_key", "bytea", "equal for items whose normalised text and scope are equal"),
    ("signature", "bytea", "MinHash of the normalised text"),
    ("discriminators", "jsonb", "numbers, versions, flags, code tokens and negations of the text"),
    ("embedding", "vector(384)", "the embedding until it is published to the item's own row"),
    ("stamp", "text", "extractor and embedding model; another value than the current one means due"),
    ("probed_stamp", "text", "stamp under which the item last looked for candidates"),
    ("settled_stamp", "text", "stamp under which the item was last clustered"),
    ("topic_stamp", "text", "stamp under which the item was last placed in a topic"),
)

CANDIDATE_PAIRS = (
    ORG,
    ("a_id*", "uuid", "the smaller id of the pair"),
    ("b_id*", "uuid", "the larger id of the pair"),
    ("a_hash", "varchar(64)", "content hash of `a` when compared"),
    ("b_hash", "varchar(64)", "content hash of `b` when compared"),
    ("comparison", "jsonb", "similarities and vetoes; no text"),
    ("probability", "double precision", "that both say the same, in [0, 1]"),
    ("decision", "text", "`duplicate`, `possible` or `distinct`"),
    ("reason", "text", "reason code of the decision"),
    ("stamp", "text", "matching fingerprint under which it was decided"),
)

MATCHING_EVALUATION = (
    ("kind*", "text", "what differs between the notes of a pair, as the golden set names it"),
    ("pairs", "integer", "golden pairs of this kind"),
    ("same", "integer", "those whose notes state the same"),
    ("merged", "integer", "those that matching merges without a question"),
    ("wrong", "integer", "merged although their notes state different things"),
    ("possible", "integer", "those left to the LLM or a reviewer, vetoed ones included"),
    ("vetoed", "integer", "those that a veto keeps apart"),
)

MERGES = (
    ORG,
    ("duplicate_id*", "uuid", "the expired item; it has exactly one canonical"),
    ("canonical_id", "uuid", "the live item that stands for it"),
    ("expired_at", "timestamptz", "when the duplicate was expired"),
    ("is_legacy", "boolean", "imported from the tags a HiveMind server wrote before us"),
    ("run_id", "uuid", "the run that merged"),
    ("stamp", "text", "matching fingerprint that supports the merge"),
)

CONTRADICTION_CASES = (
    ORG,
    ("case_id*", "uuid", "follows from org and item set, so that a set has one case"),
    ("category", "text", "category of the items"),
    ("detector", "text", "what found the conflict, such as `signals`"),
    ("status", "text", "`open`, `resolved` or `dismissed`"),
    ("outcome", "text", "what the reviewer decided"),
    ("evidence", "jsonb", "ids and scores behind the case; no text"),
    ("signal_id", "uuid", "the one `contradiction_cluster` signal of the case"),
    ("opened_at", "timestamptz", "when the case was opened"),
    ("decided_at", "timestamptz", "when it was decided; empty while open"),
    ("decided_by", "text", "who decided"),
    ("run_id", "uuid", "the run that opened it"),
    ("stamp", "text", "contradiction fingerprint"),
)

TOPIC_CLUSTERS = (
    ORG,
    ("fingerprint*", "varchar(64)", "over sources, their hashes, method, prompt and model"),
    ("category", "text", "category of the members"),
    ("framework", "text", "scope of the members"),
    ("language", "text", "scope of the members"),
    ("version", "text", "scope of the members; versions are never mixed"),
    ("medoid_id", "uuid", "the member nearest to all others"),
    ("stamp", "text", "summary fingerprint and model"),
)

SUMMARIES = (
    ORG,
    ("summary_id*", "uuid", "the row of `public.knowledge_items` that holds the text"),
    ("fingerprint", "varchar(64)", "the topic it was written for; one summary per fingerprint"),
    ("content_hash", "varchar(64)", "SHA-256 of the text"),
    ("method", "text", "`llm` or `extractive`"),
    ("model", "text", "what wrote it"),
    ("prompt_version", "text", "the prompt it was written with"),
    ("stamp", "text", "summary fingerprint"),
    ("pii_stamp", "text", "fingerprint of the gate it passed"),
    ("run_id", "uuid", "the run that published it"),
    ("retired_reason", "text", "reason code once it is expired"),
)

PRESCREENS = (
    ORG,
    ("pending_id*", "uuid", "a row of `public.pending_contributions`"),
    ("content_hash", "varchar(64)", "hash of the content that was scored"),
    ("score", "double precision", "preliminary quality in [0, 1]"),
    ("is_low_quality", "boolean", "below `prescreen.low_quality_below`; a label, the row stays queued"),
    (
        "document",
        "jsonb",
        "the same as `tags.prescreen`: labels with ids, numbers and codes; empty without any",
    ),
    ("value", "double precision", "what a look is worth, the product of `parts`; the queue is sorted by it"),
    (
        "parts",
        "jsonb",
        "quality, sense (1 - noise), novelty (1 - nearest duplicate) and care, each in [0, 1]",
    ),
    ("is_marked", "boolean", "we set `is_sensitive_flagged`, which `prescreen.flag_sensitive` asks for"),
    ("label_stamp", "text", "policy, models and scanner the labels depend on"),
    ("stamp", "text", "quality fingerprint"),
)

RUNS = (
    ("run_id*", "uuid", "one org's part of a run; the ledger names it with every effect"),
    ("org_id", "varchar(255)", "the org; empty for a quality run, which covers all"),
    ("job", "text", "`distillation`, `quality` or `erasure`"),
    ("status", "text", "`running`, `finished` or `failed`"),
    ("as_of", "timestamptz", "the instant every step of the run calculates with"),
    ("finished_at", "timestamptz", "empty while running"),
    ("dagster_run_id", "text", "the run in this UI"),
    ("backfill_id", "text", "the backfill it belongs to; `undo --run` takes it whole"),
    ("policy_version", "text", "the policy document in `distillation.policies`"),
    ("stamps", "jsonb", "fingerprints of the policy's section groups"),
    ("counts", "jsonb", "counts of every stage"),
    ("allowed", "jsonb", "breakers that were lifted for this run"),
)

QUALITY_SCORES = (
    ("id*", "uuid", "a live row of `public.knowledge_items`"),
    ("quality_score", "double precision", "in [0, 1]; written only when it moves enough to be seen"),
    ("retrievals", "double precision", "of it and its merged duplicates; in `distillation.quality_inputs`"),
    ("helpful", "double precision", "votes for it, less those that the policy does not count"),
    ("not_helpful", "double precision", "votes against it, less those that the policy does not count"),
    ("signals", "bigint", "all its signals but `contradiction_cluster`"),
    ("contradictions", "bigint", "of them, `contradiction`"),
    ("accessed_at", "timestamptz", "newest retrieval or outcome signal, else its approval"),
    ("is_current", "boolean", "not yet invalid when it was scored"),
    ("day", "date", "the UTC day it was last scored; freshness decays by days"),
    ("stamp", "text", "quality fingerprint"),
)

PII_SCANS = (
    ORG,
    ("item_id*", "uuid", "a live original that was scanned"),
    ("content_hash", "varchar(64)", "SHA-256 of the content that was scanned"),
    ("counts", "jsonb", "findings by type, `{}` for none; neither words nor places"),
    ("stamp", "text", "the scanner; another value than the current one means due"),
    ("scanned_at", "timestamptz", "when it was scanned"),
)

TOMBSTONES = (
    ORG,
    ("item_id*", "uuid", "an item whose absence was carried through"),
    ("kind", "text", "`deleted` (its owner's soft delete), `gone` (hard-deleted) or `erased`"),
    ("at", "timestamptz", "when it was noticed"),
    ("run_id", "uuid", "the run that carried it through"),
)
