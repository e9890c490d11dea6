"""Records that no run of this version has left: of somebody who attacks, of a newer version, or damaged."""

import json
import os


def said(**changes):
    """A record with these values, as text."""
    record = {
        "command": "train", "status": "done", "started": "2025-01-01T00:00:00Z", "seed": 1, "python": "3",
        "versions": {}, "settings": {"seed": 1}, "metrics": {"monitor": "val/acc", "best": {"val/acc": 0.5}},
    }  # fmt: skip
    return json.dumps(record | changes)


def text(content):
    return lambda file: file.write_bytes(content if isinstance(content, bytes) else content.encode())


def sparse(file):
    file.touch()
    os.truncate(file, 100 * 2**30)


UNREADABLE = {
    "nothing": text(""),
    "half of it": text(said()[:80]),
    "a list": text("[1]"),
    "null": text("null"),
    "another kind of value": text(said(seed="many")),
    "a list for a word": text(said(status=["done"])),
    "a word for a list": text(said(resumed="often")),
    "no time": text(said(started="then")),
    "a time without a zone": text(said(started="2025-01-01T00:00:00")),
    "a status of a newer version": text(said(status="paused")),
    "a key of a newer version": text(said(version=2)),
    "a huge number": text(said(seed=10**200)),
    "a huge number in the settings": text(said(settings={"optimizer": [{"lr": -(10**4000)}]})),
    "a huge number of epochs": text(said(metrics={"best_epoch": 10**308})),
    "more digits than Python reads": text(said().replace('"seed": 1,', f'"seed": {"9" * 10_000},', 1)),
    "lists in lists": text(said()[:-1] + ', "settings": {"x": ' + "[" * 100_000 + "]" * 100_000 + "}}"),
    "a path out of the folder": text(said(checkpoints={"best": "../../x.ckpt"})),
    "no UTF-8": text(b'{"command": "\xff\xfe"}'),
    "control characters": text(said(status="\x1b[2J\r\nforged: line\x00")),
    "half of a surrogate": text(said().replace("train", "\\ud800")),
    "100 GB of nothing": sparse,
    "a folder": os.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
}

NESTED = ["x"]
for _ in range(150):
    NESTED = [NESTED]

LOWEST = {"epoch": -5, "step": -(10**100), "metrics": {"val/acc": -1e308}}

READABLE = {
    "nested settings": text(said(settings={"x": NESTED})),
    "other shapes of settings": text(said(settings={"checkpoint": {"mode": ["max"]}, "paths": [1], "data": 3})),
    "the largest float": text(said(metrics={"monitor": "val/acc", "best": {"val/acc": 1.7e308}})),
    "the end of time": text(said(started="9999-12-31T23:59:59-23:59")),
    "the beginning of time": text(said(started="0001-01-01T00:00:00+23:59")),
    "times below zero": text(said(training_seconds=-1e300)),
    "epochs below zero": text(said(metrics={"best_epoch": -(10**100), "validations": [LOWEST]})),
    "what Matplotlib takes for formulas": text(said(settings={"$\\bar$": "$\\frac{$"})),
    "names of control characters": text(said(settings={"\x1b[2J\n": "\x1b[31m\r"})),
}
"""They are odd, and there."""
