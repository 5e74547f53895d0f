"""The demo's knowledge: what ruff, pylint, bandit and flake8-bugbear print about their own rules."""

import inspect
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from uuid import NAMESPACE_URL, uuid5

from hivemind_pipelines.core.model import Category, ItemId, OrgId

Tool = Literal["ruff", "pylint", "bandit", "bugbear"]

PLATFORM = OrgId("platform")
SECURITY = OrgId("security")
ORGS = (PLATFORM, SECURITY)

#: Import name of each tool's package; `bugbear` is what flake8-bugbear installs.
_PACKAGES: dict[Tool, str] = {"ruff": "ruff", "pylint": "pylint", "bandit": "bandit", "bugbear": "bugbear"}
_TOOL_TIMEOUT_S = 120


class DemoToolsMissing(RuntimeError):
    """The linters whose texts the demo distils are not installed; the message says how to install them."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A lint rule as its tool describes it: the message it prints and why; `explanation` may be empty."""

    tool: Tool
    code: str
    name: str
    category: Category
    message: str
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class RuleItem:
    """A text of a rule as an item of one org; rules that say the same word for word share the item."""

    id: ItemId
    org_id: OrgId
    rule: Rule
    text: str


def read_items() -> tuple[RuleItem, ...]:
    """Message and explanation of every rule as items, those of the first tool first.

    `platform` holds all tools but bandit, `security` bandit and ruff's S rules. Raises DemoToolsMissing.
    """
    _require_tools()
    rules = (*read_ruff(), *read_pylint(), *read_bugbear(), *read_bandit())
    return tuple(_placed(rules))


def item_id(org_id: OrgId, text: str) -> ItemId:
    """The id of a text in an org, the same on every machine."""
    return ItemId(uuid5(NAMESPACE_URL, f"hivemind-demo:{org_id}:{text}"))


def read_ruff() -> tuple[Rule, ...]:
    """ruff's rules as `ruff rule --all` prints them, without those that have no code or were removed."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or "ruff"
    entries = json.loads(_run([ruff, "rule", "--all", "--output-format", "json"]))
    return tuple(_ruff_rule(entry) for entry in entries if entry["code"] and "Removed" not in entry["status"])


def read_pylint() -> tuple[Rule, ...]:
    """pylint's messages as `pylint --list-msgs` prints them."""
    printed = _run([sys.executable, "-m", "pylint", "--list-msgs"])
    rules = {match["code"]: _pylint_rule(match) for match in _PYLINT_MESSAGE.finditer(printed)}
    return tuple(rules.values())


def read_bugbear() -> tuple[Rule, ...]:
    """flake8-bugbear's messages from the table its package ships."""
    import bugbear

    return tuple(
        Rule("bugbear", code, code, Category.BUG_FIX, _bugbear_message(code, error.message))
        for code, error in sorted(bugbear.error_codes.items())
    )


def read_bandit() -> tuple[Rule, ...]:
    """bandit's plugins by their docstrings and its blacklists by their messages."""
    # Loading bandit's plugins loads its output formats too, of which one logs an error for want of a package.
    logging.getLogger("stevedore.extension").setLevel(logging.CRITICAL)
    from bandit.core import extension_loader

    loaded = extension_loader.MANAGER
    plugins = [_bandit_plugin(entry.plugin, entry.name) for entry in loaded.plugins]
    blacklists = [_bandit_blacklist(code, entry) for code, entry in loaded.blacklist_by_id.items()]
    return tuple(sorted((*plugins, *blacklists), key=lambda rule: rule.code))


def fill(template: str, name: str) -> str:
    """A message template with every placeholder replaced by `name`.

    A parenthesis that holds nothing but placeholders goes, and so does one glued to a word
    (`except{0}`), which stands for an optional ending.
    """
    bare = _PLACEHOLDER_PARENTHESIS.sub("", template)
    return _PLACEHOLDER.sub(name, _GLUED_PLACEHOLDER.sub("", bare)).replace("%%", "%")


_PRINTF = r"%(?:\(\w+\))?[-#0 +]*\d*(?:\.\d+)?[srdfix]"
_BRACES = r"\{\w*(?:![rsa])?(?::[^{}]*)?\}"
_PLACEHOLDER = re.compile(rf"{_PRINTF}|{_BRACES}")
_GLUED_PLACEHOLDER = re.compile(rf"(?<=\w)(?:{_BRACES})+")
_PLACEHOLDER_PARENTHESIS = re.compile(rf"\s*\((?:\s|[<>=/,:]|{_PRINTF}|{_BRACES})+\)")

_PYLINT_MESSAGE = re.compile(
    r"^:(?P<name>[\w-]+) \((?P<code>[A-Z]\d{4})\): \*(?P<message>[\s\S]*?)\*\n(?P<description>(?:  .*\n)+)",
    re.MULTILINE,
)

_RUFF_CATEGORIES = {
    "correctness": Category.BUG_FIX,
    "suspicious": Category.BUG_FIX,
    "security": Category.DOMAIN_EXPERTISE,
    "performance": Category.DOMAIN_EXPERTISE,
}
_PYLINT_CATEGORIES = {"E": Category.BUG_FIX, "F": Category.BUG_FIX, "W": Category.BUG_FIX}


