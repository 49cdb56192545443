# What programs spend their time on: thirteen small ones, run in the sandbox and by a native Python.
#
# `loopgate bench sandbox` adds a line that calls `best` with one of their names. Each takes some 10 to 30 ms natively, so
# that the clock's own steps do not count.

import json
import re
import time

SEED = 42


def numbers(count):
    """The same numbers everywhere: `random` differs between versions of Python."""
    state = SEED
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        yield state >> 33


def counting():
    total = 0
    for number in range(400_000):
        total += number & 3
    return total


def conditions():
    steps, value = 0, 837_799
    while steps < 200_000:
        value = value // 2 if value % 2 == 0 else 3 * value + 1
        if value == 1:
            value = 837_799
        steps += 1
    return steps


def dictionaries():
    counts = {}
    for number in numbers(80_000):
        word = f"w{number % 3000}"
        counts[word] = counts.get(word, 0) + 1
    return max(counts.values())


def texts():
    lines = [f"{number:08d};{number * 7}" for number in range(30_000)]
    text = "\n".join(lines)
    return sum(len(line.split(";")[1]) for line in text.splitlines()) + text.count("77")


def json_texts():
    rows = [{"row": row, "tags": ["a", "b"] * 3, "of": {"x": row / 7, "ok": row % 2 == 0, "none": None}} for row in range(500)]
    for _ in range(8):
        rows = json.loads(json.dumps(rows))
    return len(rows)


def floats():
    # Three bodies that attract each other.
    bodies = [[0.0, 0.0, 0.0, 0.1, 10.0], [5.0, 0.0, 1.2, 0.0, 1.0], [-7.0, 1.0, 0.0, -1.1, 0.5]]
    for _ in range(5_000):
        for one in bodies:
            for other in bodies:
                if one is not other:
                    dx, dy = other[0] - one[0], other[1] - one[1]
                    pull = 0.001 * other[4] / ((dx * dx + dy * dy + 0.01) ** 1.5)
                    one[2] += dx * pull
                    one[3] += dy * pull
        for body in bodies:
            body[0] += 0.001 * body[2]
            body[1] += 0.001 * body[3]
    return bodies[0][0]


def permutations():
    # How often the front of a permutation must be turned over until its first is 0, at most.
    def arrange(rest, done):
        if not rest:
            return flips(done)
        return max(arrange(rest[:at] + rest[at + 1 :], done + [rest[at]]) for at in range(len(rest)))

    def flips(order):
        count = 0
        while first := order[0]:
            order[: first + 1] = order[first::-1]
            count += 1
        return count

    return arrange(list(range(7)), [])


class Tree:
    __slots__ = ("key", "left", "right")

    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        node = self
        while True:
            side = "left" if key < node.key else "right"
            below = getattr(node, side)
            if below is None:
                setattr(node, side, Tree(key))
                return
            node = below

    def __iter__(self):
        if self.left:
            yield from self.left
        yield self.key
        if self.right:
            yield from self.right


def objects():
    tree = Tree(1 << 30)
    for number in numbers(4_000):
        tree.insert(number)
    return sum(tree)


def calls():
    def ackermann_like(depth, width):
        return 1 if depth == 0 else sum(ackermann_like(depth - 1, width) for _ in range(width))

    def paths(right, down):
        return 1 if right == 0 or down == 0 else paths(right - 1, down) + paths(right, down - 1)

    return ackermann_like(5, 5) + paths(9, 9)


def sorting():
    values = list(numbers(40_000))
    values.sort()
    values.sort(key=lambda value: value % 1000)
    return values[0]


def patterns():
    text = "on 2024-05-17 mail to someone.else@example.org, 3 files: a.txt b.csv c9.tar.gz; " * 400
    return len(re.findall(r"\b\d{4}-\d{2}-\d{2}\b|[\w.]+@\w+\.\w+|\w+(?:\.\w+)+", text))


def big_numbers():
    for _ in range(10):
        product = 1
        for number in range(2, 1_500):
            product *= number
    return len(str(product)) + pow(3, product % 10_000_019, 10_000_019) + (3**9_000 // 7**2_000) % 1000


def exceptions():
    caught = 0
    for number in range(60_000):
        try:
            if number % 3 == 0:
                raise KeyError(number)
        except LookupError:
            caught += 1
    return caught


def best(name, times):
    """Milliseconds of the fastest of so many runs: whatever else the machine does only adds."""
    program = globals()[name]
    fastest = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        program()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest * 1000
