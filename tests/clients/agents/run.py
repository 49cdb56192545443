"""`make test-clients`: real agent CLIs against the gateway, with the scripted model behind it.

Every scenario has a stage of its own (mock, gateway, a recording relay before and behind it) and every CLI a fresh HOME.
All of it runs in a network namespace with nothing but loopback, so that no CLI waits for, or reports to, anybody else.
"""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import agents
from scenarios import ALL, Failed, Run

# Set inside the namespace.
INSIDE = "LOOPGATE_AGENTS_NAMESPACE"
# From <linux/sockios.h> and <linux/if.h>.
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40


def main():
    flags = read_flags()
    enter_namespace()
    # In the background of a shell SIGINT is ignored, by whatever is started here as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    binary = str(Path(flags.binary).resolve())
    chosen = [agent for agent in agents.ALL if not flags.client or agent.name in flags.client]
    scenarios = [scenario for scenario in ALL if not flags.scenario or scenario.name in flags.scenario]
    if not chosen or not scenarios:
        sys.exit("no such client or scenario; see --help")
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="loopgate-agents-cache-") as cache:
        for agent in chosen:
            for scenario in scenarios:
                word, note = play(agent, scenario, binary, cache)
                failed += word == "FAIL"
                print(f"{word:<5} {agent.name:<10} {agent.version():<8} {scenario.name:<10} {note}", flush=True)
                rows.append((agent.name, scenario.name, word))
    table(rows)
    print(f"{len(rows)} pairs, {failed} failed")
    return 1 if failed else 0


def play(agent, scenario, binary, cache):
    if why := agent.cannot.get(scenario.name):
        return "n/a", why
    began = time.monotonic()
    run = Run(agent, binary, cache)
    try:
        note = scenario(run)
    except Failed as why:
        return "FAIL", f"{why}\n{run.said()}"
    except (OSError, subprocess.SubprocessError) as why:
        # A CLI that cannot be set up or started ends its own scenario and no other.
        return "FAIL", f"{why}\n{getattr(why, 'stderr', None) or ''}\n{run.said()}"
    return "PASS", f"{time.monotonic() - began:.1f} s; {note}"


def table(rows):
    names = list(dict.fromkeys(scenario for _, scenario, _ in rows))
    print("\n" + " | ".join([f"{'':<10}", *(f"{name:<9}" for name in names)]))
    for agent in dict.fromkeys(agent for agent, _, _ in rows):
        words = {scenario: word for name, scenario, word in rows if name == agent}
        print(" | ".join([f"{agent:<10}", *(f"{words[name]:<9}" for name in names)]))
    print()


def enter_namespace():
    """Runs this very script again where there is only loopback; without one it goes on and says so."""
    if os.environ.get(INSIDE):
        raise_loopback()
        return
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if shutil.which("unshare") and subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
        environment = {**os.environ, INSIDE: "1"}
        os.execvpe("unshare", [*unshare, sys.executable, *sys.argv], environment)
    print("WARNING: no network namespace is allowed here: the CLIs can reach the network", file=sys.stderr)


def raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP | IFF_RUNNING))


def read_flags():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", help="the loopgate binary")
    parser.add_argument("--client", action="append", help=", ".join(agent.name for agent in agents.ALL))
    parser.add_argument("--scenario", action="append", help=", ".join(scenario.name for scenario in ALL))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
