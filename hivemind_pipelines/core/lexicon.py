"""Word lists of the comparison: which replaced words keep a statement's meaning and which turn it round."""


def words(text: str) -> frozenset[str]:
    """The words of a block of text."""
    return frozenset(text.split())


def _pairs(text: str) -> frozenset[frozenset[str]]:
    """Every unordered pair that two sides of `a,b|c,d` entries span."""
    entries = (entry.split("|") for entry in text.split())
    return frozenset(
        frozenset((a, b)) for left, right in entries for a in left.split(",") for b in right.split(",")
    )


def _groups(text: str) -> dict[str, int]:
    """The number of the line on which a word stands; words of one line are interchangeable or siblings."""
    return {word: number for number, line in enumerate(text.strip().splitlines()) for word in line.split()}


FUNCTION_WORDS = words(
    """
    a an the this that these those it its their your our my his her them they you we i one is are
    was were be been being am do does did has have had will would of for with by as at on in into
    onto to from via per and or so then also just please which who whose where when while there here
    such thus hence etc e.g i.e eg ie note tip til fyi using use used given specified specific
    particular certain some any
    """
)

#: Words that announce a note and say nothing.
OPENERS = words(
    """
    note notes tip til fyi workaround fix fixed solution learned heads up hope this helps worked for
    me confirmed verified update edit psa reminder btw today helped
    """
)

#: Function words that say when, one line a time: another line, or one word more, is another time.
TENSED_WORDS = _groups(
    """will would
    was were had did"""
)

#: Words that tie a number to what is counted; before a number another one is another measure.
MEASURING_WORDS = words("in for at on by to from of with within after before until since over under per")

#: Function words that say whose or which, one line a party; another line is somebody or something else.
PARTIES = _groups(
    """i my me we our us
    you your
    he his him
    she her
    they their them
    this these
    that those
    when
    while
    where"""
)

#: Abbreviations that another word is spelled like.
CAPITAL_NAMES = words("IT US WHO")

NEGATIONS = words(
    """
    not no never none neither nor cannot can't without non don't doesn't didn't isn't aren't wasn't
    weren't won't wouldn't shouldn't couldn't mustn't hasn't haven't hadn't unless except nothing
    nobody nowhere hardly revert reverts reverted undo undoes prevent prevents disallow disallowed
    disallows forbid forbids forbidden prohibit prohibits avoid avoids avoided avoiding prevented
    preventing disallowing prohibited undone
    """
)

#: Contractions and spellings of one negated form.
NEGATED_FORMS = {
    "can't": ("can", "not"),
    "cannot": ("can", "not"),
    "won't": ("will", "not"),
    "don't": ("do", "not"),
    "doesn't": ("does", "not"),
    "didn't": ("did", "not"),
    "isn't": ("is", "not"),
    "aren't": ("are", "not"),
    "wasn't": ("was", "not"),
    "weren't": ("were", "not"),
    "wouldn't": ("would", "not"),
    "shouldn't": ("should", "not"),
    "couldn't": ("could", "not"),
    "mustn't": ("must", "not"),
    "hasn't": ("has", "not"),
    "haven't": ("have", "not"),
    "hadn't": ("had", "not"),
    "it's": ("it", "is"),
    "that's": ("that", "is"),
    "there's": ("there", "is"),
    "i'm": ("i", "am"),
    "you're": ("you", "are"),
    "they're": ("they", "are"),
    "we're": ("we", "are"),
    "i've": ("i", "have"),
    "you've": ("you", "have"),
    "you'll": ("you", "will"),
    "it'll": ("it", "will"),
    "let's": ("let", "us"),
}

