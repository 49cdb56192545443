"""Refusals in words, where Python's own would say that a host was not found or that an attribute is missing.

They are of the types that programs catch. What is missing as a whole module is `hints.py`'s affair.
"""

import errno
import sys

NETWORK = "this sandbox has no network: write the data into the program, or get it with another tool"
PROCESSES = (
    "this sandbox has no other processes and no shell: do it in Python itself; os, shutil, glob and pathlib do what shell "
    "commands do"
)
INSTALLING = "nothing can be installed in this sandbox: use Python's standard library"
PARALLEL = (
    "this sandbox has one process and one CPU: call the function in a loop, or use concurrent.futures.ThreadPoolExecutor"
)
NOBODY = "has nobody to ask: this program runs without a user, so write its inputs into it"


def _refusing(kind, *reason):
    def refuse(*_, **__):
        raise kind(*reason)

    return refuse


def _without_network(socket):
    no_name = _refusing(socket.gaierror, socket.EAI_FAIL, NETWORK)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
        setattr(socket, name, no_name)
    socket.socket.__init__ = _refusing(PermissionError, errno.EACCES, NETWORK)
    # One that was not made is closed all the same.
    socket.socket.__del__ = lambda self: None


def _without_tls(client):
    class HTTPSConnection(client.HTTPConnection):
        """Refuses where its connection would be made. Without it, `https` is an unknown word for urllib."""

        default_port = client.HTTPS_PORT

        def __init__(self, host, port=None, *, context=None, **options):
            super().__init__(host, port, **options)

    client.HTTPSConnection = HTTPSConnection
    client._create_https_context = lambda http_version: None


def _without_processes(subprocess):
    def refuse(self, args=(), *_, **__):
        words = args.split() if isinstance(args, str) else [str(word) for word in args]
        installs = any(word in ("pip", "pip3", "conda", "uv", "apt", "apt-get", "npm") for word in words)
        raise PermissionError(errno.EPERM, INSTALLING if installs else PROCESSES)

    subprocess.Popen.__init__ = refuse
    subprocess.Popen.__del__ = lambda self: None


def _without_processes_in_os(os):
    refuse = _refusing(PermissionError, errno.EPERM, PROCESSES)
    # Those that every system has. To look for the others, as for `fork`, is a program's way to ask.
    for name in ("system", "popen", "execv", "execve", "kill"):
        setattr(os, name, refuse)


def _without_parallel(context):
    refuse = _refusing(PermissionError, errno.EPERM, PARALLEL)
    for name in (
        "Array Barrier BoundedSemaphore Condition Event JoinableQueue Lock Manager Pipe Pool Queue RLock RawArray RawValue "
        "Semaphore SimpleQueue Value"
    ).split():
        setattr(context.BaseContext, name, refuse)
    context.process.BaseProcess.start = refuse


def _without_pools(pool):
    pool.Pool.__init__ = _refusing(PermissionError, errno.EPERM, PARALLEL)
    pool.Pool.__del__ = lambda self: None


def _without_subprocesses(events):
    async def refuse(*_, **__):
        raise PermissionError(errno.EPERM, PROCESSES)

    async def refuse_server(*_, **__):
        raise PermissionError(errno.EACCES, NETWORK)

    loop = events.EventLoop
    loop.subprocess_exec = loop.subprocess_shell = refuse
    # The library's own tells of an address that could not be bound.
    loop.create_server = refuse_server
    # A type that programs catch: other systems have no handlers either.
    loop.add_signal_handler = _refusing(NotImplementedError, "no signal reaches a program in this sandbox")


def _without_password(getpass):
    getpass.getpass = _refusing(EOFError, f"getpass() {NOBODY}")


def _without_debugger(pdb):
    pdb.set_trace = sys.breakpointhook = _refusing(EOFError, f"the debugger {NOBODY}")


# What to change in a module once it has been imported, in the image or later.
CHANGES = {
    "event_loop": _without_subprocesses,
    "getpass": _without_password,
    "http.client": _without_tls,
    "multiprocessing.context": _without_parallel,
    "multiprocessing.pool": _without_pools,
    "os": _without_processes_in_os,
    "pdb": _without_debugger,
    "socket": _without_network,
    "subprocess": _without_processes,
}


def change(module):
    """Changes a module that has just been imported."""
    if module.__name__ in CHANGES:
        CHANGES[module.__name__](module)


def install():
    """Changes what is imported already. `pdb` is: doctest needs it."""
    for name in CHANGES:
        if name in sys.modules:
            change(sys.modules[name])
