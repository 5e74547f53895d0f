"""Opposites: words of which a statement holds one or the other, so that two statements can conflict."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files

from hivemind_pipelines.core.kinship import stem
from hivemind_pipelines.core.lexicon import words

#: Past forms that no ending betrays.
_IRREGULAR = {
    past: verb
    for past, _, verb in (
        pair.partition(":")
        for pair in words(
            """
            sent:send kept:keep built:build written:write held:hold lost:lose ran:run chosen:choose hidden:hide
            broken:break forbidden:forbid given:give taken:take made:make found:find left:leave bound:bind
            thrown:throw threw:throw shown:show frozen:freeze overridden:override drawn:draw wrote:write
            said:say told:tell paid:pay spent:spend shrunk:shrink slept:sleep woken:wake bought:buy sold:sell
            got:get began:begin begun:begin fell:fall fallen:fall rose:rise risen:rise
            brought:bring caught:catch taught:teach thought:think meant:mean led:lead read:read sat:sit stood:stand
            """
        )
    )
}


#: Names that an ending would turn into another word.
_NAMES = words("stripe redis kubernetes postgres sentry")


def root(word: str) -> str:
    """The stem by which the forms of a word are one."""
    return word if word in _NAMES else stem(_IRREGULAR.get(word, word))


def _axes(table: Mapping[str, str]) -> dict[str, tuple[tuple[str, int], ...]]:
    """The stem of each word with the axes it lies on and its side, from `plus words | minus words` by axis."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for name, sides in table.items():
        for side, sign in zip(sides.split("|"), (1, -1), strict=True):
            for key in map(root, side.split()):
                found[key] = tuple(dict.fromkeys((*found.get(key, ()), (name, sign))))
    return found


def _alternatives(table: Mapping[str, str]) -> dict[str, tuple[tuple[str, int], ...]]:
    """Each word, and its stem, with the kinds of value it is one of and its number there; `=` joins synonyms."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for kind, line in table.items():
        for number, member in enumerate(line.split()):
            for key in dict.fromkeys(form for word in member.split("=") for form in (word, root(word))):
                found[key] = (*found.get(key, ()), (kind, number))
    return found


_TABLES = tomllib.loads(files(__package__).joinpath("opposites.toml").read_text("utf-8"))

#: Axes whose minus side turns a statement round by itself, as a negation does.
POLAR = _axes(_TABLES["polar"])

#: Axes that count only where both statements name a side of them.
PAIRED = _axes(_TABLES["paired"])

#: Opposite tasks: named as an instruction they are two notes, stated of a thing they conflict.
TASKS = _axes(_TABLES["tasks"])

#: Values of one kind, of which a place takes one.
ALTERNATIVES = _alternatives(_TABLES["alternatives"])

#: Stems that say one thing wherever two statements are held against each other, by the number of their group.
SAME = {root(word): number for number, line in enumerate(_TABLES["same"].values()) for word in line.split()}

#: Words that turn the statement round.
NEGATORS = words(
    """
    not no never none neither nor cannot without nothing nobody nowhere forget forgets free lacks lacking
    must-not refuse-to
    """
)

#: Words that tie a consequence to what is not done: how the sentence is meant depends on its build.
EXCEPTIONS = words("unless except otherwise else or")

#: Verbs with which a change note begins: it tells what was done and claims nothing.
EVENTS = words(
    """
    bump update upgrade downgrade release publish revert fix refactor increment merge implement improve rename
    replace clean move prepare port migrate switch introduce rewrite extract autogenerate distinguish attempt
    drop deprecate convert simplify auto
    """
)

#: Groups of which a statement names one as its scope: of two, both may be true.
SCOPES = {
    word: number
    for number, line in enumerate(
        """production prod staging development dev test testing local preview sandbox
        linux macos windows ubuntu debian fedora alpine android ios freebsd mac
        free team pro enterprise paid basic premium trial starter business
        get post put patch delete head
        eu us asia europe america apac uk germany france
        primary replica secondary standby leader follower master slave
        admin admins administrator administrators guest guests member members owner owners contractor \
contractors employee employees
        mobile desktop web tablet browser
        weekday weekdays weekend weekends saturday sunday
        small large medium huge tiny
        read write connect idle
        unit integration e2e smoke
        internal external
        summer winter
        inbound outbound ingress egress
        ipv4 ipv6
        amd64 arm64 x86 arm
        chrome firefox safari edge
        tcp udp
        customers suppliers vendors partners
        minor major
        cold warm hot
        interactive batch
        monthly annual yearly
        json xml csv yaml
        python javascript java ruby rust go typescript kotlin php
        mysql postgresql postgres sqlite mongodb redis mariadb""".splitlines()
    )
    for word in line.split()
}

#: Words that say when a statement began or ceased to hold.
CURRENCY_WORDS = words("now nowadays currently anymore formerly previously originally newly recently today")

#: Prefixes that turn round a word which the other text has without them.
PREFIXES = ("un", "non-", "non", "in", "im", "ir", "il", "dis", "de", "mis")
