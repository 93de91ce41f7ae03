"""One computation in several processes of torch.distributed: who is in the group, what is shared out and exchanged.

One process leads. It does what it would do alone: it reads, decides, writes and talks. The others follow: they wait for
what `together` hands them, do their share of it, and are told nothing else. Within `together` the functions below share
out and exchange; outside it, and in a process without a group, there is one process, and they leave all as it is.

Processes come from `workers`, which starts them on this machine, or from torchrun or accelerate (`leading`, `follow`).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sparsecse.errors import InputError
from sparsecse.settings import at_least

if TYPE_CHECKING:
    import torch

_R = TypeVar("_R")
_T = TypeVar("_T")

# The leader may be busy by itself for as long: a process that is lost is noticed at once, by its closed connection.
_PATIENCE = datetime.timedelta(days=7)
# Numbers that are summed in one exchange: 32 MB in float32.
_BUCKET = 2**23
_FAILED = "failed"
_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_FOLLOW = "from sparsecse.distributed import follow; raise SystemExit(follow())"


class _Process(Protocol):
    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


@dataclass
class _Group:
    """This process's place among `size` processes.

    store: what the group was made with. sharers: how many share out the threads of the leader.
    called: whether a call of `together` is running; together: and not `alone` in it. broken: whether one ended in an
    error. started: the processes that this one has started, from rank 1 on.
    """

    rank: int
    size: int
    local_rank: int
    store: Any
    sharers: int = 1
    together: bool = False
    called: bool = False
    broken: bool = False
    started: list[_Process] = field(default_factory=list)


_group: _Group | None = None


class ElsewhereError(MemoryError):
    """Memory ran out in another process."""


class _LostError(InputError):
    """An exchange failed."""


def rank() -> int:
    """This process's number from 0, the leader's."""
    return _group.rank if _group is not None and _group.together else 0


def size() -> int:
    """How many processes compute together."""
    return _group.size if _group is not None and _group.together else 1


def device(wanted: torch.device) -> torch.device:
    """The device of this process, of the kind that the leader computes on."""
    import torch

    if _group is None or _group.rank == 0 or wanted.type != "cuda":
        return wanted
    return torch.device("cuda", _group.local_rank)


def own(items: Sequence[_T]) -> Sequence[_T]:
    """This process's share: every `size`-th item, from the one of its rank on."""
    return items[rank() :: size()]


