"""The command line: parses, calls, prints. One answer a command, one line when something is wrong."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn
from uuid import UUID

# The commands and all they import come after the words are parsed: --help must answer at once.
if TYPE_CHECKING:
    from hivemind_pipelines.commands import Answer

    Subparsers = argparse._SubParsersAction["_Parser"]

PROGRAM = "hivemind-pipelines"

SUCCESS = 0
FAILURE = 1
BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 success, 1 failure, 2 bad usage or bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and "--debug" not in words:
        sys.excepthook = _report_unexpected
    try:
        return _run(words)
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has left; what Python flushes at exit must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE


def _run(words: Sequence[str]) -> int:
    try:
        arguments = _parser().parse_args(words)
    except _UsageError as error:
        return _fail(str(error), BAD_INPUT, as_json="--json" in words)
    _start_logging(debug=arguments.debug)

    from hivemind_pipelines import commands

    try:
        with _stdout_for_the_answer_alone(as_json=arguments.json):
            home = import_module(f"hivemind_pipelines.{arguments.home}")
            answer: Answer = getattr(home, arguments.command)(arguments)
    except commands.INPUT_ERRORS as error:
        return _fail(str(error), BAD_INPUT, as_json=arguments.json)
    except commands.KNOWN_ERRORS as error:
        return _fail(str(error), FAILURE, as_json=arguments.json)
    for complaint in answer.complaints:
        _complain(complaint)
    _print(answer, as_json=arguments.json)
    return answer.exit_code


def _start_logging(*, debug: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


@contextmanager
def _stdout_for_the_answer_alone(*, as_json: bool) -> Iterator[None]:
    """With --json, what libraries print while a command works goes to standard error."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def _print(answer: "Answer", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.data, default=str))
    else:
        from hivemind_pipelines.presentation import open_console

        answer.show(open_console(sys.stdout))
    sys.stdout.flush()


def _fail(message: str, exit_code: int, *, as_json: bool) -> int:
    _complain(message)
    if as_json:
        print(json.dumps({"error": message}), flush=True)
    return exit_code


def _complain(message: str) -> None:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _report_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Name an error and its place only: its message may quote a row, and takes --debug."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None)
    code = f" (SQLSTATE {sqlstate})" if sqlstate else ""
    message = f"internal error: {kind.__name__}{code}{place}; --debug shows the traceback"
    _fail(message, FAILURE, as_json="--json" in sys.argv)


ABOUT = """\
The sleep of a knowledge commons: merges duplicates, opens contradiction cases, writes short grounded
summaries, pre-screens the review queue and carries every erasure through; in the background, org by
org, with a ledger of everything it did.
"""

SETTINGS_HELP = """\
settings, all optional, from the environment:
  HIVEMIND_DATABASE_URL       Postgres of a HiveMind server; unset: an embedded server
  HIVEMIND_HOME               data directory, default .hivemind
  HIVEMIND_POLICY_FILE        YAML file over the shipped policy
  HIVEMIND_ANTHROPIC_API_KEY  for confirming pairs and writing summaries; unset: no model is asked

exit codes: 0 success, 1 failure, 2 bad usage or bad input, 130 interrupted
"""

CATEGORIES = (
    "bug_fix",
    "config",
    "domain_expertise",
    "workaround",
    "pricing_data",
    "regulatory_rule",
    "tooling",
    "reasoning_trace",
    "failed_approach",
    "version_workaround",
    "general",
)

LOAD_ABOUT = f"""\
Load knowledge from a file of JSON lines, plain or gzip. A text is stored once per org, so loading a
file again changes nothing. A bad row is reported with its line number and reason, the rest load, and
the exit code is 2.

keys of a row; any other key is ignored:
  text or content      the knowledge itself; the only key that a row must have
  org                  at most 255 characters; default: --org
  id                   a UUID, or any other id, which always becomes the same UUID of that org;
                       default: follows from org and text
  category             {", ".join(CATEGORIES[:6])},
                       {", ".join(CATEGORIES[6:])}; default: general
  confidence           number from 0 to 1, default 0.8
  quality_score        number from 0 to 1, default 0.5
  source_agent_id      text, default "import"
  framework, language, version     texts
  tags                 any JSON
  contributed_at       ISO 8601, UTC when it names no offset; default: now
  retrieval_count, helpful_count, not_helpful_count     whole numbers, default 0
  is_public            true or false, default false
"""