def _require_tools() -> None:
    missing = [tool for tool, package in _PACKAGES.items() if find_spec(package) is None]
    if missing:
        raise DemoToolsMissing(
            f"the demo reads the rules of {', '.join(missing)}, not installed here: "
            "pip install 'hivemind-pipelines[demo]', or run `make demo`"
        )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TOOL_TIMEOUT_S)
    return done.stdout


def _placed(rules: Iterable[Rule]) -> Iterator[RuleItem]:
    for rule in rules:
        for org_id in _orgs_of(rule):
            for text in filter(None, (rule.message, rule.explanation)):
                yield RuleItem(item_id(org_id, text), org_id, rule, text)


def _orgs_of(rule: Rule) -> tuple[OrgId, ...]:
    if rule.tool == "bandit":
        return (SECURITY,)
    return ORGS if is_ruff_security(rule) else (PLATFORM,)


def is_ruff_security(rule: Rule) -> bool:
    """Whether the rule is one of those that ruff took from bandit."""
    return rule.tool == "ruff" and re.fullmatch(r"S\d+", rule.code) is not None


def _ruff_rule(entry: dict[str, str]) -> Rule:
    sections = _markdown_sections(entry["explanation"])
    explanation = _joined((sections.get("What it does", ""), sections.get("Why is this bad?", "")))
    category = _RUFF_CATEGORIES.get(entry["category"], Category.TOOLING)
    message = _joined((fill(entry["summary"], entry["name"]),))
    return Rule("ruff", entry["code"], entry["name"], category, message, explanation)


def _markdown_sections(explanation: str) -> dict[str, str]:
    unquoted = re.sub(r"^> ?", "", explanation, flags=re.MULTILINE)
    without_code = re.sub(r"^ *```.*?^ *```", "", unquoted, flags=re.MULTILINE | re.DOTALL)
    headed = re.split(r"^## (.+)$", without_code, flags=re.MULTILINE)[1:]
    return {heading.strip(): _plain(body) for heading, body in zip(headed[::2], headed[1::2], strict=True)}


def _plain(markdown: str) -> str:
    unlinked = re.sub(r"\[([^\]\[]+)\](?:\[[^\]]*\]|\([^)]*\))", r"\1", markdown)
    without_targets = re.sub(r"^\[[^\]]+\]:.*$", "", unlinked, flags=re.MULTILINE)
    return " ".join(re.sub(r"(?<![\w`\]])\[([^\]\[]+)\](?![\w`])", r"\1", without_targets).split())


def _pylint_rule(match: re.Match[str]) -> Rule:
    category = _PYLINT_CATEGORIES.get(match["code"][0], Category.TOOLING)
    message = _joined((fill(match["message"], match["name"]),))
    return Rule("pylint", match["code"], match["name"], category, message, _joined((match["description"],)))


def _bugbear_message(code: str, message: str) -> str:
    # bugbear's rules have no names; `name` is what its placeholders stand for most often
    return _joined((fill(message.removeprefix(code).strip(), "name"),))


def _bandit_plugin(plugin: object, name: str) -> Rule:
    module = inspect.getmodule(plugin)
    described = inspect.getdoc(plugin) or (inspect.getdoc(module) if module else None) or ""
    prose = re.split(r"^(?:\*\*Config|:Example|See also|\.\. )", described, maxsplit=1, flags=re.MULTILINE)[0]
    issue = re.search(r">> Issue: (?:\[[^\]]*\]\s*)?(.+?)\n\s+Severity", described, flags=re.DOTALL)
    explanation = _joined((_plain_rst(prose),))
    message = _joined((issue[1],)) if issue else explanation
    code: str = getattr(plugin, "_test_id")  # noqa: B009
    return Rule("bandit", code, name, Category.DOMAIN_EXPERTISE, message, explanation if issue else "")


def _plain_rst(prose: str) -> str:
    unframed = re.sub(r"^[=\-]{4,}$", "", prose, flags=re.MULTILINE)
    untitled = re.sub(r"^\**B\d{3}: (.+?)\**$", r"\1.", unframed.strip(), flags=re.MULTILINE)
    unlinked = re.sub(r":\w+:`(?:[^`]*/)?([^`]*)`", r"`\1`", untitled)
    return " ".join(unlinked.replace("``", "`").split())


def _bandit_blacklist(code: str, entry: dict[str, str]) -> Rule:
    # bandit fills {name} with the call or import it met: the first it looks for stands for all
    message = _joined((fill(entry["message"], entry["qualnames"][0]),))
    return Rule("bandit", code, entry["name"], Category.DOMAIN_EXPERTISE, message)


def _joined(parts: Iterable[str]) -> str:
    sentences = dict.fromkeys(" ".join(part.split()).removesuffix(".") for part in parts if part.strip())
    return " ".join(part if part.endswith(("!", "?", ":")) else f"{part}." for part in sentences)