ANTONYMS = _pairs(
    """
    enable|disable allow|deny,forbid,disallow,prevent,block,reject,prohibit
    permit|forbid,deny,prohibit allowed|denied,forbidden,disallowed,prohibited
    accept|reject,deny,refuse grant|revoke,deny always|never,sometimes before|after earlier|later
    pre|post prior|subsequent with|without increase|decrease,reduce increment|decrement
    raise|lower,drop grow|shrink expand|collapse,shrink more|less,fewer most|least higher|lower
    greater|less,smaller larger|smaller bigger|smaller longer|shorter faster|slower newer|older
    newest|oldest latest|earliest,oldest upper|lower uppercase|lowercase above|below over|under
    start|stop,end,finish begin|end open|close opened|closed run|stop resume|pause,suspend
    launch|stop,kill,quit true|false yes|no on|off show|hide display|hide visible|hidden reveal|hide
    include|exclude,omit including|excluding add|remove,delete,drop,subtract append|prepend
    insert|remove,delete create|delete,destroy,remove,drop make|delete,destroy,remove
    install|uninstall,remove attach|detach connect|disconnect encrypt|decrypt encode|decode
    lock|unlock mount|unmount,umount compress|decompress,extract zip|unzip pack|unpack
    archive|extract,unarchive first|last min|max minimum|maximum minimal|maximal
    minimise,minimize|maximise,maximize upload|download push|pull import|export
    load|unload,save,store save|load,restore,discard read|write reader|writer readable|writable
    input|output stdin|stdout,stderr stdout|stderr send|receive request|response
    get|set,put,post,delete put|post get|give source|destination,target client|server
    sender|receiver producer|consumer publish|subscribe,unpublish subscribe|unsubscribe
    stable|unstable safe|unsafe secure|insecure valid|invalid ascending|descending asc|desc
    public|private internal|external inner|outer inside|outside in|out into|out local|remote,global
    global|local,remote relative|absolute static|dynamic left|right top|bottom up|down upload|fetch
    forward|backward,back,reverse next|previous front|back horizontal|vertical
    horizontally|vertically row|column rows|columns even|odd positive|negative success|failure
    successful|failed succeed|fail succeeds|fails pass|fail passed|failed passes|fails
    online|offline empty|full,non-empty all|none,no every|no some|none any|none,all only|also
    both|either,neither same|different equal|unequal,different similar|different
    synchronous|asynchronous sync|async mutable|immutable required|optional mandatory|optional
    recommended|discouraged deprecated|supported,recommended should|shouldn't must|may,might,can
    can|cannot manual|automatic manually|automatically online|offline interactive|non-interactive
    verbose|quiet,silent register|unregister,deregister assign|unassign bind|unbind
    commit|rollback,revert apply|revert,unapply upgrade|downgrade promote|demote login|logout
    sign-in|sign-out acquire|release allocate|free,deallocate freeze|unfreeze,thaw mute|unmute
    pin|unpin stage|unstage wrap|unwrap fold|unfold link|unlink merge|split join|split,leave
    activate|deactivate enqueue|dequeue serialize|deserialize escape|unescape follow|unfollow
    keep|discard,remove,delete,drop preserve|discard,remove ignore|respect,honour,honor hit|miss
    host|guest parent|child ancestor|descendant primary|secondary,replica master|slave,replica
    even|odd near|far single|multiple,double once|twice,repeatedly early|late eager|lazy
    eagerly|lazily strict|loose,lenient to|from until|since within|outside since|until begin|finish
    hot|cold light|dark big|small large|small long|short new|old high|low fast|slow strong|weak
    wide|narrow thick|thin hard|easy,soft good|bad best|worst better|worse leading|trailing
    prefix|suffix and|or head|tail odd|even buy|sell debit|credit profit|loss gain|lose win|lose
    breaks|fixes,repairs break|fix,repair works|fails,breaks work|fail,break worked|failed,broke
    keeps|loses,drops,removes,discards preserves|loses,drops,removes,discards keep|lose front|behind,back
    ahead|behind gains|loses wins|loses encrypt|sign encrypts|signs leader|follower,replica buyer|seller
    employer|employee lender|borrower debtor|creditor caller|callee owner|guest vertical|horizontal
    inclusive|exclusive included|exempt readable|unreadable,writable correct|wrong,incorrect
    right|wrong old|modern cheap|expensive rich|poor dry|wet day|night morning|evening,afternoon
    yesterday|today,tomorrow today|tomorrow monthly|yearly,weekly,daily hourly|daily,weekly,monthly
    daily|weekly,monthly,yearly weekly|monthly,yearly staging|production,prod development|production,prod
    staging|development own|shared,foreign own|other slows|speeds slower|quicker quick|slow
    increase|lower revert|reapply,reland enabled|disabled starts|stops started|stopped
    starting|stopping adds|removes,deletes added|removed,deleted adding|removing,deleting
    opens|closes opening|closing enables|disables enabling|disabling allows|denies,forbids,prevents
    allowing|denying,forbidding,preventing increases|decreases,reduces increased|decreased,reduced
    increasing|decreasing,reducing shows|hides hidden|shown showing|hiding includes|excludes,omits
    included|excluded installs|uninstalls,removes installed|uninstalled,removed
    installing|uninstalling,removing creates|deletes,destroys created|deleted,destroyed
    locks|unlocks locked|unlocked mounts|unmounts mounted|unmounted reads|writes reading|writing
    sends|receives sending|receiving encrypts|decrypts encrypted|decrypted,unencrypted
    encrypting|decrypting compresses|decompresses compressed|decompressed,uncompressed
    imports|exports imported|exported importing|exporting uploads|downloads uploaded|downloaded
    uploading|downloading connects|disconnects connected|disconnected attaches|detaches
    attached|detached saves|loads,discards encodes|decodes encoded|decoded encoding|decoding
    """
)

