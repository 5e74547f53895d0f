"""Opposites: words of which a statement holds one or the other, so that two statements can conflict."""

import re

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
            thrown:throw threw:throw shown:show frozen:freeze overridden:override
            """
        )
    )
}


def root(word: str) -> str:
    """The stem by which the forms of a word are one."""
    return stem(_IRREGULAR.get(word, word))


def _axes(text: str) -> dict[str, tuple[tuple[str, int], ...]]:
    """The stem of each word with the axes it lies on and its side, from `name: plus words | minus words`."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for line in re.split(r"\n(?= *\w+: )", text.strip()):
        name, sides = line.split(":", 1)
        for side, sign in zip(sides.split("|"), (1, -1), strict=True):
            for key in map(root, side.split()):
                found[key] = tuple(dict.fromkeys((*found.get(key, ()), (name.strip(), sign))))
    return found


#: Axes whose minus side turns a statement round by itself, as a negation does.
POLAR = _axes(
    """
    switch: enable activate turn-on opt-in | disable deactivate turn-off suppress opt-out
    permission: allow permit accept grant authorise authorize tolerate approve let
        | decline veto deny forbid reject refuse block prohibit disallow ban disapprove
    support: support available included built-in bundled provided exist
        | unsupported unavailable missing lack absent
    demand: require need mandatory compulsory obligatory necessary essential must shall obliged
        | exempt optional unnecessary unneeded needless voluntary superfluous optionally needn't
    safety: safe harmless secure safely | corrupt damage harm unsafe dangerous harmful insecure risky unsound
    amount: increase raise grow boost bump enlarge higher bigger larger longer rise
        | decrease reduce lower shrink lessen smaller shorter cut fall
    speed: fast faster quick quicker quickly accelerate | slow slower slowly
    keep: keep preserve retain survive persist maintain remain stay forward
        | gone vanish disappear invalidate evict flush truncate remove delete strip drop discard lose purge
        erase wipe destroy
    success: succeed work pass success harmless | fail crash break abort error throw exception
    advice: recommend prefer advise encourage recommended preferred
        | discourage avoid discouraged avoided
    currency: current supported maintained | deprecate obsolete abandoned deprecated
    end: start begin continue proceed resume | stop cease halt quit pause
    heed: honour honor respect obey process | ignore skip disregard
    possible: possible able suitable enough sufficient | impossible unable unsuitable insufficient
    effect: affect apply | unaffected
    guard: protect | expose
    correct: correct right valid | incorrect wrong invalid
    """
)

#: Axes that count only where both statements name a side of them.
PAIRED = _axes(
    """
    timing: synchronous synchronously sync blocking | asynchronous asynchronously async non-blocking nonblocking
    effort: automatic automatically auto automated | manual manually hand
    laziness: eager eagerly upfront | lazy lazily on-demand
    access: public publicly | private privately
    place: local locally | remote remotely global globally
    side: client browser frontend client-side | server backend server-side
    change: mutable editable | immutable
    case: sensitive case-sensitive | insensitive case-insensitive
    locking: optimistic | pessimistic
    rigour: strict strictly | lenient loose loosely
    binding: static statically | dynamic dynamically
    state: stateful | stateless
    order: ordered sorted order | unordered unsorted
    secrecy: encrypted encrypt | plaintext unencrypted cleartext
    sphere: internal internally | external externally
    sharing: share shared common | own separate dedicated isolated individual
    maturity: stable | unstable experimental
    bounds: inclusive inclusively | exclusive exclusively
    direction: ascending | descending
    extent: full fully complete completely | incremental partial partially
    door: open reachable accessible exposed | close closed unreachable inaccessible
    sight: visible shown show | hidden invisible hide
    membership: include including contain | exclude excluding omit
    rank: first | last
    duration: permanent permanently durable | temporary temporarily ephemeral transient
    price: cheap cheaper free | expensive costly paid
    worth: better best | worse worst
    level: high | low
    mood: online | offline
    lanes: serial serially sequential sequentially single-threaded
        | parallel concurrent concurrently multi-threaded multithreaded
    rights: writable read-write | read-only readonly
    amount_of: more most | less least fewer
    breadth: every everyone everybody anyone any all everything | only solely none nobody
    often: always | never sometimes rarely
    leave: may might can could optional optionally | must shall required mandatory have-to
    give: add append insert attach | remove delete detach
    life: create | delete destroy
    latency: immediate immediately instantly | delayed later eventually
    tolerance: ignore skip accept tolerate | fail error reject raise
    push: push | pull poll
    length: long | short
    truth: true yes | false no
    whole: whole entire | part
    height: above over exceed | below under within
    unity: single one | multiple several many
    age: new newer newest latest | old older oldest
    way: up upward upwards | down downward downwards
    reach: only solely | also too
    share: most many all every | few some half
    choice: both | either
    persistence: retry retried | give-up
    storage: hash hashed | plain
    handling: buffer buffered | unbuffered stream streamed pass-through
    """
)

#: Opposite tasks: named as an instruction they are two notes, stated of a thing they conflict.
TASKS = _axes(
    """
    running: start launch run | stop kill terminate
    setup: install | uninstall
    trade: import | export
    transfer: upload | download
    packing: compress zip pack archive | decompress unzip unpack extract
    cipher: encrypt | decrypt
    code: encode | decode
    latch: lock | unlock
    mounting: mount | unmount umount
    joining: join merge | split
    link: connect attach | disconnect detach
    grant: grant | revoke
    making: create make | delete destroy remove
    adding: add | remove delete
    showing: show | hide
    opening: open | close
    staging: stage | unstage
    moving: push | pull
    enabling: enable | disable
    """
)

#: Words that turn the statement round.
NEGATORS = words(
    """
    not no never none neither nor cannot without nothing nobody nowhere forget forgets free lacks lacking
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
