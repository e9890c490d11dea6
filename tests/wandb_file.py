"""What an offline run of W&B's has on the disk, in W&B's own records."""

import json
import struct

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
"""Bytes of a block of LevelDB's log format, in which W&B keeps its records."""


def records(file):
    """The records in a .wandb file, by LevelDB's log format: pieces of them in blocks, each behind 7 bytes."""
    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:  # too little is left for another piece
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


class OfflineRun:
    """A run's offline files, read together."""

    def __init__(self, folder):
        self.files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
        self.ids, self.history, self.config, self.exit_codes = set(), [], {}, []
        for record in (record for file in self.files for record in records(file)):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.ids.add(record.run.run_id)
            elif kind == "config":
                self.config |= {item.key or ".".join(item.nested_key): item.value_json for item in record.config.update}
            elif kind == "history":
                items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
                self.history.append({key: json.loads(value) for key, value in items.items()})
            elif kind == "exit":
                self.exit_codes.append(record.exit.exit_code)

    def steps(self, name):
        """The steps at which a metric was sent, in order."""
        return [row["trainer/global_step"] for row in self.history if name in row]