#: Prefixes that turn a word into its opposite.
REVERSALS = ("un", "dis", "in", "im", "ir", "il", "non", "de", "anti", "mis")

SYNONYMS = _pairs(
    """
    folder|directory,dir folders|directories,dirs subfolder|subdirectory subfolders|subdirectories
    dir|directory dirs|directories config|configuration configs|configurations configure|set-up
    info|information show|display,print,list,view shows|displays,prints,lists
    showing|displaying,printing display|print,view,list,see displays|prints,lists
    displaying|printing view|see,list,open repo|repository repos|repositories env|environment
    arg|argument args|arguments param|parameter params|parameters parameter|argument,option
    parameters|arguments,options option|flag,argument,switch options|flags,arguments db|database
    dbs|databases doc|documentation docs|documentation dependency|package dependencies|packages
    error|failure,issue errors|failures,issues fix|resolve,solve,repair fixes|resolves,solves
    fixed|resolved,solved create|make,generate,build creates|makes,generates created|made,generated
    creating|making,generating delete|erase,remove deletes|erases,removes deleted|erased,removed
    deleting|removing start|launch,run,begin,open starts|launches,runs,begins
    starting|launching,running get|fetch,retrieve,obtain,show gets|fetches,retrieves
    getting|fetching,retrieving fetch|retrieve,download use|employ,utilise,utilize
    uses|employs,utilises,utilizes because|since however|but many|lots several|multiple
    multiple|many specify|set,define,give,provide specified|given,provided,defined
    specifies|sets,defines change|modify,alter,edit changes|modifies,alters,edits modify|edit
    update|refresh search|look,find find|locate,look execute|run executes|runs executing|running
    command|program,tool app|application apps|applications website|site webpage|page
    url|link,address file|document files|documents picture|image pictures|images e-mail|email
    mail|email username|user password|passphrase machine|computer,host host|hostname
    kill|terminate stop|terminate,halt quit|exit exit|leave check|verify,test,inspect
    checks|verifies choose|select pick|select,choose whole|entire,complete entire|complete,full
    every|all,each each|all only|just allow|permit,let allows|permits,lets disallow|forbid,prohibit
    disallows|forbids,prohibits ensure|guarantee require|need requires|needs required|needed
    correct|right wrong|incorrect quickly|fast rapidly|quickly usually|normally,generally
    commonly|often current|present previous|prior number|count,amount lists|enumerates
    text|content contents|content stdin|input stdout|output stderr|error terminal|console
    shell|terminal variable|var variables|vars function|func functions|funcs regex|regexp,pattern
    regexes|regexps administrator|admin administrators|admins authentication|auth development|dev
    production|prod temporary|temp,tmp maximum|max minimum|min character|char characters|chars
    integer|int boolean|bool string|str message|msg version|release versions|releases
    utility|tool,utilities available|existing supported|available recursive|recursively
    convert|transform,turn copy|duplicate simulate|emulate compute|calculate computes|calculates
    calculate|count send|transmit,submit store|save,keep keep|preserve,retain
    keeps|preserves,retains stores|saves,keeps saving|storing
    additional|extra,more optional|optionally interactively|interactive verbosely|verbose
    silently|quietly,silent automatically|auto desired|given named|called called|named
    particular|specific,given,certain specific|given,certain,named instance|copy process|task
    beginning|start end|finish big|large small|little identical|same whether|if if|when
    while|whilst where|in inside|in,within within|in onto|on upon|on via|using,through,with,by
    through|using,by by|using,with with|using,having and|plus or|and/or prevents|avoids,stops
    prevent|avoid,stop don't|avoid suggests|recommends,advises recommend|suggest,advise grey|gray
    licence|license jpg|jpeg utf8|utf-8 postgres|postgresql golang|go k8s|kubernetes js|javascript
    ts|typescript py|python mac|macos osx|macos win|windows
    """
)