STAGES = (
    "item_features",
    "duplicate_pairs",
    "duplicate_merges",
    "contradiction_cases",
    "topic_clusters",
    "cluster_summaries",
    "prescreened_contributions",
    "distillation_report",
)

DISTILL_ABOUT = f"""\
Run the distillation stages now, in this process, for every org or for the ones named, and print what
each stage did. Only what is due is worked on; when nothing is due, nothing is changed.

A plan that would expire too large a share of an org's items at once is refused with its numbers and
exit code 1: look at it with --dry-run, allow it once with --allow-mass-change.

stages: {", ".join(STAGES[:4])},
        {", ".join(STAGES[4:])}
"""

DEMO_ABOUT = """\
Load the rules that installed linters describe about themselves, distil them on the embedded Postgres
and show what came of it. Needs no key and no network. A second run finds nothing left to do.
"""

DEV_ABOUT = """\
Start the Dagster UI and its daemon on the configured or the embedded Postgres, migrated, with sensors
and schedules running. Prints the address; Ctrl-C stops everything.
"""

MIGRATE_ABOUT = """\
On an empty database, create the HiveMind tables and our own schema `distillation`. On the database of
a HiveMind server, only add: our schema, indexes it lacks, and a record of the merges and summaries
that the server made before. Nothing is dropped, renamed or rewritten; the second time is a no-op.
"""

UNDO_ABOUT = """\
Take back what a run or a whole backfill did, one merge, or one contradiction case: expiry, our own keys
in tags, our tables. What others changed since in other columns is no ground for refusal. What cannot be
taken back is named with its reason, the rest is done, and the exit code is 1.

A merge that was undone is remembered and not made again. An expired summary stays in the database.
Scores are put back where they are still ours; embeddings stay: they say the same of the same text.
An undo is a run itself, and can be undone by its own id.
"""

ERASE_ABOUT = """\
Remove what items say, for good: from their rows, which stay as tombstones, and from everything made of
them, in one transaction an org. Summaries of an erased item lose their text with it and are written again
from what is left; duplicates that followed it come back.

Then everything is searched for what may be left of it: each column of the database that could hold a text,
Dagster's own storage, and the files below HIVEMIND_HOME but those of the embedded server, which are read
as a database. Copies that others contributed are listed, not erased. The signed receipt is written below
HIVEMIND_HOME/erasures. An erased text is refused by `load` from then on.

exit code 1: something is left, the receipt says where; or, with --verify, the receipt does not hold.
"""

REVIEW_ABOUT = """\
What waits for a person: pairs that may be duplicates, and open contradiction cases, sorted by harm
(retrievals x confidence of their items). No threshold hides any. `decide` stores a verdict, which stands
above every detector while both texts stay as they are; the next run acts on it.

  review [list]              the queue, the precision of each detector by the verdicts so far, live items that
                             seem to give a model instructions, and the server's pending rows by the value of
                             a look at them
  review show ID             both texts, what differs, scores and reason
  review decide ID OUTCOME   same or distinct for a pair, for a case dismissed, resolved, update (the older expires),
                             version_fork (each holds for its version) or both_true_in_scope
"""

STATUS_ABOUT = """\
Show, per org: live, expired and pending rows, rows due by stage, open contradiction cases and the items in
them, rows that are stale by policy section, what was spent on a model today (UTC), and the last run.
"""

PLAN_ABOUT = """\
Hold a policy against what is stored and say what it would change, org by org and section by section:
merges made and unmade, cases opened and withdrawn, summaries rewritten, scores before and after, the
calls of a model with their tokens and money at most, the largest effects by id, and whether the
mass-change breaker would stop it. Reads only, in READ ONLY transactions; no model is loaded or called.

Comparisons are stored, so new thresholds need no text and no vector. What changes the features or the
search for candidates themselves is counted as items to compare anew: nobody knows their pairs yet.
"""

