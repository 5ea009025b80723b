"""Running a server as somebody without rights when we are root: who that is, its processes, files and ways in.

As an ordinary user everything here happens as ourselves.
"""

import os
import pwd
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

SERVER_USER = "keyledger"  # the system user that runs servers when we are root

_FAKETIME = {
    name: value
    for name, value in os.environ.items()  # noqa: TID251 - no setting of ours: how `faketime` tells children of a day
    if "FAKETIME" in os.environ and (name == "LD_PRELOAD" or name.startswith("FAKETIME"))  # noqa: TID251 - as above
}
# A fixed environment: no locale, PG* variable or preloaded library of the caller reaches a child; but whoever runs us
# on another day runs the database on it, too, whose time is the one that counts.
CHILD_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"} | _FAKETIME


def is_root() -> bool:
    """Whether processes can be given to another user."""
    return os.geteuid() == 0


def known(uid: int) -> pwd.struct_passwd | None:
    """The account of this user id; None when the machine has no name for it."""
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def system_user(say: Callable[[str], None]) -> pwd.struct_passwd:
    """SERVER_USER, made when missing; nobody where users cannot be made."""
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    for _ in range(10):  # another process may hold the lock of the password file: useradd then answers 1
        with suppress(KeyError):
            return pwd.getpwnam(SERVER_USER)
        if useradd is None:
            break
        words = (useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER)
        if not run(None, Path("/"), 30, words):
            say(f"created the system user {SERVER_USER}, who runs the server")
        else:
            time.sleep(0.1)  # it holds that lock for a moment, and frees it without a sign
    return pwd.getpwnam("nobody")


def run(
    account: pwd.struct_passwd | None,
    cwd: Path,
    limit_seconds: float,
    words: tuple[str, ...],
    *,
    pass_fds: tuple[int, ...] = (),
) -> str:
    """What a failed command said, its status when it said nothing, empty when it succeeded. As root, run by account."""
    changed = account if account is not None and is_root() else None
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs, no shell
            words,
            cwd=cwd,
            env=CHILD_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=limit_seconds,
            start_new_session=True,  # Ctrl-C is for us: we stop the server in order
            user=changed.pw_uid if changed else None,
            group=changed.pw_gid if changed else None,
            extra_groups=[] if changed else None,
            pass_fds=pass_fds,
        )
    except subprocess.TimeoutExpired:
        return f"{words[0]} took longer than {limit_seconds:.0f} s"
    return "" if done.returncode == 0 else done.stderr + done.stdout or f"{words[0]} ended with {done.returncode}"


def own(path: Path, account: pwd.struct_passwd) -> None:
    """As root, give a path (a link itself, not its target) to the account."""
    if is_root():
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def private_dir(path: Path, account: pwd.struct_passwd) -> None:
    """Make path a 0700 directory of the account; PermissionError when somebody else's directory or a link is there."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or (found.st_uid not in {account.pw_uid, os.geteuid()}):
            raise PermissionError(f"{path} is in the way: it is not a directory of {account.pw_name}") from None
        path.chmod(0o700)
    own(path, account)


def write(path: Path, flag: int, mode: int, text: str, account: pwd.struct_passwd | None = None) -> None:
    """Write a file of this mode (and account), never through a link that somebody placed there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flag, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        if account is not None and is_root():
            os.fchown(descriptor, account.pw_uid, account.pw_gid)
        file.write(text)


def open_ways(account: pwd.struct_passwd, ends: Iterable[Path], say: Callable[[str], None]) -> None:
    """As root, let the account pass through (o+x, nothing more) these directories and all above them."""
    if not is_root():
        return
    ways = {way for end in ends for way in (end, *end.parents)}
    closed = [way for way in sorted(ways) if not _passable(way.stat(), account)]
    for way in closed:
        way.chmod(stat.S_IMODE(way.stat().st_mode) | stat.S_IXOTH)
    if closed:
        say(f"made searchable (o+x) for {account.pw_name}, who runs the server: {', '.join(map(str, closed))}")


def _passable(place: os.stat_result, account: pwd.struct_passwd) -> bool:
    """Whether the account may pass through a directory; its own or its group's bit counts where it has one."""
    if place.st_uid == account.pw_uid:
        return bool(place.st_mode & stat.S_IXUSR)
    bit = stat.S_IXGRP if place.st_gid == account.pw_gid else stat.S_IXOTH
    return bool(place.st_mode & bit)
