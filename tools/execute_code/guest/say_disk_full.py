"""Makes the guest say that its disk is full when it is. A step of build.sh.

wasi-libc knows one reason for a write to a stream that failed: EIO, "I/O error", whatever the host says. Here the host
has no other reason than a full disk: so the two places where a failed write sets `errno` are given ENOSPC. They are the
only calls that are followed by `i32.const 29; local.set`, of the same length with 51.
"""

import re
import sys

ERRNO_IS_EIO = re.compile(rb"(\x10[\x80-\xff]{4}\x00\x41)\x1d(\x21)", re.DOTALL)
ENOSPC = b"\x33"
PLACES = 2

path = sys.argv[1]
with open(path, "rb") as file:
    wasm = file.read()
wasm, count = ERRNO_IS_EIO.subn(lambda place: place[1] + ENOSPC + place[2], wasm)
if count != PLACES:
    sys.exit(f"guest: {count} places where a write fails, where {PLACES} were known; see say_disk_full.py")
with open(path, "wb") as file:
    file.write(wasm)