BACKFILL_ABOUT = """\
After a change of policy: find the orgs that another policy decided, show what bringing them back to
fresh comes to, ask, and do it. Merges that no longer hold are unmade and new ones made, cases withdrawn
or opened, summaries retired or rewritten, rows re-scored; what no section changed is not touched.

Where a Dagster daemon is alive it gets an asset backfill, tagged with the policy's version, and is
waited for; otherwise the same assets run in this process. Run it again after a failure, and it goes on
with what is still stale. Breaker and budgets hold; what they stop is named. `undo --run ID` takes the
whole backfill back.
"""

SECTIONS = ("matching", "contradiction", "summary", "pii", "quality")


#: The tasks whose production code exists; the same names as `evaluation.report.TASKS`.
EVALUATION_TASKS = ("duplicates", "contradictions", "pii", "secrets", "injection", "prescreen", "grounding")

EVALUATE_ABOUT = """\
Run production code on labelled files and print how right it was. Files are JSON lines, plain or gzip;
several are counted together and each by itself.

tasks and the keys of their rows:
  duplicates   pairs: text_a, text_b, label 1 or 0
               clusters: text, cluster, and org, op, ... as they are known; loaded into a scratch
               database on the configured or the embedded server, which is dropped afterwards
  contradictions
               text_a, text_b, label contradiction or any other word; split
  pii          text, spans [[start, end, type], ...]
  secrets      text, label 1 or 0, spans, neg_kind
  injection    text, or texts of one group and category, label 1 or 0
  prescreen    text, label 1, rejected or not_reproducible; 0 or accepted
  grounding    text_a (document), text_b (claim), label supported, partially_supported or not_supported

A model is asked about possible pairs when a key is set, within the budget of one run.
"""