#: Pairs of real words, or of their stems, that are one slip apart.
LOOKALIKES = _pairs(
    """
    lose|loose loos|los advers|avers moral|morale personal|personnel dual|duel quot|quota site|cite
    form|from quit|quiet trial|trail later|latter latest|lattest angel|angl united|untied
    compiled|complied filed|field unti|unit compil|comply tried|tired caus|casual causal|casual
    dairy|diary compli|compil fil|field fil|fli tri|tir compet|complet contact|contract server|sever
    plan|planet plan|plane public|pubic through|though through|thorough prefect|perfect window|widow
    county|country launch|lunch filter|filer modul|modulo export|expert complement|compliment
    stationary|stationery patch|path batch|bath catch|cach string|sting thread|tread desert|dessert
    devic|devis advic|advis moral|mortal human|human singl|sing barely|barley lost|lot best|bet
    list|lit sacr|scar martial|marital clos|clo mark|mask revers|reserv chang|charg chanc|chang
    parser|parse sever|serv stat|start state|start statu|statut port|part post|past test|text
    rout|root route|rout host|hos share|shar carr|car brow|brown word|world lead|led read|red
    tabl|tablet stor|story messag|massag curr|curry inst|instr descent|decent except|expect
    """
)

#: Kinds of quantity; two of one line mean the same.
QUANTIFIERS = _groups(
    """all every each
    any
    some several
    many lots
    few little
    most
    none
    only solely exclusively
    first
    last final
    second
    third
    single
    both
    half
    double twice
    once
    exactly
    approximately about roughly around
    nearly almost
    must shall
    should
    can could may might
    more
    less
    own
    other another
    same
    different"""
)

NUMBER_WORDS = {
    "zero": "0", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "twenty": "20", "hundred": "100", "thousand": "1000",
}  # fmt: skip

_UNIT_LINES = """ns nanosecond nanoseconds
    us µs microsecond microseconds
    ms msec millisecond milliseconds
    kbit kilobit kilobits
    mbit megabit megabits
    gbit gigabit gigabits
    s sec secs second seconds
    min mins minute minutes
    h hr hrs hour hours
    day days
    week weeks
    month months
    year years
    bit bits
    b byte bytes
    kb kilobyte kilobytes
    kib kibibyte kibibytes
    mb megabyte megabytes
    mib mebibyte mebibytes
    gb gigabyte gigabytes
    gib gibibyte gibibytes
    tb terabyte terabytes
    tib tebibyte tebibytes
    mm millimetre millimetres millimeter millimeters
    cm centimetre centimetres centimeter centimeters
    m metre metres meter meters
    km kilometre kilometres kilometer kilometers
    inch inches
    ft foot feet
    mile miles
    hz hertz
    khz
    mhz
    ghz
    px pixel pixels
    em
    rem
    % percent
    usd $ dollar dollars
    eur € euro euros
    gbp £ pound pounds
    jpy ¥ yen
    chf francs
    cny yuan
    inr rupees
    sek nok dkk kronor
    celsius
    fahrenheit"""

#: Units by spelling; two of one line are the same unit.
UNITS = _groups(_UNIT_LINES)

#: The first spelling of each line of units.
UNIT_NAMES = tuple(line.split()[0] for line in _UNIT_LINES.strip().splitlines())