def gather_rows(rows: torch.Tensor, count: int) -> torch.Tensor:
    """The rows of all items, [count, d], of what each process has of its `own`, [share, d].

    Differentiable where every process computes the same of them: then the gradient of a process's own rows is whole.
    """
    import torch

    if size() == 1:
        return rows
    index = torch.arange(rank(), count, size(), device=rows.device)
    whole = rows.new_zeros(count, rows.shape[1])
    whole[index] = rows.detach()
    add_up([whole])
    return whole.index_copy(0, index, rows)


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Let each tensor hold its sum over the processes, in all of them; float32 or float64, of the same shapes."""
    if size() == 1:
        return
    import torch
    import torch.distributed as dist

    for bucket in _buckets(tensors):
        if len(bucket) == 1 and bucket[0].is_contiguous():
            with _exchange():
                dist.all_reduce(bucket[0])
            continue
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        with _exchange():
            dist.all_reduce(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors that follow one another, of one kind, together no larger than `_BUCKET` or one alone."""
    bucket: list[torch.Tensor] = []
    numbers = 0
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        if bucket and (numbers + tensor.numel() > _BUCKET or kind != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(tensor)
        numbers += tensor.numel()
    if bucket:
        yield bucket


def broadcast(value: _T) -> _T:
    """The leader's value, in every process; what others give does not count."""
    return value if size() == 1 else _broadcast(value)


def collect(value: _T) -> list[_T]:
    """The value of every process, by rank."""
    if size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * size()
    with _exchange():
        dist.all_gather_object(values, value)
    return values


def confirm(failed: bool = False) -> None:
    """Before an exchange: make sure that every process got there.

    One whose memory ran out calls it with `failed` instead of going on, and all are where they can try again.

    Raises:
        ElsewhereError: another one failed.
    """
    if size() == 1:
        return
    import torch

    failures = torch.tensor([float(failed)])
    add_up([failures])
    if failures.item() > failed:
        raise ElsewhereError("memory ran out in another process")


def together(function: Callable[..., _R], *shared: Any, **led: Any) -> _R:
    """Call a function of a module in every process; what it returns here.

    An exception that it raises here ends the group: the others may be anywhere in it.

    Args:
        shared: its arguments, which the others get as copies.
        led: arguments that it is called with in this process alone.
    """
    group = _group
    if group is None or group.called:
        return function(*shared, **led)
    if group.broken:
        raise InputError("The processes that computed together have ended in an error; start them again.")
    import torch

    threads = torch.get_num_threads()
    share = max(1, threads // group.sharers)
    group.called = group.together = True
    try:
        _broadcast((function, shared, share))
        torch.set_num_threads(share)
        return function(*shared, **led)
    except BaseException:
        group.broken = True
        raise
    finally:
        torch.set_num_threads(threads)
        group.called = group.together = False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, the leader computes by itself, and the others wait for its next exchange."""
    group = _group
    if group is None or not group.together:
        yield
        return
    group.together = False
    try:
        yield
    finally:
        group.together = True


@contextlib.contextmanager
def workers(processes: int) -> Iterator[None]:
    """Let this process lead so many, itself included; the others are started on this machine, and end with it.

    The threads of PyTorch are shared out among them while they compute together.

    Raises:
        InputError: fewer than one; this process is in a group already; or, from what runs inside, one of them ended.
    """
    at_least("nproc", processes, 1)
    if processes > 1 and (_group is not None or _launched()):
        raise InputError("`nproc` starts processes, and this one is already one of several; leave it out.")
    if processes == 1:
        yield
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))  # what travels is pickled: nobody else is to be heard
        listening.listen(processes)
        started = [_start(listening.getsockname()[1], number, processes) for number in range(1, processes)]
        try:
            with _loopback():
                _lead_own(listening, processes, started)
            yield
        finally:
            for process in started:  # which hold nothing of their own
                process.kill()
                process.wait()
            _leave()


def _start(port: int, number: int, processes: int) -> _Process:
    place = {"RANK": number, "WORLD_SIZE": processes, "LOCAL_RANK": number, "MASTER_PORT": port}
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
    with _loopback():
        environment |= {name: os.environ[name] for name in ("GLOO_SOCKET_IFNAME",) if name in os.environ}
    # Standard output is the leader's alone.
    return subprocess.Popen(
        [sys.executable, "-c", _FOLLOW],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is the leader's, too
    )


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Inside, gloo talks over the loopback interface, unless the user named another."""
    name = "GLOO_SOCKET_IFNAME"
    found = next((one for _, one in socket.if_nameindex() if one.startswith("lo")), None)
    if name in os.environ or found is None:
        yield
        return
    os.environ[name] = found
    try:
        yield
    finally:
        del os.environ[name]


def _lead_own(listening: socket.socket, processes: int, started: list[_Process]) -> None:
    """Make the group of this process and those that it started."""
    import torch.distributed as dist

    port = listening.getsockname()[1]
    # The store closes the descriptor that it is given.
    store = dist.TCPStore(
        "127.0.0.1",
        port,
        world_size=processes,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=os.dup(listening.fileno()),
    )
    ready = [f"ready/{number}" for number in range(1, processes)]
    while not store.check(ready):
        if any(process.poll() is not None for process in started):
            raise InputError("A process that was to compute with this one ended at its start; see what it said above.")
        time.sleep(0.02)
    _join(_Group(0, processes, 0, store, sharers=processes, started=started))


def _launched() -> bool:
    """Whether torchrun, accelerate or `workers` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and all(name in os.environ for name in ("RANK", "MASTER_PORT"))


def follows() -> bool:
    """Whether this process was started to follow another one."""
    return _launched() and os.environ["RANK"] != "0"


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Lead the processes that torchrun or accelerate started beside this one, if they did.

    Raises:
        InputError: they cannot be reached.
    """
    if not _launched():
        yield
        return
    group = _join_launched()
    try:
        yield
    finally:
        if not group.broken:
            with contextlib.suppress(InputError):  # one was lost after its work was done
                _broadcast(None)
        _leave()


def follow() -> int:
    """Follow the leader to its end; returns an exit code, 1 where it or another process was lost."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader, which it reaches as well, ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        group = _join_launched()
        _serve(group)
    except InputError:
        return 1  # the leader says it
    finally:
        _leave()
    return 0


def _serve(group: _Group) -> None:
    import warnings

    import torch

    warnings.simplefilter("ignore")  # the leader has them too
    while (call := _broadcast(None)) is not None:
        function, shared, threads = call
        torch.set_num_threads(threads)
        group.called = group.together = True
        try:
            function(*shared)
        except _LostError:
            raise
        except Exception as error:
            group.store.set(_FAILED, str(error) or type(error).__name__)
            raise InputError(str(error)) from error
        finally:
            group.called = group.together = False


def _join_launched() -> _Group:
    """Join the group that the environment tells of; programs that this process starts are not told of it."""
    import torch.distributed as dist

    local_rank = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    try:
        store, number, processes = next(dist.rendezvous("env://"))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The other processes cannot be reached ({reason}); start all with torchrun, or one without RANK and "
            f"WORLD_SIZE in the environment."
        ) from None
    for name in _PLACE:
        os.environ.pop(name, None)
    store.set(f"ready/{number}", "")
    return _join(_Group(number, processes, local_rank, store))


def _join(group: _Group) -> _Group:
    global _group
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    if gpus and group.rank:
        torch.cuda.set_device(group.local_rank)
    with _exchange(group):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=dist.PrefixStore("sparsecse", group.store),
            rank=group.rank,
            world_size=group.size,
            timeout=_PATIENCE,
        )
    _group = group
    return group


def _leave() -> None:
    global _group
    import torch.distributed as dist

    _group = None
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _broadcast(value: Any) -> Any:
    import torch
    import torch.distributed as dist

    values = [value]
    with _exchange():
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return value if _group is not None and _group.rank == 0 else values[0]


@contextlib.contextmanager
def _exchange(group: _Group | None = None) -> Iterator[None]:
    """Around every exchange: one that fails tells that a process was lost, and which if that is known."""
    try:
        yield
    except RuntimeError as error:
        group = group or _group
        raise _LostError(_loss(group, str(error)) if group is not None else str(error)) from error


def _loss(group: _Group, said: str) -> str:
    again = "run the command again, which goes on where it stopped"
    with contextlib.suppress(RuntimeError):
        if group.store.check([_FAILED]):
            return f"One of {group.size} processes failed: {group.store.get(_FAILED).decode()}"
    time.sleep(0.1)  # for the system to tell of a process whose connection is closed
    ended = {number: process.poll() for number, process in enumerate(group.started, start=1)}
    for number, code in ended.items():
        if code is not None and code < 0:
            return (
                f"Process {number} of {group.size} was ended by signal {-code}; {again}, and with fewer processes if "
                f"memory ran out."
            )
    if not any(words in said for words in ("onnection", "peer", "closed", "reset")):
        return f"The {group.size} processes cannot exchange what they computed ({said.splitlines()[0]}); {again}."
    return f"One of {group.size} processes ended unasked; {again}, and with fewer processes if memory ran out."
