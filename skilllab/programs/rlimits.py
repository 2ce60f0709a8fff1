"""The limits that the system holds for one process and what it starts: set hard, so that no skill can lift them."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Mapping
from typing import Any

_CAP_SYS_RESOURCE = 24
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 36, 38
_CAPABILITY_VERSION = 0x20080522
_KEYCTL, _JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}, 1
_libc = ctypes.CDLL(None, use_errno=True)


def hold(limits: Mapping[str, Any]) -> None:
    """Sets hard limits on this process and all that it starts.

    address_space, file_size: bytes. open_files, processes: how many. What is missing or None stays as it is.
    A limit above what this process may have already is lowered to that.
    """
    for name, kind in (
        ("address_space", resource.RLIMIT_AS),
        ("file_size", resource.RLIMIT_FSIZE),
        ("open_files", resource.RLIMIT_NOFILE),
        ("processes", resource.RLIMIT_NPROC),
    ):
        value = limits.get(name)
        if value is not None:
            most = resource.getrlimit(kind)[1]
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def give_up_lifting() -> None:
    """Drops the right to lift hard limits, which root has, and to gain rights from programs that are started."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() != 0:
        return
    _libc.prctl(_PR_CAPBSET_DROP, _CAP_SYS_RESOURCE, 0, 0, 0)
    head = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice, for the upper half
    if _libc.capget(head, sets) or not sets[0]:
        return
    for index in range(3):
        sets[index] &= ~(1 << _CAP_SYS_RESOURCE)
    if _libc.capset(head, sets):
        raise OSError(ctypes.get_errno(), "the right to lift limits cannot be dropped")


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def leave_keyring() -> None:
    """Takes a new and empty session keyring, so that no key of whoever started this process can be read (keyctl(2))."""
    number = _KEYCTL.get(os.uname().machine)
    if number is not None:
        _libc.syscall(number, _JOIN_SESSION_KEYRING, None)


def end_with_parent() -> None:
    """Has this process killed when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def hide_memory(hidden: bool) -> None:
    """Keeps other processes of the same user from reading or tracing this one; or lets them again."""
    _prctl(_PR_SET_DUMPABLE, int(not hidden))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")