class _UsageError(Exception):
    """The words do not parse; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix(PROGRAM).strip()
        raise _UsageError(f"{command}: {message} (see --help)" if command else f"{message} (see --help)")


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"{PROGRAM} {version(PROGRAM)}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description=ABOUT,
        epilog=SETTINGS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    _add(commands, "demo", "the main job on real knowledge, with nothing set up", DEMO_ABOUT)
    dev = _add(commands, "dev", "the Dagster UI with its daemon", DEV_ABOUT)
    dev.add_argument("--port", type=_port, default=3000, help="port on 127.0.0.1 (default: %(default)s)")
    _add(commands, "migrate", "create or upgrade the tables; only adds", MIGRATE_ABOUT)
    _add_load(commands)
    _add_distill(commands)
    _add(commands, "status", "how the commons stands, org by org", STATUS_ABOUT)
    _add_evaluate(commands)
    _add_undo(commands)
    _add_erase(commands)
    _add_review(commands)
    _add_policy(commands)
    _add_plan(commands)
    _add_backfill(commands)
    return parser


def _add_load(commands: "Subparsers") -> None:
    load = _add(commands, "load", "load a file of JSON lines, each text once", LOAD_ABOUT)
    load.add_argument("file", metavar="FILE", type=Path, help="JSON lines in UTF-8, plain or gzip")
    load.add_argument("--org", metavar="ORG", help="org of the rows that name none (default: default)")
    load.add_argument("--pending", action="store_true", help="load into the review queue")
    load.add_argument(
        "--unknown-category",
        metavar="CATEGORY",
        choices=CATEGORIES,
        help="give rows of any other category this one, instead of refusing them",
    )


def _add_distill(commands: "Subparsers") -> None:
    distill = _add(commands, "distill", "run the distillation stages now", DISTILL_ABOUT)
    distill.add_argument(
        "--org", metavar="ORG", action="append", default=[], help="only this org; may be repeated"
    )
    distill.add_argument("--stage", metavar="NAME", help="only this stage")
    distill.add_argument("--full", action="store_true", help="look at every row again, due or not")
    distill.add_argument(
        "--dry-run",
        action="store_true",
        help="plan and print, change nothing (features and pairs may be cached), count LLM calls instead "
        "of making them",
    )
    distill.add_argument(
        "--allow-mass-change",
        action="store_true",
        help="lift the mass-change breaker for this run; the ledger records it",
    )


def _add_evaluate(commands: "Subparsers") -> None:
    evaluate = _add(commands, "evaluate", "how right the decisions are, on labelled files", EVALUATE_ABOUT)
    evaluate.add_argument("task", metavar="TASK", choices=EVALUATION_TASKS, help=", ".join(EVALUATION_TASKS))
    evaluate.add_argument("files", metavar="FILE", type=Path, nargs="+", help="labelled rows")
    evaluate.add_argument(
        "--predictions", metavar="OUT.jsonl", type=Path, help="write every decision with its reason"
    )
    evaluate.add_argument(
        "--plot",
        metavar="OUT.png",
        type=Path,
        help="duplicates: draw precision against recall; pii: names found against clean texts touched",
    )
    evaluate.add_argument(
        "--redacted",
        metavar="OUT.tsv",
        type=Path,
        help="pii: list every value that is taken out, how often, and the words around it, for reading",
    )
    evaluate.add_argument(
        "--fit",
        action="store_true",
        help="duplicates, contradictions: fit the shipped model again, and try it with each data set, or style, "
        "left out in turn",
    )
    evaluate.add_argument(
        "--model", metavar="OUT.json", type=Path, help="where --fit writes to, instead of the shipped model"
    )
    evaluate.add_argument(
        "--readings",
        action="store_true",
        help="contradictions: --fit fits the cross-encoder and the weight of its readings, not the rules; takes a "
        "quarter of an hour and the extra `fit`",
    )
    evaluate.add_argument(
        "--verdicts",
        action="store_true",
        help="--fit learns from the reviewers' verdicts in the configured database too",
    )


def _add_policy(commands: "Subparsers") -> None:
    summary = "show the policy in force, compare a file with it, or check a file"
    policy = commands.add_parser("policy", help=summary, description=summary, allow_abbrev=False)
    actions = policy.add_subparsers(metavar="ACTION", required=True, title="actions")
    _add(actions, "show", "the policy in force, in the YAML that a policy file takes", command="policy_show")
    diff = _add(actions, "diff", "what FILE would change and what would become stale", command="policy_diff")
    validate = _add(
        actions, "validate", "whether FILE is a policy; exit code 2 when it is not", command="policy_validate"
    )
    for action in (diff, validate):
        action.add_argument("file", metavar="FILE", type=Path, help="a policy in YAML")


def _moment(spelled: str) -> datetime:
    """A moment with its time zone; a bare one is UTC."""
    found = datetime.fromisoformat(spelled)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _add_plan(commands: "Subparsers") -> None:
    plan = _add(commands, "plan", "what another policy would change; changes nothing", PLAN_ABOUT)
    plan.set_defaults(home="rollout")
    plan.add_argument(
        "--policy",
        metavar="FILE",
        type=Path,
        required=True,
        help="a policy in YAML, as HIVEMIND_POLICY_FILE takes it",
    )
    plan.add_argument(
        "--org", metavar="ORG", action="append", default=[], help="only this org; may be repeated"
    )
    plan.add_argument("--plot", metavar="OUT.png", type=Path, help="draw counts and scores before and after")


def _add_backfill(commands: "Subparsers") -> None:
    backfill = _add(commands, "backfill", "bring what another policy decided back to fresh", BACKFILL_ABOUT)
    backfill.set_defaults(home="rollout")
    backfill.add_argument(
        "--section", metavar="NAME", action="append", default=[], choices=SECTIONS,
        help=f"only this section; may be repeated: {', '.join(SECTIONS)}",
    )  # fmt: skip
    backfill.add_argument(
        "--org", metavar="ORG", action="append", default=[],
        help="only this org; may be repeated; quality scores are taken for all orgs or not at all",
    )  # fmt: skip
    backfill.add_argument("--yes", action="store_true", help="do not ask")
    backfill.add_argument(
        "--allow-mass-change",
        action="store_true",
        help="lift the mass-change breaker for this backfill; the ledger records it",
    )
    backfill.add_argument("--detach", action="store_true", help="leave it to the daemon, do not wait")


def _add_undo(commands: "Subparsers") -> None:
    undo = _add(commands, "undo", "take effects of ours back, exactly, from the ledger", UNDO_ABOUT)
    undo.set_defaults(home="curation")
    what = undo.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--run", metavar="RUN", help="all effects of a run or backfill: its id here or Dagster's"
    )
    what.add_argument("--merge", metavar="DUPLICATE_ID", type=UUID, help="the newest merge of this item")
    what.add_argument("--case", metavar="CASE_ID", type=UUID, help="the opening of this contradiction case")
    undo.add_argument("--dry-run", action="store_true", help="print what would be undone, change nothing")


def _add_erase(commands: "Subparsers") -> None:
    erase = _add(commands, "erase", "remove what items say, everywhere, and prove it", ERASE_ABOUT)
    erase.set_defaults(home="protection")
    erase.add_argument("ids", metavar="ITEM_ID", nargs="*", type=_item_id, help="what to erase")
    erase.add_argument("--reason", metavar="TEXT", help="why; only the receipt keeps it")
    erase.add_argument(
        "--with-copies",
        action="store_true",
        help="erase the same contributor's items too that say the same but for case, spacing and "
        "final punctuation",
    )
    erase.add_argument(
        "--verify", metavar="RECEIPT", type=Path, help="check a receipt and that what it says still stands"
    )


def _add_review(commands: "Subparsers") -> None:
    review = _add(commands, "review", "possible duplicates and cases, and what people decide", REVIEW_ABOUT)
    review.set_defaults(home="curation", command="review_list", org=None, limit=20, offset=0)
    actions = review.add_subparsers(metavar="ACTION", title="actions")
    waiting = _add_action(actions, "list", "what waits for a person, the most harmful first")
    show = _add_action(actions, "show", "one pair or case side by side")
    decide = _add_action(actions, "decide", "store a verdict")
    for parser in (review, waiting):
        parser.add_argument("--org", metavar="ORG", help="only this org (default: all)")
        parser.add_argument("--limit", metavar="N", type=_count, help="at most so many (default: 20)")
        parser.add_argument("--offset", metavar="N", type=_count, help="after so many (default: 0)")
    for parser in (show, decide):
        parser.add_argument("id", metavar="ID", help="id of a pair or case, or ITEM_ID:ITEM_ID")
    decide.add_argument(
        "outcome", metavar="OUTCOME", help="pair: same, distinct; case: dismissed, resolved, ..."
    )
    decide.add_argument(
        "--older",
        metavar="ITEM_ID",
        type=UUID,
        default=None,
        help="update, version_fork: the outdated item of the case",
    )
    decide.add_argument(
        "--at",
        metavar="TIME",
        type=_moment,
        default=None,
        help="version_fork: when the newer version begins (ISO 8601)",
    )
    decide.add_argument("--by", metavar="NAME", default="operator", help="who decided (default: operator)")


def _add_action(actions: "Subparsers", name: str, summary: str) -> "_Parser":
    # What `review` itself was given is not reset to a default by the action after it.
    parser = _add(actions, name, summary, command=f"review_{name}", argument_default=argparse.SUPPRESS)
    parser.set_defaults(home="curation")
    return parser


def _add(
    commands: "Subparsers",
    name: str,
    summary: str,
    about: str | None = None,
    *,
    command: str | None = None,
    argument_default: str | None = None,
) -> "_Parser":
    parser = commands.add_parser(
        name,
        help=summary,
        description=about or summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argument_default,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object; logs go to standard error"
    )
    parser.add_argument(
        "--debug", action="store_true", help="log more, and show tracebacks, which may quote item text"
    )
    parser.set_defaults(command=command or name, home="commands")
    return parser


def _item_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:80]!a} is no item id; expected a UUID") from None


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise argparse.ArgumentTypeError("expected a whole number, not negative")


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")


if __name__ == "__main__":
    sys.exit(main())
