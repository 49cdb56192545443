"""Key derivation, which hashlib takes from OpenSSL and has not got without it."""

import _hmac
import hashlib

# n × r × p of the most that scrypt does here: about 6 s (measured: 1.5 ms for each). Chosen.
SCRYPT_COST_MAX = 1 << 12

_MASK = 0xFFFFFFFF

# Salsa20's double round, as RFC 7914 has it: target, the two that are added, bits of the rotation.
_QUARTERS = """
4 0 12 7  8 4 0 9  12 8 4 13  0 12 8 18    9 5 1 7  13 9 5 9  1 13 9 13  5 1 13 18
14 10 6 7  2 14 10 9  6 2 14 13  10 6 2 18    3 15 11 7  7 3 15 9  11 7 3 13  15 11 7 18
1 0 3 7  2 1 0 9  3 2 1 13  0 3 2 18    6 5 4 7  7 6 5 9  4 7 6 13  5 4 7 18
11 10 9 7  8 11 10 9  9 8 11 13  10 9 8 18    12 15 14 7  13 12 15 9  14 13 12 13  15 14 13 18
"""


def _salsa_source():
    numbers = [int(word) for word in _QUARTERS.split()]
    names = ", ".join(f"x{i}" for i in range(16))
    lines = [f"def salsa(block):\n    {names} = block\n    for _ in range(4):\n"]
    for target, one, other, bits in zip(*[iter(numbers)] * 4):
        lines.append(f"        t = (x{one} + x{other}) & {_MASK}\n")
        lines.append(f"        x{target} ^= t << {bits} & {_MASK} | t >> {32 - bits}\n")
    return "".join([*lines, f"    return [(a + b) & {_MASK} for a, b in zip(block, ({names}))]\n"])


# Written out, for a loop over the table would cost twice as much.
exec(_salsa_source(), scope := {})
_salsa = scope["salsa"]


def pbkdf2_hmac(hash_name, password, salt, iterations, dklen=None):
    """`hashlib.pbkdf2_hmac`: 100,000 iterations take about half a second."""
    size = hashlib.new(hash_name).digest_size
    dklen = size if dklen is None else dklen
    password, salt = bytes(password), bytes(salt)
    if iterations < 1:
        raise ValueError("iteration value must be greater than 0.")
    if dklen < 1:
        raise ValueError("key length must be greater than 0.")
    digest = getattr(_hmac, "compute_" + hash_name.lower(), None)
    if digest is None:
        raise ValueError(f"unsupported hash type {hash_name}")
    to_int = int.from_bytes
    key = b""
    for number in range(1, -(-dklen // size) + 1):
        block = digest(password, salt + number.to_bytes(4))
        total = to_int(block)
        for _ in range(iterations - 1):
            block = digest(password, block)
            total ^= to_int(block)
        key += total.to_bytes(size)
    return key[:dklen]


def scrypt(password, *, salt, n, r, p, maxmem=0, dklen=64):
    """`hashlib.scrypt`, for small costs only."""
    if n < 2 or n & (n - 1):
        raise ValueError("n must be a power of 2.")
    if n * r * p > SCRYPT_COST_MAX:
        raise ValueError(
            f"n * r * p = {n * r * p} is too slow for this sandbox, which takes {SCRYPT_COST_MAX} at most: "
            "use a smaller n, or hashlib.pbkdf2_hmac"
        )
    mixed = b""
    blocks = pbkdf2_hmac("sha256", password, salt, 1, p * 128 * r)
    for start in range(0, len(blocks), 128 * r):
        mixed += _mixed(blocks[start : start + 128 * r], n)
    return pbkdf2_hmac("sha256", password, mixed, 1, dklen)


def _mixed(block, n):
    words = [int.from_bytes(block[i : i + 4], "little") for i in range(0, len(block), 4)]
    kept = []
    for _ in range(n):
        kept.append(words)
        words = _block_mixed(words)
    for _ in range(n):
        # The first word of the last 64 bytes, of which n needs the low bits only.
        other = kept[words[-16] & (n - 1)]
        words = _block_mixed([a ^ b for a, b in zip(words, other)])
    return b"".join(word.to_bytes(4, "little") for word in words)


def _block_mixed(words):
    last = words[-16:]
    even, odd = [], []
    for i in range(0, len(words), 16):
        last = _salsa([a ^ b for a, b in zip(last, words[i : i + 16])])
        (odd if i // 16 % 2 else even).extend(last)
    return even + odd


def install():
    """Gives them to hashlib."""
    hashlib.pbkdf2_hmac = pbkdf2_hmac
    hashlib.scrypt = scrypt