#: Siblings that are never the same thing, by line: naming one for the other makes another statement.
SIBLINGS = _groups(
    """ubuntu fedora debian alpine centos rhel archlinux arch opensuse suse gentoo nixos manjaro
    npm yarn pnpm bun deno npx
    pip conda mamba poetry pdm hatch pipenv uv pipx
    apt apt-get aptitude dnf yum pacman zypper apk brew snap flatpak emerge dpkg rpm
    mysql postgresql postgres sqlite mariadb oracle mssql mongodb redis cassandra dynamodb
    docker podman containerd lxc nerdctl
    kubernetes swarm nomad
    macos windows linux freebsd openbsd netbsd solaris android ios
    github gitlab bitbucket gitea
    git svn mercurial hg subversion
    python ruby perl php lua julia
    java kotlin scala groovy
    javascript typescript coffeescript
    rust golang zig
    bash zsh fish sh ksh csh tcsh dash powershell pwsh cmd nushell
    chrome firefox safari edge chromium opera
    aws azure gcp
    s3 gcs
    http https ftp sftp ftps ssh telnet
    json yaml xml toml csv ini
    html markdown css
    get post put patch delete head
    ipv4 ipv6
    rails django flask laravel express fastapi spring
    react vue angular svelte
    vim emacs nano neovim nvim vscode
    stdin stdout stderr
    tcp udp icmp
    sha-1 sha1 sha-256 sha256 sha-512 sha512 md5
    rsa ed25519 dsa ecdsa
    gzip bzip2 xz zstd lz4 lzma zip tar
    png jpeg jpg gif webp svg tiff bmp
    mp3 flac ogg wav aac
    mp4 mkv avi webm mov
    jest mocha vitest pytest unittest junit
    webpack vite rollup esbuild parcel
    gcc clang msvc
    make cmake ninja meson bazel
    nginx apache caddy haproxy
    systemd upstart launchd openrc
    utc gmt cet est pst
    pandas polars dask
    kafka kinesis pulsar
    jenkins travis circleci
    grafana kibana
    terraform pulumi ansible chef puppet
    x86 x86_64 amd64 arm arm64 aarch64 riscv
    intel amd nvidia
    monday tuesday wednesday thursday friday saturday sunday
    january february march april june july august september october november december
    red green blue yellow black white orange purple
    north south east west
    static instance
    file directory folder
    files directories folders
    image container volume network pod
    images containers volumes networks pods
    branch tag commit
    branches tags commits
    row column cell
    rows columns cells
    utf-8 utf8 utf-16 ascii latin-1
    int float bool string double char
    let const var
    break continue return raise yield
    try except finally catch throw
    public private protected
    user group owner role
    users groups owners roles
    bits bytes
    rabbitmq nats
    gnome kde xfce
    x11 wayland
    lf crlf
    tab tabs space spaces
    ram disk cpu gpu"""
)

#: Words that stand for a value the reader fills in.
PLACEHOLDERS = words(
    """
    file files filename filenames dir directory directories folder folders path paths input output
    infile outfile inputfile outputfile source destination dest src dst target name names username
    user users host hostname hosts server url urls uri domain ip port password passphrase package
    packages pkg key keys keyid value values pattern patterns regex string text command commands cmd
    args arguments options id ids uuid project repo repository branch remote tag commit image
    container service group email address title message device interface keyword keywords query term
    terms search_term expression number n seconds image.png image.jpg example.com foo bar baz xxx
    script archive bucket database dbname table column field label session session_name variable var module
    class method function type format size
    """
)

#: Words whose place among the others says nothing by itself.
UNORDERED_WORDS = words(
    """
    a an the this that these those it its their your our my his her they you we i one is are was were be
    been being am do does did has have had will would of so also just please
    """
)

#: Words that tie a clause or an argument to the rest: what they begin may move as a whole.
CONNECTIVES = words(
    """
    when while whenever if unless until once after before since because as although though for from by
    with without in on at into onto through via during between among against per under over within
    inside outside than then where whereas to rather instead otherwise or and but
    """
)

#: Words by which a sentence says what is lacking or given up without a negation.
SOFT_NEGATIONS = words(
    """
    without rather instead lack lacks lacking missing otherwise else or refuse refuses fail fails failed
    stop stops drop drops dropped omit omits gone removed remove unable impossible ignore ignores
    """
)

#: The helping verbs of the passive.
PASSIVE_WORDS = words("is are was were be been being gets")

#: Words that make the order of sentences part of the statement.
SEQUENCE_WORDS = words(
    """
    first firstly second secondly third then next afterwards finally lastly before after step steps
    """
)
